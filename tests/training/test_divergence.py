"""A run that goes wrong ends, or goes back, and says on which examples; what it leaves out stays left out."""

import json
import math

import jax
import numpy as np
import pytest

from configs import common
from cover_jax.training import health, run_history
from data_pipelines.stream import mixture
from tests.helpers import jobs, tiny_run


def judge(config, losses, step, in_a_row=0, **means):
    measured = {f"{name}/loss": (mean * 8, 8) for name, mean in means.items()}
    return health.check_divergence(config, step, measured | {"scalars": {"skipped_in_a_row": in_a_row}}, losses)


def test_a_loss_far_above_the_median_of_its_dataset_diverges():
    config, losses = common.get_config(), {}
    config.max_loss_ratio, config.loss_window_steps = 3.0, 5
    for step, loss in enumerate([9.0, 1.0, 1.0, 40.0, 1.0]):  # not full yet, and one outlier moves no median
        judge(config, losses, step, a=loss, b=100.0)
    judge(config, losses, 5, a=2.9)
    assert losses["a"] == [1.0, 1.0, 40.0, 1.0, 2.9]
    with pytest.raises(health.DivergedError, match=r"step 7 on a: its loss of 3.1 is 3.1 times the median of its"):
        judge(config, losses, 6, a=3.1, b=100.0)


def test_an_empty_batch_has_no_level():
    config, losses = common.get_config(), {}
    config.max_loss_ratio, config.loss_window_steps = 2.0, 1
    health.check_divergence(config, 0, {"a/loss": (0.0, 0.0), "scalars": {"skipped_in_a_row": 0}}, losses)
    assert losses == {"a": []}


def test_without_a_ratio_no_loss_is_too_high():
    losses = {}
    for step in range(300):
        judge(common.get_config(), losses, step, a=10.0**step)
    assert not losses


def test_steps_that_are_not_finite_are_told_until_they_are_too_many():
    config = common.get_config()
    config.max_nonfinite_steps = 2
    assert judge(config, {}, 4, in_a_row=1, a=math.inf) == (
        "step 5 on a: loss or gradient is not finite; the step is skipped"
    )
    with pytest.raises(health.DivergedError, match="step 6 on a: 2 steps in a row with .*finite"):
        judge(config, {}, 5, in_a_row=2, a=math.inf)


def test_long_batches_are_told_in_part():
    error = health.DivergedError(0, ["a"], "it went wrong")
    error.examples = {"a": list(range(70))}
    assert "step 1 on a (examples 0, 1, 2, " in str(error) and ", 63 and 6 more): it went wrong" in str(error)


def resumed(mix, step, saved):
    if not step:
        return run_history.begin(mix)
    return run_history.from_meta(mix, step, {"config": config_of(mix), "history": saved[step]})


def config_of(mix):
    datasets = {name: {"weight": weight} for name, weight in mix.weights.items()}
    return {"datasets": datasets, "plan": mix.plan, "seed": mix.seed}


def simulated(mix, poisoned, steps, saved, start=0):
    """Steps -> batches of a run that saves every 4 steps and rolls back from `poisoned` batches."""
    taken, step, past = {}, start, resumed(mix, start, saved)
    while step < steps:
        if poisoned & set(past.batch_schedule.at(step).items()):
            error = health.DivergedError(step, ["a"], "it went wrong")
            step = max(saved, default=0)
            past = run_history.rolled_back(past, resumed(mix, step, saved), error)
            continue
        taken[step] = past.batch_schedule.at(step)
        step += 1
        if step % 4 == 0:
            saved[step] = json.loads(json.dumps(past.to_json(step)))
    return taken


@pytest.mark.parametrize("plan", mixture.PLANS)
def test_what_is_left_out_is_left_out_after_every_restart(plan):
    mix = mixture.Mixture({"a": 3, "b": 2}, plan, seed=4)
    in_order = [pair for step in range(99) for pair in mix.at(step).items()]
    poisoned, saved = {in_order[i] for i in (2, 5, 6, 17, 30, 31)}, {}
    taken = simulated(mix, poisoned, 24, saved)
    used = [pair for batches in taken.values() for pair in batches.items()]
    assert len(set(used)) == len(used) and not poisoned & set(used)
    assert len(saved[24]["rollbacks"]) >= 4
    for start in (0, *saved):
        kept = {step: past for step, past in saved.items() if step <= start}
        assert simulated(mix, poisoned, 24, kept, start) == {s: b for s, b in taken.items() if s >= start}


def test_a_run_that_never_left_its_plan_follows_it():
    mix = mixture.Mixture({"a": 3, "b": 2}, "interleave", seed=4)
    for saved in ({}, {"history": run_history.begin(mix).to_json(7)}):  # checkpoints of before say nothing
        schedule = run_history.from_meta(mix, 7, {"config": config_of(mix)} | saved).batch_schedule
        assert [schedule.at(step) for step in range(7, 40)] == [mix.at(step) for step in range(7, 40)]


