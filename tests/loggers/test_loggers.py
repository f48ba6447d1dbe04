"""Loggers that a config names: TensorBoard by default; Weights & Biases with a stand-in for its package."""

import importlib
import json
import subprocess
import sys
import types

import numpy as np
import pytest
from etils import epath

from cover_jax.config import plugins
from cover_jax.errors import ConfigError
from cover_jax.training import progress
from tests.helpers import small


class Run:
    """What `wandb.init` returns: keeps what it is told."""

    def __init__(self, **arguments):
        self.arguments, self.logged, self.metrics, self.finished = arguments, [], [], False
        self.config = {}

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values):
        assert not self.finished
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb_runs(monkeypatch):
    """The runs that the stand-in for the package has started."""
    runs: list[Run] = []
    package = types.ModuleType("wandb")
    package.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    package.init = lambda **arguments: runs.append(Run(**arguments)) or runs[-1]
    package.Image, package.Html = (lambda array: ("image", array.shape)), (lambda text: ("html", text))
    package.Histogram = lambda np_histogram: ("histogram", np_histogram[0].sum())
    monkeypatch.setitem(sys.modules, "wandb", package)
    yield runs
    sys.modules.pop("cover_jax.loggers.wandb", None)


def test_tensorboard_is_the_default(tmp_path):
    with progress.MetricWriter(epath.Path(tmp_path), small.config()) as writer:
        writer.write_scalars(1, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes() and [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_wandb_gets_all_at_its_step_and_the_run_goes_on(tmp_path, wandb_runs):
    config = small.config(loggers=("tensorboard", "wandb"))
    plugins.check_packages("loggers", config.loggers, plugins.LOGGERS)
    workdir = epath.Path(tmp_path / "mine")
    for step in (7, 5):  # a continued run repeats steps
        with progress.MetricWriter(workdir, config) as writer:
            writer.write_scalars(step, {"train/loss": np.float32(0.5)})
            writer.write_images(step, {"confusion": np.zeros((4, 4, 1)), "input": np.zeros((2, 4, 4, 3))})
    first, second = wandb_runs
    assert first.arguments["id"] == second.arguments["id"] and second.arguments["resume"] == "allow"
    assert first.arguments["name"] == "mine" and first.arguments["dir"] == str(workdir)
    assert json.dumps(first.arguments["config"]["model"]["variant"]) == '"mu/4"'
    assert ("*", "step") in first.metrics and first.finished and second.finished
    assert [values["step"] for run in wandb_runs for values in run.logged] == [7, 7, 5, 5]
    assert first.logged[0] == {"step": 7, "train/loss": 0.5}
    assert first.logged[1] == {
        "step": 7, "confusion": [("image", (4, 4, 1))], "input": [("image", (4, 4, 3))] * 2,
    }  # fmt: skip
    assert (workdir / "tensorboard").exists()


def test_what_wandb_says_at_its_start_is_one_line(tmp_path, wandb_runs, monkeypatch):
    class CommError(Exception):  # as wandb's own
        pass

    def fail(**arguments):
        raise CommError("Error communicating with wandb process\nconnection refused")

    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    with pytest.raises(
        ConfigError, match=r"^config.loggers: wandb does not start: CommError: .* refused; log in"
    ) as raised:
        progress.MetricWriter(epath.Path(tmp_path), small.config(loggers=("wandb",)))
    assert "\n" not in str(raised.value) and raised.value.exit_code == 43


def test_the_rest_of_a_metric_writer(tmp_path, wandb_runs):
    writer = plugins.LOGGERS["wandb"].load().make(epath.Path(tmp_path), small.config())
    writer.write_texts(1, {"note": "<b>"})
    writer.write_histograms(1, {"weights": np.arange(10)}, {"weights": 2})
    writer.write_hparams({"lr": 0.1})
    writer.flush()
    (run,) = wandb_runs
    assert run.logged[0]["note"] == ("html", "<pre>&lt;b&gt;</pre>") and run.config == {"lr": 0.1}
    assert run.logged[1]["weights"] == ("histogram", 10)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(plugins.LOGGERS, "lost", plugins.Entry("no.such", package="no_such_package"))
    with pytest.raises(ConfigError, match=r"^config.loggers=\('lost',\): 'lost' needs the package no_such_package: "):
        plugins.check_packages("loggers", ("lost",), plugins.LOGGERS)


IMPORTS = """
import subprocess
import sys
from cover_jax.loggers import metric_writers

writer = metric_writers.SummaryWriter(sys.argv[1])
writer.write_hparams({"rate": 0.5})
writer.close()
assert "keras" not in sys.modules and "tensorboard.plugins.hparams.api" not in sys.modules

import tensorflow as tf
from tensorboard.plugins.hparams import api

assert issubclass(api.KerasCallback, tf.keras.callbacks.Callback)
assert api.HParam is not None and metric_writers.SummaryWriter.__module__.startswith("clu.")
"""


@pytest.mark.slow
def test_keras_is_not_loaded_for_curves_and_is_whole_for_those_who_use_it(tmp_path):
    subprocess.run([sys.executable, "-c", IMPORTS, tmp_path], check=True)
    (event_file,) = tmp_path.glob("events.*")
    assert b"_hparams_/session_start_info" in event_file.read_bytes()
