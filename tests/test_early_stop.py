"""A run ends where its evaluations stop improving, at the same step whether it was stopped on its way or not."""

import jax
import numpy as np
import pytest

from configs import demo
from cover_jax import checkpoint, early_stop, train
from cover_jax import config as config_lib
from tests import tiny_run

ACCURACIES = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.9}  # of the evaluation at each step: the best one never comes


def watch_after(*accuracies: float) -> early_stop.Watch:
    watch = early_stop.Watch()
    for accuracy in accuracies:
        watch.add({"mean_top1": accuracy, "other": 1.0}, "mean_top1")
    return watch


@pytest.mark.parametrize(
    ("accuracies", "best", "evals_since"),
    [((), None, 0), ((0.0,), 0.0, 0), ((0.3, 0.2, 0.3), 0.3, 2), ((0.3, 0.2, 0.4), 0.4, 0), ((1.0, 1.0), 1.0, 1)],
)
def test_it_counts_evaluations_since_the_best(accuracies, best, evals_since):
    watch = watch_after(*accuracies)
    assert (watch.best, watch.evals_since) == (best, evals_since)


def test_it_is_over_when_patience_is_and_never_at_zero():
    watch = watch_after(0.5, 0.4, 0.4)
    assert [watch.is_over(patience) for patience in (0, 1, 2, 3)] == [False, True, True, False]


def test_it_is_refused_where_nothing_is_evaluated():
    config = demo.get_config()
    config.early_stop_evals = 2
    config_lib.validate(config)
    for dataset in config.datasets.values():
        dataset.eval_split = ""
    with pytest.raises(config_lib.ConfigError, match="config.early_stop_evals=2: no dataset is evaluated"):
        config_lib.validate(config)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    tiny_run.prepare_data(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    with tiny_run.compilation_cache(tmp_path_factory.mktemp("compiled")):
        yield


def config(data_dir, **changes):
    """Ten steps, evaluated at every second, ended after two evaluations without a new best."""
    every = {"eval_every_steps": 2, "checkpoint_every_steps": 1, "keep_checkpoints": 2}
    return tiny_run.config(data_dir, **{"steps": 10, "early_stop_evals": 2, **every, **changes})


@pytest.fixture
def evaluated(monkeypatch) -> list[int]:
    """The steps that were evaluated; each with its accuracy of above."""
    steps = []

    def evaluate(run, state, step, writer):
        steps.append(step)
        return {"motion/top1": ACCURACIES[step]}

    monkeypatch.setattr(train, "_evaluate", evaluate)
    return steps


@pytest.fixture
def undisturbed(data_dir, evaluated, tmp_path):
    state = jax.device_get(train.train(config(data_dir), str(tmp_path / "undisturbed")))
    del evaluated[:]
    return state


def test_the_run_ends_and_says_which_checkpoint_is_best(data_dir, evaluated, tmp_path, capsys):
    assert int(train.train(config(data_dir), str(tmp_path)).step) == 8
    assert evaluated == [2, 4, 6, 8]
    printed = capsys.readouterr().out
    assert "ended at step 8 of 10: 2 evaluations without a new best of motion/top1" in printed
    assert "best checkpoint: step 6, motion/top1 50.0%" in printed  # the latest of equal ones is kept
    found = {which: checkpoint.load_trained(str(tmp_path), which).step for which in ("newest", "best", "6")}
    assert found == {"newest": 8, "best": 6, "6": 6}


def test_an_ended_run_stays_ended_until_there_is_more_patience(data_dir, evaluated, tmp_path):
    train.train(config(data_dir), str(tmp_path))
    assert int(train.train(config(data_dir), str(tmp_path)).step) == 8
    assert evaluated == [2, 4, 6, 8, 8]
    assert int(train.train(config(data_dir, early_stop_evals=3), str(tmp_path)).step) == 10


@pytest.mark.parametrize("last_step", [3, 4, 5, 6, 7])
def test_stopped_anywhere_it_ends_at_the_same_step(data_dir, evaluated, undisturbed, tmp_path, monkeypatch, last_step):
    """By a signal after each of these steps; an evaluation that it came before is made up for."""
    with monkeypatch.context() as patch:
        patch.setattr(train.preemption, "reached", lambda agreed, step: step == last_step)
        with pytest.raises(train.PreemptedError, match=f"step {last_step} is saved"):
            train.train(config(data_dir), str(tmp_path / "stopped"))
    state = train.train(config(data_dir), str(tmp_path / "stopped"))
    assert evaluated == [2, 4, 6, 8]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), undisturbed)
