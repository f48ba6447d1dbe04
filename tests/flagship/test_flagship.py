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
from collections.abc import Iterator

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
# At this size the steps take more than level 0 saves in compilation. Of two flags the last one counts.
XLA_FLAGS = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"
VARIANT = "mu/112"  # 16 patches of 448 px, 4 of 224 px
OTHERS = {"ssv2": 174, "mit": 305, "imagenet": 1000}  # classes of the datasets beside Kinetics


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """All datasets of the full-size configs, prepared by the real commands."""
    folder = tmp_path_factory.mktemp("flagship")
    for builder, source in miniature.make_all(folder / "published").items():
        workers = [] if builder == "imagenet2012" else ["--workers=1"]  # TFDS's own builder has no such flag
        prepare.main([builder, f"--manual_dir={source}", f"--data_dir={folder / 'prepared'}", *workers])
    return folder / "prepared"


def flags(config: str, names: tuple[str, ...], workdir: pathlib.Path, data_dir: pathlib.Path) -> list[str]:
    """The flags of a run's command: nothing but its size differs from the real run's."""
    return [
        f"--config=configs/{config}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        f"--config.model.variant={VARIANT}",
        "--config.model.init_from=",
        f"--config.steps={STEPS}",
        *(f"--config.datasets.{name}.{key}={BATCH}" for name in names for key in ("batch_size", "eval_batch_size")),
    ]


@contextlib.contextmanager
def begin(arguments: list[str], folder: pathlib.Path, hosts: int = 1) -> Iterator[jobs.Job]:
    """Starts cover_jax.main on eight devices in all. Processes that still run at the end of the context are killed."""
    folder.mkdir()
    reserved, address = jobs.reserve_address()
    together = [f"--coordinator={address}", f"--num_processes={hosts}"] if hosts > 1 else []
    of_host = [[f"--process_id={host}"] if together else [] for host in range(hosts)]
    devices = {"JAX_NUM_CPU_DEVICES": str(8 // hosts), "JAX_COORDINATOR_BIND_ADDRESS": address}
    environment = os.environ | devices | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": XLA_FLAGS}
    orders = json.dumps({"compile_in_turn": True})  # with these programs that saves a minute of the second host
    job = jobs.Job([[orders, *arguments, *together, *own] for own in of_host], [environment] * hosts, folder)
    try:
        yield job
    finally:
        job.kill()
        reserved.close()


def run(arguments: list[str], folder: pathlib.Path, hosts: int = 1) -> str:
    """Runs cover_jax.main to its end; returns what the first process printed."""
    with begin(arguments, folder, hosts) as job:
        assert job.codes() == [errors.DONE] * hosts, job.all_printed()
    return job.printed()


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
    ("config", "classes"),
    [
        ("cover_l.py:stage1,k600", {"k600": 600, **OTHERS}),
        ("cover_b.py", {"k400": 400, **OTHERS}),
        ("ablations.py:ssv2,stage1", {"ssv2": 174}),
    ],
)
def test_a_config_is_rehearsed(tmp_path, data_dir, config, classes):
    """On eight devices. A rehearsal goes through all that training does; not every config is put through both."""
    workdir = tmp_path / "work" / "run"
    workdir.parent.mkdir()
    arguments = flags(config, tuple(classes), workdir, data_dir)
    assert_ready(run([*arguments, "--mode=rehearse"], tmp_path / "rehearsed"), workdir)


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ("cover_l.py:stage1,k700", {"k700": 700, **OTHERS}),
        ("cover_b.py", {"k400": 400, **OTHERS}),
        ("ablations.py:k400_ssv2,stage1", {"k400": 400, "ssv2": 174}),
    ],
)
def test_a_config_trains(tmp_path, data_dir, config, classes):
    """A few steps and an evaluation, on eight devices."""
    printed = run(flags(config, tuple(classes), tmp_path / "run", data_dir), tmp_path / "trained")
    assert f"step {STEPS}/{STEPS}" in printed
    assert_evaluated(printed, classes)


COVER_L = {"k400": 400, **OTHERS}


@pytest.fixture(scope="module")
def cover_l(tmp_path_factory, data_dir) -> pathlib.Path:
    """The workdir of cover_l.py, trained on two processes; the first one got SIGTERM on the way."""
    folder = tmp_path_factory.mktemp("cover_l")
    workdir = folder / "work" / "run"
    workdir.parent.mkdir()
    arguments = flags("cover_l.py", tuple(COVER_L), workdir, data_dir)
    assert_ready(run([*arguments, "--mode=rehearse"], folder / "rehearsed", hosts=2), workdir)
    with begin(arguments, folder / "begun", hosts=2) as job:
        job.until_printed("compiling")
        job.processes[0].send_signal(signal.SIGTERM)
        assert job.codes() == [errors.PREEMPTED] * 2, job.all_printed()
    assert 0 < max(jobs.saved_steps(workdir)) < STEPS
    printed = run(arguments, folder / "ended", hosts=2)
    assert "continuing from" in printed
    assert_evaluated(printed, COVER_L)
    return workdir


def test_cover_l_is_evaluated_reported_and_exported(cover_l, data_dir, tmp_path):
    """By one process of eight devices, as the checkpoint does not depend on the number of hosts."""
    arguments = [*flags("cover_l.py", tuple(COVER_L), cover_l, data_dir), "--mode=evaluate"]
    assert_evaluated(run(arguments, tmp_path / "evaluated"), COVER_L)
    report.main([f"--workdir={cover_l}", f"--out={tmp_path / 'report.html'}"])
    assert (tmp_path / "report.html").stat().st_size < 3 << 20
    out = tmp_path / "exported"
    export.main([f"--workdir={cover_l}", "--head=ssv2", "--format=jax", f"--out={out}"])
    assert out.exists()


def test_cover_l_is_fine_tuned(cover_l, tmp_path):
    source = tmp_path / "clips"
    for name in ("pour", "shake"):
        for i in range(5):  # each of its own: copies of validation clips are left out of training
            miniature.link_scenes([source / name / f"{i}.mp4"], f"own {name} {i}")
    own = ["--name=own", f"--source={source}", "--validation_share=0.2", f"--data_dir={tmp_path / 'data'}"]
    prepare.main(["video_folder", *own])
    arguments = [
        "--config=configs/finetune.py:video_folder/own", f"--workdir={tmp_path / 'tuned'}",
        f"--data_dir={tmp_path / 'data'}", f"--config.model.variant={VARIANT}",
        f"--config.model.init_from={cover_l}@best", "--config.steps=2", f"--config.datasets.own.batch_size={BATCH}",
    ]  # fmt: skip
    printed = run(arguments, tmp_path / "trained")
    assert "step 2/2" in printed and re.search(r"^own +2 +2 ", printed, re.MULTILINE), printed
