"""A run ends where its evaluations stop improving, at the same step whether it was stopped on its way or not."""

import contextlib
import io
import itertools
import shutil
import types
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from configs import demo
from cover_jax.checkpoint import restore
from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.training import loop, run_history
from tests.helpers import tiny_run

ACCURACIES = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.9}  # of the evaluation at each step: the best one never comes
METRIC = "images/top1"


def watch_after(*accuracies: float) -> run_history.EarlyStop:
    watch = run_history.EarlyStop()
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
    checks.validate(config)
    for dataset in config.datasets.values():
        dataset.eval_split = ""
    with pytest.raises(ConfigError, match="config.early_stop_evals=2: no dataset is evaluated"):
        checks.validate(config)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    tiny_run.prepare_data(folder)
    return folder


def config(data_dir, **changes):
    """Ten steps on images, evaluated at every second, ended after two evaluations without a new best."""
    every = {"eval_every_steps": 2, "checkpoint_every_steps": 1, "keep_checkpoints": 2}
    config = tiny_run.config(data_dir, **{"steps": 10, "early_stop_evals": 2, **every, **changes})
    del config.datasets.motion
    config.datasets.images.eval_split, config.best_metric = "validation", METRIC
    return config


@pytest.fixture(scope="module", autouse=True)
def evaluated() -> Iterator[list[int]]:
    """The steps that were evaluated; each with its accuracy of above."""
    steps = []

    def evaluate(run, state, step, writer):
        steps.append(step)
        return {METRIC: ACCURACIES[step]}

    with tiny_run.one_device(), tiny_run.shared_setups(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_evaluate", evaluate)
        yield steps


@pytest.fixture(scope="module")
def undisturbed(data_dir, evaluated, tmp_path_factory):
    """A run to its early end: its workdir, last state, evaluated steps and what it printed."""
    workdir, printed = tmp_path_factory.mktemp("undisturbed"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        state = jax.device_get(loop.train(config(data_dir), str(workdir)))
    return types.SimpleNamespace(workdir=workdir, state=state, evaluated=list(evaluated), printed=printed.getvalue())


def test_the_run_ends_and_says_which_checkpoint_is_best(undisturbed):
    assert int(undisturbed.state.step) == 8
    assert undisturbed.evaluated == [2, 4, 6, 8]
    assert f"ended at step 8 of 10: 2 evaluations without a new best of {METRIC}" in undisturbed.printed
    assert f"best checkpoint: step 6, {METRIC} 50.0%" in undisturbed.printed  # the latest of equal ones is kept
    workdir = str(undisturbed.workdir)
    found = {which: restore.load_trained(workdir, which).step for which in ("newest", "best", "6")}
    assert found == {"newest": 8, "best": 6, "6": 6}


def test_an_ended_run_stays_ended_until_there_is_more_patience(data_dir, undisturbed, evaluated, tmp_path):
    workdir = str(shutil.copytree(undisturbed.workdir, tmp_path / "copy"))
    del evaluated[:]
    assert int(loop.train(config(data_dir), workdir).step) == 8
    assert evaluated == [8]
    assert int(loop.train(config(data_dir, early_stop_evals=3), workdir).step) == 10


@pytest.mark.parametrize("stops", [(3, 6), (4, 5, 7)])
def test_stopped_anywhere_it_ends_at_the_same_step(data_dir, undisturbed, evaluated, tmp_path, monkeypatch, stops):
    """By a signal after each of these steps; an evaluation that it came before is made up for."""
    del evaluated[:]
    steps = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(loop.process, "preemption_is_reached", lambda: next(steps) in stops)
        for step in stops:
            with pytest.raises(loop.PreemptedError, match=f"step {step} is saved"):
                loop.train(config(data_dir), str(tmp_path))
    state = loop.train(config(data_dir), str(tmp_path))
    assert evaluated == [2, 4, 6, 8]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), undisturbed.state)
