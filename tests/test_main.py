"""The command as a user runs it: from data to checkpoint, killed and continued, on real clips, and its errors."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from cover_jax import errors
from cover_jax.report import __main__ as report
from cover_jax.training import progress
from data_pipelines.prepare import __main__ as prepare
from tests.helpers import browser
from tests.helpers.jobs import saved_steps

STEPS = 12
SMALL = [
    f"--config.steps={STEPS}", "--config.checkpoint_every_steps=2", "--config.eval_every_steps=6",
    "--config.log_every_steps=3", "--config.optimizer.warmup_steps=2", "--config.plan=joint",
]  # fmt: skip


def command(config: str, workdir: pathlib.Path, data_dir: pathlib.Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "cover_jax.main", f"--config=configs/{config}", f"--workdir={workdir}",
        f"--config.data_dir={data_dir}", *flags,
    ]  # fmt: skip


def run(*args, check: bool = True) -> str:
    """Runs the command to its end; returns what it printed."""
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=400)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def saved_state(workdir: pathlib.Path) -> dict:
    manager = ocp.CheckpointManager(workdir / "checkpoints")
    assert manager.latest_step() == STEPS
    state = manager.restore(STEPS, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
    manager.close()
    return jax.device_get(state)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits_dir):
    """A finished run: its folder and what it printed."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run("demo.py", workdir, digits_dir, *SMALL)


@pytest.mark.slow
def test_the_demo_trains_evaluates_and_says_so(undisturbed):
    workdir, printed = undisturbed
    assert f"step {STEPS}/{STEPS}" in printed
    for name in ("appearance", "images", "motion"):
        assert re.search(rf"{name} loss \d\.\d+ top-1", printed)
        assert re.search(rf"^{name} +\d+ +\d+ ", printed, re.MULTILINE)
    assert "clips/s" in printed and "input wait" in printed
    for name in ("config.json", "versions.json", "parameters.txt", "tensorboard"):
        assert (workdir / name).exists(), name


