"""What is due after a step: a pure function of the step, the config and whether a SIGTERM came."""

import pytest

from configs import common
from cover_jax.training.loop import Due

NOTHING = Due(log=False, evaluate=False, save=False, leave=False, misses_evaluation=False)


def due(steps_done: int, preempted: bool = False) -> Due:
    """Of a run of 20 steps that logs every 2, saves every 3 and evaluates every 5."""
    config = common.get_config()
    config.steps, config.log_every_steps, config.checkpoint_every_steps, config.eval_every_steps = 20, 2, 3, 5
    return Due.after(steps_done, config, preempted)


@pytest.mark.parametrize(
    ("steps_done", "log", "evaluate", "save"),
    [
        (1, False, False, False),
        (2, True, False, False),
        (3, False, False, True),
        (5, False, True, True),  # an evaluation is saved with its checkpoint
        (6, True, False, True),
        (15, False, True, True),
        (19, False, False, False),
        (20, True, True, True),
    ],
)
def test_each_has_its_interval(steps_done, log, evaluate, save):
    found = due(steps_done)
    assert found == Due(log, evaluate, save, leave=False, misses_evaluation=False)
    assert found.anything == (found != NOTHING)


def test_after_the_last_step_everything_is_due_whatever_the_intervals():
    config = common.get_config()
    config.steps, config.log_every_steps, config.checkpoint_every_steps, config.eval_every_steps = 7, 100, 100, 100
    assert Due.after(7, config, preempted=False) == Due(True, True, True, leave=False, misses_evaluation=False)


def test_a_signal_saves_and_leaves_at_any_step():
    assert due(1, preempted=True) == Due(False, False, True, leave=True, misses_evaluation=False)
    assert due(2, preempted=True) == Due(True, False, True, leave=True, misses_evaluation=False)


def test_a_signal_does_not_wait_for_an_evaluation():
    assert due(5, preempted=True) == Due(False, False, True, leave=True, misses_evaluation=True)
    assert due(10, preempted=True) == Due(True, False, True, leave=True, misses_evaluation=True)


def test_a_signal_at_the_last_step_changes_nothing():
    assert due(20, preempted=True) == due(20)
