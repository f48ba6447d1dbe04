"""The full-size config on two processes: rehearsed, preempted, trained, evaluated, reported, exported, fine-tuned."""

import pathlib
import re
import signal

import pytest

from cover_jax import errors
from cover_jax.export import __main__ as export
from cover_jax.report import __main__ as report
from data_pipelines.prepare import __main__ as prepare
from tests.flagship import commands, miniature
from tests.helpers import jobs

pytestmark = pytest.mark.slow

COVER_L = {"k400": 400, **commands.OTHERS}


@pytest.fixture(scope="module")
def cover_l(tmp_path_factory, data_dir) -> pathlib.Path:
    """The workdir of cover_l.py, trained on two processes; the first one got SIGTERM on the way."""
    folder = tmp_path_factory.mktemp("cover_l")
    workdir = folder / "work" / "run"
    workdir.parent.mkdir()
    arguments = commands.flags("cover_l.py", tuple(COVER_L), workdir, data_dir)
    commands.assert_ready(commands.run([*arguments, "--mode=rehearse"], folder / "rehearsed", hosts=2), workdir)
    with commands.begin(arguments, folder / "begun", hosts=2) as job:
        job.until_printed("compiling")
        job.processes[0].send_signal(signal.SIGTERM)
        assert job.codes() == [errors.PREEMPTED] * 2, job.all_printed()
    assert 0 < max(jobs.saved_steps(workdir)) < commands.STEPS
    printed = commands.run(arguments, folder / "ended", hosts=2)
    assert "continuing from" in printed
    commands.assert_evaluated(printed, COVER_L)
    return workdir


def test_cover_l_is_evaluated_reported_and_exported(cover_l, data_dir, tmp_path):
    """By one process of eight devices, as the checkpoint does not depend on the number of hosts."""
    arguments = [*commands.flags("cover_l.py", tuple(COVER_L), cover_l, data_dir), "--mode=evaluate"]
    commands.assert_evaluated(commands.run(arguments, tmp_path / "evaluated"), COVER_L)
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
        f"--data_dir={tmp_path / 'data'}", f"--config.model.variant={commands.VARIANT}",
        f"--config.model.init_from={cover_l}@best", "--config.steps=2",
        f"--config.datasets.own.batch_size={commands.BATCH}",
    ]  # fmt: skip
    printed = commands.run(arguments, tmp_path / "trained")
    assert "step 2/2" in printed and re.search(r"^own +2 +2 ", printed, re.MULTILINE), printed
