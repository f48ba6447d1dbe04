"""A missing or taken accelerator is named, and not taken for damaged files."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from cover_jax import errors
from cover_jax.parallel import backend

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
