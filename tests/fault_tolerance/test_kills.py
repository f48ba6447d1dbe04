"""Kills at any moment: restarts end bit for bit the same. And a signal to an evaluation."""

import os
import random
import signal
import subprocess
import time

import pytest

from cover_jax import errors
from tests.helpers.jobs import SHARDED, fingerprints, saved_steps

pytestmark = pytest.mark.slow

KILLS = 20
LAST, SAVE_STEPS = 8, 2  # steps of tests/helpers/tiny_config.py, and after how many it saves


def test_sigterm_ends_an_evaluation_as_it_ends_any_process(start, undisturbed):
    with start(undisturbed, SHARDED, "--mode=evaluate", hosts=2) as job:
        job.until_printed("Gloo", host=1)
        job.processes[1].terminate()
        assert job.codes() == [errors.LOST_PEER, -signal.SIGTERM], job.all_printed()


def test_killed_again_and_again_ends_bit_for_bit_the_same(start, undisturbed, tmp_path):
    """Every fifth kill is in an asynchronous save, for certain: the process kills itself there."""
    rng, kills, kills_in_save, expected = random.Random(1), 0, 0, fingerprints(undisturbed, LAST)
    while kills < KILLS:
        next_step = max(saved_steps(tmp_path), default=0) + 1
        in_save, orders = 0, {}
        if kills % 5 == 4:
            in_save = rng.choice([step for step in range(next_step, LAST + 1) if step % SAVE_STEPS == 0])
            orders = {rng.randrange(2): {"kill_in_save_of": in_save}}
        with start(tmp_path, SHARDED, hosts=2, orders=orders) as job:
            if not in_save:
                kill_at_any_moment(job, rng, next_step)
            codes = job.codes()
            kills += -signal.SIGKILL in codes
            assert set(codes) <= {-signal.SIGKILL, errors.LOST_PEER, errors.DONE}, job.all_printed()
        if in_save:
            assert -signal.SIGKILL in codes and in_save not in saved_steps(tmp_path), job.all_printed()
            kills_in_save += 1
        if saved_steps(tmp_path)[-1:] == [LAST]:
            assert fingerprints(tmp_path, LAST) == expected
            for step in saved_steps(tmp_path)[1:]:  # and once more, from a checkpoint before
                subprocess.run(["rm", "-r", tmp_path / "checkpoints" / str(step)], check=True)
    assert kills_in_save == KILLS // 5
    with start(tmp_path, SHARDED, hosts=2) as job:
        assert job.codes() == [errors.DONE] * 2, job.all_printed()
    assert fingerprints(tmp_path, LAST) == expected
    assert not os.listdir(tmp_path / "checkpoints")[2:], "something is left half-written"


def kill_at_any_moment(job, rng, next_step):
    """Kills one host or both."""
    moment = rng.choice(["Gloo", "compiling", *(f"step {step}/" for step in range(next_step, LAST + 1))])
    while moment not in job.printed() and all(process.poll() is None for process in job.processes):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    for host in rng.sample(range(2), rng.choice([1, 2])):
        job.processes[host].send_signal(signal.SIGKILL)
