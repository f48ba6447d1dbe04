"""The epochs that a run prints are those of its step plan."""

import pytest

from configs import common
from cover_jax.training import inputs, run_history
from data_pipelines.stream import mixture


@pytest.mark.parametrize(
    ("plan", "changes", "expected"),
    [
        ("joint", {}, {"a": 100 * 8 / 200, "b": 100 * 8 / 400}),
        ("interleave", {}, {"a": 25 * 8 / 200, "b": 75 * 8 / 400}),
        ("interleave", {"repeats": 4}, {"a": 25 * 8 / 4 / 200, "b": 75 * 8 / 400}),
        ("interleave", {"weight_schedule": "40:0"}, {"a": 10 * 8 / 200, "b": 90 * 8 / 400}),
        ("interleave", {"weight_schedule": "0:0, 80:3"}, {"a": 10 * 8 / 200, "b": 90 * 8 / 400}),
    ],
)
def test_epochs(plan, changes, expected):
    config = common.get_config()
    config.plan, config.steps = plan, 100
    for name, weight in (("a", 1.0), ("b", 3.0)):
        config.datasets[name] = common.dataset()
        config.datasets[name].update({"weight": weight, "batch_size": 8})
    config.datasets.a.update(changes)
    mix = mixture.Mixture.of(config.datasets, plan, config.seed)
    schedule = run_history.begin(mix).batch_schedule
    assert inputs.epochs(config, schedule, {"a": 200, "b": 400}) == pytest.approx(expected)
