"""Damage in a checkpoint is never taken for training: it is noticed, named, kept, and the one before is used."""

import copy
import gc
import itertools
import pathlib
import random
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import NamedSharding, PartitionSpec

from configs import common
from cover_jax import errors
from cover_jax.checkpoint import __main__ as checkpoint
from cover_jax.checkpoint import integrity, layout, restore, saver
from cover_jax.parallel import sharding
from cover_jax.training.train_step import TrainState
from tests.checkpoint.test_checkpoint import META

# After one array cannot be read, asyncio complains of those that were still under way.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

STEPS = (1, 2)
FLIPS = 200
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # begins each compressed array: RFC 8878, section 3.1.1


@pytest.fixture(autouse=True)
def complaints_come_now():
    """And not when pytest ends, where nothing ignores them."""
    yield
    gc.collect()


def make_state(step: int) -> TrainState:
    """A state like that of a model, in small: sharded and whole leaves, an average, optimizer state in a tuple."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    rng = np.random.default_rng(step)

    def put(shape, *spec):
        array = rng.normal(size=shape).astype(np.float32)
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    def params():
        return {"backbone": {"kernel": put((48, 64), "fsdp"), "bias": put((64,))}, "heads": {"a": put((64, 10))}}

    count = lambda value: jax.device_put(np.int32(value), NamedSharding(mesh, PartitionSpec()))  # noqa: E731
    return TrainState(count(step), params(), ({"trace": params()}, count(step)), params(), count(0), count(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[pathlib.Path, dict[int, TrainState]]:
    """(workdir with two checkpoints, step -> what was saved)."""
    workdir = tmp_path_factory.mktemp("saved")
    states = {step: make_state(step) for step in STEPS}
    config = common.get_config()
    config.optimizer.ema_decay = 0.9
    with saver.open_manager(str(workdir), 2, "mean_top1", 60) as manager:
        for step, state in states.items():
            meta = META | {"config": config.to_dict()}
            saver.start_save(manager, state, meta, {"mean_top1": step / 10})
    return workdir, {step: jax.device_get(state) for step, state in states.items()}


def files(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Of the newest checkpoint, relative to the workdir."""
    newest = workdir / "checkpoints" / str(STEPS[-1])
    return sorted(path.relative_to(workdir) for path in newest.rglob("*") if path.is_file())


def restore_saved(workdir: pathlib.Path, set_aside: bool = True):
    like = make_state(0)
    like = sharding.abstract(like, jax.tree.map(lambda x: x.sharding, like))
    meta = copy.deepcopy(META) | {"config": common.get_config().to_dict()}
    state, _ = restore.restore_newest(str(workdir), lambda saved: like, meta, set_aside)
    return jax.device_get(state)


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other))


