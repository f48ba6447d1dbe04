"""Kills and signals at any moment: restarts end bit for bit the same, and no completed step is lost."""

import os
import random
import signal
import subprocess
import time

import pytest

from cover_jax import errors
from tests.helpers.jobs import SHARDED, completed, fingerprints, saved_steps, steps_done

pytestmark = pytest.mark.slow

END_S = 10  # from the second Ctrl-C to the end of all
KILLS = 20
SIGNALS = 10
LAST, SAVE_STEPS = 8, 2  # steps of tests/helpers/tiny_config.py, and after how many it saves
ENDLESS = "--config.steps=100000"

# What must have been printed before the signal, or how many steps been done, and how long before at most.
MOMENTS = (("Gloo", 3.0), ("compiling", 2.0), (1, 1.0), (2, 0.2), (3, 0.5), (4, 0.5))


def test_sigterm_in_any_phase_saves_one_step_on_all_and_loses_none(start, tmp_path):
    rng = random.Random(0)
    for number in range(SIGNALS):
        moment, at_most_s = MOMENTS[number % len(MOMENTS)]
        with start(tmp_path, ENDLESS, SHARDED, "--config.eval_every_steps=4", hosts=2) as job:
            if isinstance(moment, str):
                job.until_printed(moment)
            else:
                job.until(lambda: steps_done(job) >= moment)  # noqa: B023 - called at once
            time.sleep(rng.uniform(0, at_most_s))
            job.processes[rng.randrange(2)].terminate()
            assert job.codes() == [errors.PREEMPTED] * 2, f"{moment}\n{job.all_printed()}"
            last = saved_steps(tmp_path)[-1]
            assert last >= completed(job.printed()), moment
            assert f"SIGTERM: step {last} is saved" in job.printed(), moment


@pytest.mark.parametrize("interrupted", [[1], [0, 1]], ids=["one host", "all hosts"])
def test_ctrl_c_saves_and_ends_all_and_the_second_one_ends_at_once(start, tmp_path, interrupted):
    with start(tmp_path, ENDLESS, hosts=2) as job:
        job.until(lambda: steps_done(job) >= 1)
        for host in interrupted:
            job.processes[host].send_signal(signal.SIGINT)
        assert job.codes() == [errors.INTERRUPTED] * 2, job.all_printed()
        last = saved_steps(tmp_path)[-1]
        assert last >= completed(job.printed()) and f"Ctrl-C: step {last} is saved" in job.printed()
    with start(tmp_path, ENDLESS, hosts=2, orders={1: {"hang_at": last + 2}}) as job:
        job.until_printed(f"step {last + 2}/")
        for _ in range(2):
            job.processes[1].send_signal(signal.SIGINT)
            time.sleep(0.5)  # as a person's fingers; signals that arrive together are one
        assert job.codes(within_s=END_S) == [errors.INTERRUPTED] * 2, job.all_printed()
        assert all(job.last_line(host).startswith("error on host 1: interrupted") for host in range(2))


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