@pytest.mark.parametrize("plan", mixture.PLANS)
@pytest.mark.parametrize("said", [True, False])
def test_with_another_mix_each_dataset_goes_on_and_new_ones_begin(plan, said):
    before = mixture.Mixture({"a": 3, "b": 2}, "interleave", seed=4)
    meta = {"config": config_of(before)} | ({"history": run_history.begin(before).to_json(13)} if said else {})
    mix = mixture.Mixture({"b": 5, "c": 1}, plan, seed=4)
    schedule = run_history.from_meta(mix, 13, meta).batch_schedule
    taken = [pair for step in range(13, 60) for pair in schedule.at(step).items()]
    for name, first in (("b", before.counts(13)["b"]), ("c", 0)):
        ordinals = [ordinal for taken_name, ordinal in taken if taken_name == name]
        assert ordinals == list(range(first, first + len(ordinals))) and ordinals


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    tiny_run.prepare_data(folder)
    return folder


def poison(taken, at: int, value: float):
    """An order: adds `value` to a bias before the batch that stood at step `at` of an undisturbed run."""
    _, name, examples = taken[at]

    def order(state, batches):
        if not is_of(batches, name, examples):
            return state
        bias = state.params["heads"][name]["bias"]
        state.params["heads"][name]["bias"] = bias.at[0].add(value)
        return state

    return order


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """What a run of 16 steps takes."""
    run = tiny_run.Intercepted()
    run.train(tiny_run.config(data_dir, steps=16), tmp_path_factory.mktemp("undisturbed"))
    return run.taken


FAULTS = {"not finite": (math.nan, {}), "spike": (1e4, {"max_loss_ratio": 5.0, "loss_window_steps": 2})}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_diverges_ends_and_names_step_dataset_and_examples(data_dir, undisturbed, tmp_path, fault):
    value, keys = FAULTS[fault]
    run = tiny_run.Intercepted(poison(undisturbed, 7, value))
    with pytest.raises(health.DivergedError) as error:
        run.train(tiny_run.config(data_dir, **keys), tmp_path)
    step, name, examples = undisturbed[7]
    assert f"step {step + 1} on {name} (examples {', '.join(map(str, sorted(examples)))}): " in str(error.value)
    assert jobs.saved_steps(tmp_path) == [3, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "killed_before"), [("not finite", 10), ("spike", 7)])
def test_a_run_rolls_back_and_a_restart_leaves_out_the_same(
    data_dir, undisturbed, tmp_path, capsys, fault, killed_before
):
    """Steps 6 and 7 are gone back from: 0-5 are as they were, and from 6 on come the batches of 8 and later.

    It is killed before and after there is a checkpoint that knows of it.
    """
    value, keys = FAULTS[fault]
    config = tiny_run.config(data_dir, max_rollbacks=1, **keys)
    run = tiny_run.Intercepted(poison(undisturbed, 7, value))
    state = run.train(config, tmp_path / "whole")
    expected = [(step, *batch) for step, (_, *batch) in enumerate(undisturbed[:6] + undisturbed[8:14])]
    assert run.taken == undisturbed[:8] + expected[6:]
    said = capsys.readouterr().out
    assert "back at step 6 without the batches of 2 steps, rollback 1 of config.max_rollbacks=1" in said

    first = tiny_run.Intercepted(killing(poison(undisturbed, 7, value), expected[killed_before]))
    with pytest.raises(tiny_run.Killed):
        first.train(config, tmp_path / "killed")
    again = tiny_run.Intercepted(poison(undisturbed, 7, value))
    ended = again.train(config, tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ended), jax.device_get(state))
    assert again.taken[-2:] == expected[-2:]


@pytest.mark.slow
def test_rollbacks_are_counted(data_dir, undisturbed, tmp_path):
    one, two = (poison(undisturbed, at, math.nan) for at in (4, 9))
    run = tiny_run.Intercepted(lambda state, batches: two(one(state, batches), batches))
    with pytest.raises(health.DivergedError, match=f"on {undisturbed[9][1]} "):
        run.train(tiny_run.config(data_dir, max_rollbacks=1), tmp_path)


def is_of(batches, name, examples) -> bool:
    return name in batches and np.asarray(batches[name]["index"]).tolist() == examples


def killing(order, before):
    """An order that also ends the run before it steps on a batch."""
    step, name, examples = before

    def ordered(state, batches):
        if int(state.step) == step and is_of(batches, name, examples):
            raise tiny_run.Killed
        return order(state, batches)

    return ordered
