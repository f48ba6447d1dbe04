"""A wall clock that is set while a run trains and saves ends nothing; a preloaded library sets it."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from orbax.checkpoint._src.checkpointers import async_checkpointer
from orbax.checkpoint._src.futures import future, signaling_client

from cover_jax import errors
from cover_jax.checkpoint import saver
from cover_jax.training import progress
from tests.helpers import jobs, preloaded, tiny_run

HOUR_S = 3600

# The clock is set forward whenever a save has begun, again before it is waited for, and back when it has ended. It is
# not set back during a save: TensorStore compares times of the wall clock while it commits, and waits or aborts then.
CHILD = """
import itertools, mmap, pathlib, struct, sys, time
import jax
jax.config.update("jax_num_cpu_devices", 1)
from cover_jax.checkpoint import saver
from cover_jax.training import loop
from tests.helpers import tiny_run

clock, data, workdir = map(pathlib.Path, sys.argv[1:])
steps_s = itertools.cycle([3600, 7200, 0])
file = open(clock, "r+b")
memory = mmap.mmap(file.fileno(), 8)
said = []

def set_clock():
    before = time.time()
    memory[:8] = struct.pack("l", next(steps_s))
    said.append(round((time.time() - before) / 3600))

start, wait = saver.start_save, saver.Saver._wait
saver.start_save = lambda *arguments: (start(*arguments), set_clock())
saver.Saver._wait = lambda self: (set_clock(), wait(self), set_clock())
state = loop.train(tiny_run.config(data, keep=("images",), timeouts__save_s=300), str(workdir))
print("ended at", int(state.step), "clock set by hours:", said, flush=True)
"""


@pytest.fixture
def clock(tmp_path):
    try:
        return preloaded.SteppedClock(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_clock_that_is_set_by_hours_during_saves_ends_nothing(tmp_path, clock):
    tiny_run.prepare_data(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, clock.path, tmp_path / "data", tmp_path / "run"],
        capture_output=True, text=True, env=os.environ | clock.environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ended at 12 clock set by hours: [1, 1, -2, 1, 1, -2,"), last
    assert "could not be saved" not in done.stderr
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [3, 6, 9, 12]


@pytest.mark.slow
def test_hosts_whose_clocks_differ_by_hours_and_are_set_end_nothing(tmp_path, clock):
    """Host 0, which has JAX's service, is hours ahead from the start, is set back by two hours before they meet, and
    back and forth while they train. Host 1 is hours behind all the time.

    JAX's service does not stand a clock of host 0 that is set back to before the hosts met.
    """
    (tmp_path / "behind").mkdir()
    behind = preloaded.SteppedClock(tmp_path / "behind")
    behind.set_ahead(-3 * HOUR_S)
    clock.set_ahead(4 * HOUR_S)
    flags = (jobs.SHARDED, "--config.steps=24", "--config.timeouts.save_s=300", "--config.checkpoint_every_steps=20")
    own = {0: clock.environment, 1: behind.environment}
    with jobs.Jobs(tmp_path).start(tmp_path / "run", *flags, hosts=2, env_of=own) as job:
        started = [pathlib.Path(f"/proc/{process.pid}/maps") for process in job.processes]
        job.until(lambda: all("jaxlib" in path.read_text() for path in started))  # they import, and have not met yet
        assert "Gloo" not in job.all_printed()
        clock.set_ahead(2 * HOUR_S)
        for step, hours in {3: 5, 6: 2, 9: 4}.items():  # long before the save of step 20
            job.until(lambda: jobs.completed(job.printed()) >= step)  # noqa: B023 - called at once
            clock.set_ahead(hours * HOUR_S)
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
    assert "could not be saved" not in job.all_printed()
    assert jobs.saved_steps(tmp_path / "run") == [20, 24]


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1], ids=["host ahead", "host behind"])
def test_hosts_whose_clocks_differ_save_one_step_when_one_is_told_to_end(tmp_path, clock, told):
    """JAX's own agreement waits until it is a quarter of an hour before the signal, by each host's clock."""
    clock.set_ahead(3 * HOUR_S)
    flags = (jobs.SHARDED, "--config.steps=100000", "--config.timeouts.step_s=60")
    with jobs.Jobs(tmp_path).start(tmp_path / "run", *flags, hosts=2, env_of={0: clock.environment}) as job:
        job.until(lambda: jobs.steps_done(job) >= 2)
        job.processes[told].terminate()
        assert job.codes() == [errors.PREEMPTED] * 2, job.all_printed()
    assert jobs.saved_steps(tmp_path / "run")[-1] >= jobs.completed(job.printed())


def test_timeouts_of_orbax_count_evenly(monkeypatch):
    saver._count_timeouts_evenly()
    now, began = time.time(), future.time.time()
    monkeypatch.setattr(time, "time", lambda: now + HOUR_S)
    assert future.get_remaining_time(began, 60) == pytest.approx(60, abs=5)
    monkeypatch.setattr(time, "time", lambda: now - HOUR_S)
    for module in (future, signaling_client, async_checkpointer):  # they compare each other's times
        assert module.time.time() - began < 5 and module.time.sleep is time.sleep
    assert future.get_remaining_time(began, 60) == pytest.approx(60, abs=5)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_goodput_counts_by_the_steady_clock(monkeypatch, step_s):
    now = time.time()
    elapsed = progress.Elapsed(now - 100)
    monkeypatch.setattr(time, "time", lambda: now + step_s)
    assert elapsed.seconds() == pytest.approx(100, abs=5)
    assert np.isclose(progress.Elapsed(now + 2 * HOUR_S).seconds(), 0, atol=5)  # it began in the future
