"""The full-size configs as a researcher runs them, in miniature: from publishers' files to a fine-tuned model.

Every dataset has its real classes. Only the model's variant, the weights to start from, the folder of the data, the
number of steps and the batch sizes differ from the real runs.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from cover_jax import errors
from cover_jax.export import __main__ as export
from cover_jax.report import __main__ as report
from data_pipelines.prepare import __main__ as prepare
from tests.flagship import miniature
from tests.helpers import jobs

pytestmark = pytest.mark.slow

BATCH = 8
STEPS = 4
OTHERS = {"ssv2": 174, "mit": 305, "imagenet": 1000}  # classes of the datasets beside Kinetics


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """All datasets of the full-size configs, prepared by the real commands."""
    folder = tmp_path_factory.mktemp("flagship")
    for builder, source in miniature.make_all(folder / "published").items():
        workers = [] if builder == "imagenet2012" else ["--workers=1"]  # TFDS's own builder has no such flag
        prepare.main([builder, f"--manual_dir={source}", f"--data_dir={folder / 'prepared'}", *workers])
    return folder / "prepared"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """For the commands: eight devices in all, and compiled programs that they share."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_NUM_CPU_DEVICES": "8",
        # At this size steps take longer than compilation. Level 1 is the quickest for both together.
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
        "PYTHONUNBUFFERED": "1",
    }


def flags(config: str, names: tuple[str, ...], workdir: pathlib.Path, data_dir: pathlib.Path) -> list[str]:
    """The flags of a run's command: nothing but its size differs from the real run's."""
    return [
        f"--config=configs/{config}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        "--config.model.variant=mu/32",
        "--config.model.init_from=",
        f"--config.steps={STEPS}",
        *(f"--config.datasets.{name}.{key}={BATCH}" for name in names for key in ("batch_size", "eval_batch_size")),
    ]


def run(command: list[str], environment: dict[str, str]) -> str:
    """Runs a command of the project to its end; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=jobs.TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_ready(printed: str, workdir: pathlib.Path) -> None:
    """The rehearsal found nothing that would stop the run, and left nothing behind but its JSON."""
    assert printed.rstrip().splitlines()[-1] == "ready", printed
    assert not workdir.exists()
    rehearsed = json.loads(pathlib.Path(f"{workdir}.rehearsal.json").read_text())
    assert rehearsed["ready"] and not rehearsed["problems"], rehearsed
    assert sorted(path.name for path in workdir.parent.iterdir()) == [f"{workdir.name}.rehearsal.json"]


def assert_evaluated(printed: str, classes: dict[str, int]) -> None:
    for name, number in classes.items():
        assert re.search(rf"^{name} +{number} +{miniature.VALIDATION} ", printed, re.MULTILINE), printed


@pytest.mark.parametrize(
    ("config", "classes", "modes"),
    [
        pytest.param("cover_l.py:stage1,k600", {"k600": 600, **OTHERS}, ("rehearse",), marks=pytest.mark.full_size),
        pytest.param("cover_l.py:stage1,k700", {"k700": 700, **OTHERS}, ("train",), marks=pytest.mark.full_size),
        ("cover_b.py", {"k400": 400, **OTHERS}, ("rehearse", "train")),
        ("ablations.py:k400_ssv2,stage1", {"k400": 400, "ssv2": 174}, ("train",)),
        ("ablations.py:ssv2,stage1", {"ssv2": 174}, ("rehearse",)),
    ],
)
def test_a_config_is_rehearsed_and_trains(tmp_path, data_dir, environment, config, classes, modes):
    """A rehearsal goes through all that training does; not every config is put through both."""
    workdir = tmp_path / "run"
    command = ["cover_jax.main", *flags(config, tuple(classes), workdir, data_dir)]
    if "rehearse" in modes:
        assert_ready(run([*command, "--mode=rehearse"], environment), workdir)
    if "train" in modes:
        printed = run(command, environment)
        assert f"step {STEPS}/{STEPS}" in printed
        assert_evaluated(printed, classes)


COVER_L = {"k400": 400, **OTHERS}


@contextlib.contextmanager
def two_processes(environment: dict[str, str], folder: pathlib.Path, arguments: list[str]):
    """Runs the command on two processes of four devices."""
    folder.mkdir()
    reserved, address = jobs.reserve_address()
    together = [f"--coordinator={address}", "--num_processes=2"]
    commands = [["{}", *arguments, *together, f"--process_id={host}"] for host in range(2)]
    of_host = environment | {"JAX_NUM_CPU_DEVICES": "4", "JAX_COORDINATOR_BIND_ADDRESS": address}
    job = jobs.Job(commands, [of_host] * 2, folder)
    try:
        yield job
    finally:
        job.kill()
        reserved.close()


@pytest.fixture(scope="module")
def cover_l(tmp_path_factory, data_dir, environment) -> pathlib.Path:
    """The workdir of cover_l.py, trained on two processes; the first one got SIGTERM on the way."""
    folder = tmp_path_factory.mktemp("cover_l")
    workdir = folder / "work" / "run"
    workdir.parent.mkdir()
    arguments = flags("cover_l.py", tuple(COVER_L), workdir, data_dir)
    with two_processes(environment, folder / "rehearsal", [*arguments, "--mode=rehearse"]) as job:
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
        assert_ready(job.printed(), workdir)
    with two_processes(environment, folder / "begun", arguments) as job:
        job.until_printed("compiling")
        job.processes[0].send_signal(signal.SIGTERM)
        assert job.codes() == [errors.PREEMPTED] * 2, job.all_printed()
    assert 0 < max(jobs.saved_steps(workdir)) < STEPS
    with two_processes(environment, folder / "ended", arguments) as job:
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
        assert "continuing from" in job.printed()
        assert_evaluated(job.printed(), COVER_L)
    return workdir


@pytest.mark.full_size
def test_cover_l_is_evaluated_reported_and_exported(cover_l, data_dir, environment, tmp_path):
    """By one process of eight devices, as the checkpoint does not depend on the number of hosts."""
    command = ["cover_jax.main", *flags("cover_l.py", tuple(COVER_L), cover_l, data_dir), "--mode=evaluate"]
    assert_evaluated(run(command, environment), COVER_L)
    report.main([f"--workdir={cover_l}", f"--out={tmp_path / 'report.html'}"])
    assert (tmp_path / "report.html").stat().st_size < 3 << 20
    out = tmp_path / "exported"
    export.main([f"--workdir={cover_l}", "--head=ssv2", "--format=jax", f"--out={out}"])
    assert out.exists()


@pytest.mark.full_size
def test_cover_l_is_fine_tuned(cover_l, environment, tmp_path):
    source = tmp_path / "clips"
    for name in ("pour", "shake"):
        for i in range(5):  # each of its own: copies of validation clips are left out of training
            miniature.link_scenes([source / name / f"{i}.mp4"], f"own {name} {i}")
    own = ["--name=own", f"--source={source}", "--validation_share=0.2", f"--data_dir={tmp_path / 'data'}"]
    prepare.main(["video_folder", *own])
    command = [
        "cover_jax.main", "--config=configs/finetune.py:video_folder/own", f"--workdir={tmp_path / 'tuned'}",
        f"--data_dir={tmp_path / 'data'}", "--config.model.variant=mu/32", f"--config.model.init_from={cover_l}@best",
        "--config.steps=2", f"--config.datasets.own.batch_size={BATCH}",
    ]  # fmt: skip
    printed = run(command, environment)
    assert "step 2/2" in printed and re.search(r"^own +2 +2 ", printed, re.MULTILINE), printed
