"""A missing or taken accelerator is named, and not taken for damaged files."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from cover_jax import errors, main
from cover_jax.checkpoint import integrity
from cover_jax.parallel import backend
from data_pipelines import environment

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run"


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (AssertionError(), "no reason given", "there are none on this machine"),
        (
            RuntimeError("Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid 7."
            " (set JAX_PLATFORMS='' to automatically choose an available backend)"),
            "in use by process with pid 7", "another process uses them",
        ),
        (RuntimeError("INTERNAL: RESOURCE_EXHAUSTED: 80 GiB"), "RESOURCE_EXHAUSTED: 80 GiB", "their memory is taken"),
    ],
    ids=["missing", "busy", "memory"],
)  # fmt: skip
def test_the_reason_and_what_would_be_right_are_one_line(monkeypatch, error, said, remedy):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(backend.BackendError) as raised:
        backend.start()
    message = str(raised.value)
    assert message.startswith("JAX_PLATFORMS=cpu: ") and said in message and remedy in message
    assert "\n" not in message and "automatically choose" not in message


def test_checkpoints_are_not_blamed_for_a_missing_backend():
    command = [sys.executable, "-m", "cover_jax.checkpoint", "verify", f"--workdir={GOLDEN / 'run'}"]
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == errors.CONFIG, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS=cuda: JAX cannot use these devices")


def test_a_machine_without_a_tpu_has_nothing_to_say_about_tpus():
    if importlib.util.find_spec("libtpu") is None or environment.defaults() == environment.TENSORFLOW_DEFAULTS:
        pytest.skip("there is no libtpu, or there is a TPU")
    code = "from data_pipelines import environment as e; e.set_tensorflow_defaults(); import jax; print(jax.devices())"
    cleared = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_PLATFORMS"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=cleared, timeout=300)
    assert (done.returncode, done.stderr) == (0, "") and "CpuDevice" in done.stdout


OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment: ..."


def test_a_device_without_enough_memory_ends_a_run_with_what_to_change(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(main.process, "end_all_hosts", lambda code, cause: ended.append((code, cause)))
    main._end(jax.errors.JaxRuntimeError(OUT_OF_MEMORY))
    [(code, line)] = ended
    assert code == errors.CONFIG and code not in errors.START_AGAIN
    assert "allocate 17179869184 bytes" in line and "batch_size" in line and "remat" in line and "mesh" in line
    assert "\n" not in line and "Traceback" not in capsys.readouterr().err


def test_it_is_not_taken_for_damage_and_other_errors_not_for_it():
    error = jax.errors.JaxRuntimeError(OUT_OF_MEMORY)
    assert backend.describe_out_of_memory(error) and not integrity.is_damage(error)
    for other in (
        ValueError(OUT_OF_MEMORY),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: message larger than 4 MB"),
    ):
        assert not backend.describe_out_of_memory(other)
