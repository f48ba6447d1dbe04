"""SIGTERM and Ctrl-C at any moment: all hosts save the same step, and no completed step is lost."""

import random
import signal
import time

import pytest

from cover_jax import errors
from tests.helpers.jobs import SHARDED, completed, saved_steps, steps_done

pytestmark = pytest.mark.slow

END_S = 10  # from the second Ctrl-C to the end of all
SIGNALS = 10
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
