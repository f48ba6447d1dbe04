"""Real faults on the real command: its promises, exit codes and last lines (cover_jax/fault_tolerance/README.md)."""

import signal

import pytest

from cover_jax import errors
from tests.helpers import jobs
from tests.helpers.jobs import SHARDED, fill, has_stacks, saved_steps

pytestmark = pytest.mark.slow

END_S = 10  # from a fault on one host to the end of all
STEP_S = 20
LAST = 8  # steps of tests/helpers/tiny_config.py
ENDLESS = "--config.steps=100000"


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_on_one_host_ends_all_and_is_the_last_line_of_each(start, tmp_path, failing):
    with start(tmp_path, hosts=2, orders={failing: {"raise_at": 3}}) as job:
        job.until_printed("step 3/8")
        assert job.codes(within_s=END_S) == [errors.FAILED] * 2
        for host in range(2):
            assert job.last_line(host) == f"error on host {failing}: OSError: nothing can be read at step 3"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_all_at_once_and_the_same_command_goes_on_without_a_wait(start, tmp_path, killed):
    with start(tmp_path, ENDLESS, hosts=2) as job:
        job.until(lambda: len(saved_steps(tmp_path)) > 1)
        job.processes[killed].kill()
        assert job.codes([1 - killed], within_s=END_S) == [errors.LOST_PEER]
        assert f"error: host {killed} is gone and reported no error" in job.last_line(1 - killed)
    reached = saved_steps(tmp_path)[-1]
    with start(tmp_path, f"--config.steps={reached + 1}", hosts=2) as job:
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
        assert f"continuing from {tmp_path}/checkpoints/{reached}" in job.printed()
        assert "waiting" not in job.printed()


def test_a_second_job_in_a_workdir_is_refused_and_evaluating_leaves_it_alone(start, tmp_path):
    with start(tmp_path, orders={0: {"hang_at": 3}}) as holder:
        holder.until_printed("step 3/8")
        holder.until(lambda: saved_steps(tmp_path) == [2])
        half_written = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-0"
        half_written.mkdir()
        with start(tmp_path) as second:
            assert second.codes() == [errors.IN_USE], second.printed()
            assert f"in use by process {holder.processes[0].pid} on " in second.last_line()
        with start(tmp_path, "--mode=evaluate") as beside:
            assert beside.codes() == [errors.DONE], beside.printed()
            assert "validation after 2 steps" in beside.printed()
        assert half_written.exists()
        holder.processes[0].kill()
    with start(tmp_path) as third:
        assert third.codes() == [errors.DONE], third.printed()
    assert saved_steps(tmp_path)[-1] == LAST and not half_written.exists()


def test_a_reader_that_hangs_ends_all_with_stacks(start, tmp_path):
    with start(tmp_path, f"--config.timeouts.step_s={STEP_S}", hosts=2, orders={1: {"hang_at": 3}}) as job:
        job.until_printed("step 3/8")
        assert job.codes(within_s=STEP_S + END_S) == [errors.HUNG] * 2
        for host in range(2):
            assert has_stacks(job.printed(host))
            assert f"config.timeouts.step_s={STEP_S}" in job.last_line(host)


def test_a_host_that_stands_still_ends_the_others_with_stacks(start, tmp_path):
    in_steps = "--config.checkpoint_every_steps=100000"  # what stands still is a step, and not a save
    with start(tmp_path, f"--config.timeouts.step_s={STEP_S}", ENDLESS, in_steps, hosts=2) as job:
        job.until_printed("step 5/")
        job.processes[0].send_signal(signal.SIGSTOP)
        assert job.codes([1], within_s=STEP_S + END_S) == [errors.HUNG]
        assert has_stacks(job.printed(1)) and "hung: a step" in job.last_line(1)
        job.processes[0].send_signal(signal.SIGCONT)
        assert job.codes([0], within_s=END_S)[0] in (errors.HUNG, errors.LOST_PEER)


@pytest.mark.parametrize("absent", [0, 1])
def test_a_host_that_finds_no_other_ends_and_says_so(start, tmp_path, absent):
    with start(tmp_path, "--config.timeouts.connect_s=3", hosts=2, absent=[absent]) as job:
        assert job.codes() == [errors.HUNG]
        assert "hung: finding the other hosts took longer than config.timeouts.connect_s=3" in job.last_line()


@pytest.fixture
def small_disk(tmp_path):
    try:
        with jobs.small_disk(tmp_path / "disk", "40m") as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_full_disk_is_named_and_training_goes_on_until_there_is_space(start, small_disk, hosts):
    workdir = small_disk / "run"
    flags = (ENDLESS, "--config.timeouts.save_s=60", "--config.compilation_cache=False", *[SHARDED] * (hosts - 1))
    with start(workdir, *flags, hosts=hosts) as job:
        job.until(lambda: bool(saved_steps(workdir)))
        filler = fill(small_disk)
        job.until(lambda: job.printed().count("could not be saved") >= 2)  # the second: full before it began
        intact = saved_steps(workdir)[-1]
        assert "No space left on device" in job.all_printed() and "training continues" in job.printed()
        filler.unlink()
        job.until(lambda: saved_steps(workdir)[-1] > intact + 4)
        job.processes[0].terminate()
        assert job.codes() == [errors.PREEMPTED] * hosts, job.all_printed()


LIMITED = {"largest_file_bytes": 300_000}  # what is printed is less
# A state is divided into files by chance, and none of a tiny one need be larger than the limit. The weights of patches
# of this size are: 1.6 MB per device of a mesh that divides the model by two, and no array's part is divided.
LARGE_PATCHES = ("--config.model.variant=mu/64", "--config.model.size_px=64")


def test_a_last_save_that_fails_is_an_exit_code(start, tmp_path):
    with start(tmp_path, *LARGE_PATCHES, "--config.compilation_cache=False", orders={0: LIMITED}) as job:
        assert job.codes() == [errors.NOT_SAVED], job.printed()
        assert job.printed().count("could not be saved") >= LAST / 2 and f"step {LAST}/{LAST}" in job.printed()
        assert job.printed().count("Traceback") < 10 * LAST / 2  # one of each layer of orbax
        assert f"error: the checkpoint of step {LAST} could not be saved: " in job.last_line()
    assert saved_steps(tmp_path) == []


def test_a_host_that_cannot_write_is_named_on_all(start, tmp_path):
    flags = ("--config.timeouts.save_s=60", "--config.checkpoint_every_steps=6", "--config.compilation_cache=False")
    with start(tmp_path, SHARDED, *LARGE_PATCHES, *flags, hosts=2, orders={1: LIMITED}) as job:
        assert job.codes() == [errors.NOT_SAVED] * 2, job.all_printed()
        assert f"step {LAST}/{LAST}" in job.printed(0)
        assert "File too large" in job.printed(1) and "host 1" in job.last_line(1)
    assert saved_steps(tmp_path) == []