@pytest.mark.slow
def test_killed_and_continued_ends_bit_for_bit_the_same(undisturbed, digits_dir, tmp_path):
    process = subprocess.Popen(
        command("demo.py", tmp_path, digits_dir, *SMALL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while max(saved_steps(tmp_path), default=0) < 4:
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    printed = run("demo.py", tmp_path, digits_dir, *SMALL, "--config.compare_with=/gone")  # it holds nothing up
    assert "continuing from" in printed and "WARNING: config.compare_with='/gone': has no predictions/" in printed
    assert "appearance is not compared: /gone has no predictions/appearance.npz" in printed
    jax.tree.map(np.testing.assert_array_equal, saved_state(tmp_path), saved_state(undisturbed[0]))


@pytest.mark.slow
def test_evaluating_alone_gives_the_same_table(undisturbed, digits_dir):
    workdir, printed = undisturbed
    alone = run("demo.py", workdir, digits_dir, *SMALL, "--mode=evaluate", f"--config.compare_with={workdir}")
    rows = re.findall(r"^(?:appearance|images|motion) +\d+ +\d+ .*% +[\d.]+$", alone, re.MULTILINE)
    assert len(rows) == 3
    assert all(row in printed for row in rows)
    percent = r"([\d.]+ ± [\d.]+%)"
    compared = re.findall(rf"^\w+ +\d+ +\d+ +{percent} +\d+ +{percent} +\+0.0 ± 0.0$", alone, re.MULTILINE)
    assert [there == here for there, here in compared] == [True] * 3


@pytest.mark.slow
def test_its_report_tells_the_same(undisturbed, tmp_path):
    workdir, printed = undisturbed
    out = tmp_path / "page.html"
    report.main([f"--workdir={workdir}", f"--out={out}"])
    page = out.read_text()
    rows = re.findall(r"^(\w+) +\d+ +(\d+) +[\d.]+% +([\d.]+) (± [\d.]+%) .*% +[\d.]+$", printed, re.MULTILINE)[-3:]
    assert len(rows) == 3
    for name, examples, top1, error in rows:
        shown = f"{top1} <small>{error}</small>"
        assert f'<b>{name}</b><p class="value">{shown}</p>top-1 of {examples} examples' in page
    assert page.count("<img") == 3 * 18 and page.count("No pictures") == 0
    assert page.count('class="chart"') >= 3 * 2 + 5
    seen = browser.look(page, "light")
    assert [one["overflow_px"] for one in seen] == [0, 0] and not any(one["undecoded"] for one in seen)


@pytest.mark.slow
def test_another_seed_in_the_same_workdir_is_refused(undisturbed, digits_dir):
    printed = run("demo.py", undisturbed[0], digits_dir, *SMALL, "--config.seed=1", check=False)
    assert "config.seed: 0 in the checkpoint, 1 now" in printed


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        ("demo.py", ["--config.steps=0"], "config.steps=0: must be greater than 0"),
        ("demo.py", ["--config.optimizer.learning_rat=1"], "learning_rate"),
        (
            "cover_b.py",
            [],
            "datasets 'imagenet2012', 'kinetics/400', 'moments_in_time/305', 'something_something/v2' are",
        ),
        ("demo.py", ["--distributed"], "error: --distributed: JAX finds no other hosts: this is no TPU slice"),
        ("folders.py:video_folder/mine", [], "python -m data_pipelines.prepare video_folder --name=mine --source="),
        ("demo.py", ["--config.steps=abc"], "abc"),
        ("demo.py", ["--config.compare_with=/nowhere"], "config.compare_with='/nowhere': has no predictions/appear"),
        ("common.py:few", [], "error: --config=configs/common.py:few: takes no argument after its name"),
        ("demo.py:motions", [], "configs/demo.py:motions: 'motions' must be one of appearance, motion, images"),
        ("demo.py", ["--mode=trian"], "trian"),
        ("demo.py", ["--wrokdir=1"], "wrokdir"),
        ("nothing.py", [], "nothing.py"),
    ],
)
def test_errors_come_within_ten_seconds_and_last(tmp_path, config, flags, message):
    start = time.monotonic()
    done = subprocess.run(command(config, tmp_path, tmp_path, *flags), capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 10
    said = re.search(r"^error: .*\Z", done.stderr, re.MULTILINE | re.DOTALL)
    assert done.returncode == errors.CONFIG and said and message in said.group(), done.stderr
    assert "Traceback" not in done.stderr


def test_a_first_start_that_was_not_written_whole_is_written_anew(tmp_path):
    workdir = epath.Path(tmp_path)
    (workdir / "first_start.json").write_text("")
    start = progress.first_start_s(workdir)
    assert time.time() - start < 60 and progress.first_start_s(workdir) == start


@pytest.mark.slow
def test_real_clips_are_prepared_trained_evaluated_and_resumed(real_data, tmp_path):
    """UCF101 by pattern, ARID by two lists, CIFAR-10 by folders; a few files of each."""
    _copy_some(real_data / "ucf101", tmp_path / "ucf101", r"_g0[78]_c01")
    _copy_some(real_data / "cifar10", tmp_path / "cifar10", r"/00[01]")
    _copy_listed(real_data / "arid", tmp_path / "arid", every=12)
    data_dir = f"--data_dir={tmp_path}"
    prepare.main(["video_folder", "--name=ucf101", f"--source={tmp_path / 'ucf101'}", data_dir,
                  "--validation_pattern=_g07_", "--short_side_px=64"])  # fmt: skip
    prepare.main(["image_folder", "--name=cifar10", f"--source={tmp_path / 'cifar10'}", data_dir,
                  "--validation_folder=test"])  # fmt: skip
    prepare.main(["video_folder", "--name=arid", f"--source={tmp_path / 'arid'}", data_dir, "--short_side_px=64",
                  "--validation_folder=validate", "--train_list=train.txt", "--validation_list=validate.txt",
                  "--list_columns=index,label,path", "--class_names=mapping_table_24.txt"])  # fmt: skip
    config = "folders.py:video_folder/ucf101,video_folder/arid,image_folder/cifar10"
    flags = ["--config.model.variant=mu/16", "--config.model.size_px=32", "--config.optimizer.warmup_steps=1",
             "--config.checkpoint_every_steps=2", "--config.plan=joint"]  # fmt: skip
    first = run(config, tmp_path / "work", tmp_path, *flags, "--config.steps=2")
    again = run(config, tmp_path / "work", tmp_path, *flags, "--config.steps=4")
    assert "validation after 2 steps" in first and "validation after 4 steps" in again
    for name, classes, examples in (("ucf101", 5, 5), ("arid", 6, 8), ("cifar10", 10, 200)):
        assert re.search(rf"^{name} +{classes} +{examples} ", again, re.MULTILINE), name


@pytest.mark.slow
def test_a_dataset_is_added_as_another_head_in_one_command(real_data, tmp_path):
    """The head that was there says of a clip what it said before."""
    _copy_some(real_data / "ucf101", tmp_path / "ucf101", r"_g0[78]_c01")
    _copy_some(real_data / "cifar10", tmp_path / "cifar10", r"/00[01]")
    data_dir = f"--data_dir={tmp_path}"
    prepare.main(["video_folder", "--name=ucf101", f"--source={tmp_path / 'ucf101'}", data_dir,
                  "--validation_pattern=_g07_", "--short_side_px=64"])  # fmt: skip
    prepare.main(["image_folder", "--name=cifar10", f"--source={tmp_path / 'cifar10'}", data_dir,
                  "--validation_folder=test"])  # fmt: skip
    flags = ["--config.model.variant=mu/16", "--config.model.size_px=32", "--config.optimizer.warmup_steps=1",
             "--config.steps=2"]  # fmt: skip
    run("folders.py:video_folder/ucf101", tmp_path / "mine", tmp_path, *flags)
    printed = run("folders.py:image_folder/cifar10", tmp_path / "more", tmp_path, *flags,
                  f"--config.model.init_from={tmp_path / 'mine'}@best", "--config.model.keep_heads=True",
                  "--config.optimizer.frozen=backbone/.*")  # fmt: skip
    assert "ucf101: a head that is kept but not trained, 5 classes" in printed
    clip = str(next((tmp_path / "ucf101").rglob("*.mp4")))
    before, after = (_predicted(tmp_path / workdir, clip) for workdir in ("mine", "more"))
    assert set(after) == {"ucf101", "cifar10"}
    assert after["ucf101"] == before["ucf101"]


def _predicted(workdir: pathlib.Path, clip: str) -> dict:
    """What each head says of a clip."""
    command = [sys.executable, "-m", "cover_jax.predict", f"--checkpoint={workdir}", "--format=json", clip]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[clip]


def _copy_some(source: pathlib.Path, target: pathlib.Path, pattern: str) -> None:
    for path in sorted(source.rglob("*.*")):
        if re.search(pattern, str(path)):
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))


def _copy_listed(source: pathlib.Path, target: pathlib.Path, every: int) -> None:
    """Each `every`-th line of ARID's two lists with its file, and the table of class names."""
    target.mkdir()
    shutil.copyfile(source / "mapping_table_24.txt", target / "mapping_table_24.txt")
    for folder in ("train", "validate"):
        lines = (source / f"{folder}.txt").read_text().splitlines(keepends=True)[::every]
        (target / f"{folder}.txt").write_text("".join(lines))
        for path in (pathlib.Path(folder, line.split()[2]) for line in lines):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)
