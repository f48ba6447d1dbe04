"""Storage that is full, out of inodes, read-only or not permitted when a run starts: small file systems are mounted."""

import contextlib
import os
import pathlib
import subprocess

import numpy as np
import pytest
from etils import epath

from cover_jax import errors
from cover_jax.fault_tolerance import workdir_lease
from cover_jax.training import progress
from data_pipelines import files
from data_pipelines.leaks import facts
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import build
from data_pipelines.stream import records
from tests.helpers import jobs, preloaded, tiny_config

NOBODY = 65534
STATES = ["full", "no inodes", "read-only"]


def read_only(folder: pathlib.Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


@contextlib.contextmanager
def broken(folder: pathlib.Path, state: str):
    """A mounted file system to which nothing can be written."""
    try:
        with jobs.small_disk(folder, "1m,nr_inodes=2" if state == "no inodes" else "1m"):
            if state == "no inodes":
                (folder / "last").touch()
            elif state == "full":
                (folder / "run" / "tensorboard").mkdir(parents=True)
                jobs.fill(folder)
            else:
                read_only(folder)
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture(params=STATES)
def disk(request, tmp_path):
    with broken(tmp_path / "disk", request.param) as folder:
        yield folder


def test_training_does_not_start_where_it_cannot_save(disk):
    with pytest.raises(workdir_lease.WorkdirNotWritableError) as raised, workdir_lease.hold(str(disk / "run")):
        pass
    assert raised.value.exit_code == errors.NOT_SAVED
    assert f"--workdir={disk}/run: cannot be written at the start: " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_curves_that_cannot_be_written_are_named_and_left_out(disk, capfd):
    with progress.MetricWriter(epath.Path(disk / "run"), tiny_config.get_config()) as writer:
        writer.write_scalars(1, {"a": 1.0})
        writer.write_images(1, {"a": np.zeros((1, 8, 8, 3))})
    assert f"WARNING: {disk}/run: curves of tensorboard: not written: " in capfd.readouterr().err


def test_what_is_kept_beside_the_data_is_computed_again(disk):
    facts.keep(epath.Path(disk / "facts" / "leaks.json"), bytes(10_000))
    records._save_index(epath.Path(disk / "shard"), records.ShardIndex(np.arange(5_000), None))
    assert not [path for path in disk.rglob("*") if path.name.endswith(".tmp")]


def test_a_preparation_names_the_folder_that_cannot_be_written(disk):
    """Of the command, and of a run that prepares its data at its start; TFDS's own error for a full disk does not."""
    reason = f"{disk}.*: (No space left on device|Read-only file system)"
    with pytest.raises(SystemExit, match=f"^error: {reason}$") as ended:
        prepare.main(["digits/images", f"--data_dir={disk / 'data'}"])
    assert ended.value.code == errors.FAILED
    with pytest.raises(OSError, match=r"No space left|Read-only") as raised:
        build.prepare_if_self_contained("digits/images", str(disk / "data"))
    assert raised.value.filename.startswith(str(disk))


def test_a_failed_write_leaves_nothing_and_the_file_of_before(disk):
    with pytest.raises(OSError, match=r"(No space left|Read-only).*/file\.json"):
        files.write_whole(epath.Path(disk / "file.json"), bytes(10_000))
    assert not list(disk.glob("file.json*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_workdir_of_another_user_is_the_user_s_mistake(tmp_path):
    tmp_path.chmod(0o700)
    os.seteuid(NOBODY)
    try:
        with (
            pytest.raises(errors.ConfigError, match="must be a folder that this user can write"),
            workdir_lease.hold(str(tmp_path / "run")),
        ):
            pass
        facts.keep(epath.Path(tmp_path / "facts" / "leaks.json"), b"{}")
    finally:
        os.seteuid(0)


@pytest.mark.slow
def test_evaluation_of_a_run_on_read_only_storage_prints_its_table(tmp_path):
    start = jobs.Jobs(tmp_path).start
    try:
        with jobs.small_disk(tmp_path / "disk", "60m") as folder:
            with start(folder / "run", "--config.keep_checkpoints=2") as job:
                assert job.codes() == [errors.DONE], job.printed()
            read_only(folder)
            own_cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "run" / "compilation_cache")}
            with start(folder / "run", "--mode=evaluate", env_of={0: own_cache}) as job:
                assert job.codes() == [errors.DONE], job.printed()
                assert "top-1" in job.printed() and "predictions of images: not written" in job.printed()
            with start(folder / "run", "--config.steps=99") as job:
                assert job.codes() == [errors.NOT_SAVED], job.printed()
                assert f"error: --workdir={folder}/run: cannot be written at the start: " in job.last_line()
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_storage_that_does_not_answer_ends_a_start_in_its_time_with_stacks(tmp_path):
    try:
        slow = preloaded.slow_storage(tmp_path, tmp_path / "run", seconds=1000)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    # Imports are a part of the start: on a busy machine they take longer than 15 s.
    with jobs.Jobs(tmp_path).start(tmp_path / "run", "--config.timeouts.start_s=60", env=slow) as job:
        assert job.codes() == [errors.HUNG], job.printed()
        assert job.last_line().startswith("error: hung: the start of the run took longer than")
        assert "most recent call first" in job.printed() and "workdir_lease.py" in job.printed(), job.printed()