def assert_nothing_is_silently_wrong(saved, workdir, capsys) -> bool:
    """Training, and whatever takes the model alone, get what was saved at one of the steps; whether damage was said."""
    states = saved[1]
    loaded = restore.load_trained(str(workdir))
    said = capsys.readouterr().err
    assert same(loaded.params, states[loaded.step].ema)
    assert (loaded.step == STEPS[-1]) == ("damaged" not in said)
    found = restore_saved(workdir)
    said = capsys.readouterr().out
    noticed = "is damaged, set aside as" in said
    assert same(found, states[STEPS[0] if noticed else STEPS[-1]])
    assert noticed == (workdir / "damaged" / str(STEPS[-1])).exists()
    assert int(found.step) in layout.saved_steps(str(workdir))
    saver.open_manager(str(workdir), 2, "mean_top1", 60).close()
    return noticed


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_file_that_is_missing_or_short_is_never_trained_on(saved, tmp_path, capsys, how):
    noticed = {}
    for number, file in enumerate(files(saved[0])):
        workdir = tmp_path / str(number)
        shutil.copytree(saved[0], workdir)
        if how == "deleted":
            (workdir / file).unlink()
        else:
            (workdir / file).write_bytes((workdir / file).read_bytes()[: (workdir / file).stat().st_size // 2])
        noticed[str(file)] = assert_nothing_is_silently_wrong(saved, workdir, capsys)
    # What is left of orbax's own book-keeping is not needed to read a checkpoint.
    needed = re.compile(r"meta/metadata|metrics/metrics|state/_METADATA|state/manifest|state/d/")
    assert all(noticed[file] for file in noticed if needed.search(file)), noticed


@pytest.mark.slow
def test_no_flipped_bit_is_ever_trained_on(saved, tmp_path, capsys):
    rng, noticed = random.Random(0), 0
    choices = files(saved[0])
    sizes = [(saved[0] / file).stat().st_size for file in choices]
    for number in range(FLIPS):
        workdir = tmp_path / str(number)
        shutil.copytree(saved[0], workdir)
        # Half of them anywhere, half of them in any file: most of the bytes are in few files.
        (file,) = rng.choices(choices, sizes if number % 2 else None)
        content = bytearray((workdir / file).read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        (workdir / file).write_bytes(content)
        noticed += assert_nothing_is_silently_wrong(saved, workdir, capsys)
        shutil.rmtree(workdir)
    assert noticed > FLIPS // 3


def test_a_sharding_of_no_known_kind_is_damage(saved, tmp_path, capsys):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / str(STEPS[-1]) / "state" / "_sharding"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"NamedSharding", b"NamedShar$ing"))
    assert path.read_bytes() != content
    assert_nothing_is_silently_wrong(saved, tmp_path, capsys)


def flip_a_parameter(workdir: pathlib.Path, step: int) -> None:
    """In the largest array of the largest file. A bit between arrays would be noticed by the decompression alone."""
    largest = max((workdir / "checkpoints" / str(step)).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    starts = [found.start() for found in re.finditer(re.escape(ZSTD_MAGIC), content)]
    start, end = max(itertools.pairwise(starts), key=lambda span: span[1] - span[0])
    content[(start + end) // 2] ^= 16
    largest.write_bytes(content)


def test_whoever_does_not_hold_the_workdir_moves_nothing(saved, tmp_path, capsys):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    flip_a_parameter(tmp_path, 2)
    assert same(restore_saved(tmp_path, set_aside=False), saved[1][1])
    assert "checkpoints/2 is damaged, skipped" in capsys.readouterr().out
    assert layout.saved_steps(str(tmp_path)) == [1, 2]


def test_nothing_begins_anew_where_all_checkpoints_are_damaged(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    for step in STEPS:
        flip_a_parameter(tmp_path, step)
    for _ in range(2):  # the second time they are set aside already
        message = "all checkpoints are damaged, so the run cannot continue"
        with pytest.raises(restore.CheckpointDamagedError, match=message):
            restore_saved(tmp_path)
        with pytest.raises(restore.CheckpointDamagedError):
            restore.load_trained(str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["1", "2"]


def test_what_is_set_aside_twice_replaces_nothing(saved, tmp_path):
    for expected in ("2", "2.1"):
        shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
        assert integrity.set_aside(tmp_path / "checkpoints" / "2", str(tmp_path)) == tmp_path / "damaged" / expected


def test_verify_names_what_is_damaged_and_its_code_says_so(saved, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(saved[0], workdir)
    checkpoint.main(["verify", str(workdir)])
    leaves = len(jax.tree.leaves(saved[1][1]))
    assert capsys.readouterr().out.count(f": sound, all {leaves} leaves") == 2
    flip_a_parameter(workdir, 2)
    done = subprocess.run(
        [sys.executable, "-m", "cover_jax.checkpoint", "verify", workdir], capture_output=True, text=True
    )
    assert done.returncode == errors.DAMAGED, done.stderr
    assert re.search(r"checkpoints/1: sound.*\n.*checkpoints/2: .*/kernel.*: not what was saved", done.stdout)


def test_storage_that_does_not_answer_is_no_damage(saved, tmp_path, monkeypatch):
    aborted = tf.errors.AbortedError(None, None, "All 10 retry attempts failed")  # as a bucket that does not answer
    for error in (PermissionError("no"), OSError(5, "I/O error"), ValueError("UNAVAILABLE: 503"), aborted):
        assert not integrity.is_damage(error)
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    loop = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    loop.unlink()
    loop.symlink_to(loop)  # reading it is an OSError: too many levels of symbolic links
    with pytest.raises(OSError, match="symbolic links"):
        restore_saved(tmp_path)
    assert layout.saved_steps(str(tmp_path)) == [1, 2]


def test_checkpoints_of_earlier_versions_are_used_and_that_is_said(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(integrity, "seal", lambda meta, accuracies: {k: meta[k] for k in META})
    with saver.open_manager(str(tmp_path), 2, "mean_top1", 60) as manager:
        saver.start_save(manager, make_state(1), META | {"config": common.get_config().to_dict()}, None)
    assert same(restore_saved(tmp_path), saved[1][1])
    assert "without fingerprints: damage cannot be detected" in capsys.readouterr().out
    checkpoint.main(["verify", str(tmp_path)])
    assert "saved by an earlier version" in capsys.readouterr().out
