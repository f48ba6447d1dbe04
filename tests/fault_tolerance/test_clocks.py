"""A wall clock that is set while a run trains and saves ends nothing; a preloaded library sets it."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from orbax.checkpoint._src.checkpointers import async_checkpointer
from orbax.checkpoint._src.futures import future, signaling_client

from cover_jax.checkpoint import saver
from cover_jax.training import progress
from tests.helpers import tiny_run

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
HOUR_S = 3600

# The clock is set whenever a save has begun, and again before it is waited for.
CHILD = """
import itertools, mmap, pathlib, struct, sys, time
import jax
jax.config.update("jax_num_cpu_devices", 1)
from cover_jax.checkpoint import saver
from cover_jax.training import loop
from tests.helpers import tiny_run

clock, data, workdir = map(pathlib.Path, sys.argv[1:])
steps_s = itertools.cycle([3600, -3600, 0, -7200])
file = open(clock, "r+b")
memory = mmap.mmap(file.fileno(), 8)
said = []

def set_clock():
    before = time.time()
    memory[:8] = struct.pack("l", next(steps_s))
    said.append(round((time.time() - before) / 3600))

start, wait = saver.start_save, saver.Saver._wait
saver.start_save = lambda *arguments: (start(*arguments), set_clock())
saver.Saver._wait = lambda self: (set_clock(), wait(self))
state = loop.train(tiny_run.config(data, keep=("images",), timeouts__save_s=60), str(workdir))
print("ended at", int(state.step), "clock set by hours:", said, flush=True)
"""


@pytest.mark.slow
def test_a_clock_that_is_set_by_hours_during_saves_ends_nothing(tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the preloaded clock with")
    library, clock = tmp_path / "clock.so", tmp_path / "ahead"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HELPERS / "stepped_clock.c", "-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    clock.write_bytes(bytes(8))
    tiny_run.prepare_data(tmp_path / "data")
    environment = os.environ | {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(clock)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, clock, tmp_path / "data", tmp_path / "run"],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ended at 12 clock set by hours: [1, -2, 1, -2,"), last
    assert "could not be saved" not in done.stderr
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [3, 6, 9, 12]


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
