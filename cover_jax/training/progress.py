"""What the user sees of a run: log lines, TensorBoard curves and images, and its start and end."""

import contextlib
import dataclasses
import datetime
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from clu import metric_writers, parameter_overview
from einops import rearrange
from etils import epath

from cover_jax.checkpoint import restore
from cover_jax.evaluation import comparison, metrics
from cover_jax.fault_tolerance import tolerant_io
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.preprocess import mirrored_labels, model_input
from cover_jax.training import run_history
from cover_jax.training.run import Run
from data_pipelines import files
from data_pipelines.stream import records
from data_pipelines.stream.batch import Batch


class Progress:
    """Gathers fetched metrics between two log lines.

    Args:
        steps: number of steps of the whole run.
        started_s: when the first process of the run started (seconds since 1970).
        peak_flops: peak operations per second of all devices together; None: unknown.
    """

    def __init__(self, steps: int, started_s: float, peak_flops: float | None):
        self._steps, self._started_s, self._peak_flops = steps, started_s, peak_flops
        self._quickest_step_s: float | None = None  # the first interval does not count: it includes compilation
        self._reset()

    def _reset(self):
        self._since, self._wait_s, self._examples, self._taken, self._totals = time.perf_counter(), 0.0, 0, 0, {}
        self._flops = 0

    def waited(self, seconds: float, examples: int, flops: int) -> None:
        """Adds a step's input wait time, its examples and the model's operations."""
        self._wait_s += seconds
        self._examples += examples
        self._flops += flops
        self._taken += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside from the clips per second and from the time left."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def add(self, measured: dict) -> None:
        """Merges the (sum, count) pairs of one step. Its scalars replace the previous ones."""
        measured = dict(measured)
        self._scalars = measured.pop("scalars")
        self._totals = metrics.merge(self._totals, measured)

    def flush(self, step: int) -> tuple[str, dict[str, float]]:
        """The log line of the interval that ends at `step`, and its values as scalars. Starts the next interval."""
        seconds = time.perf_counter() - self._since
        values = metrics.divide(self._totals)
        eta_s = (self._steps - step) * seconds / max(self._taken, 1)
        scalars = values | {name: float(value) for name, value in self._scalars.items()}
        scalars |= {"clips_per_s": self._examples / seconds, "input_wait_share": self._wait_s / seconds}
        scalars |= self._utilization(seconds) | self._goodput(step, seconds)
        datasets = sorted({name.split("/")[0] for name in values})
        parts = [f"{d} loss {values[f'{d}/loss']:.3f} top-1 {values[f'{d}/top1']:.1%}" for d in datasets]
        line = " | ".join([
            f"step {step}/{self._steps}, {datetime.timedelta(seconds=round(eta_s))} left",
            *parts,
            f"{scalars['clips_per_s']:.1f} clips/s",
            f"MFU {scalars['mfu']:.1%}" if "mfu" in scalars else f"{scalars['model_tflops']:.3g} TFLOP/s",
            f"input wait {scalars['input_wait_share']:.0%}",
            *([f"goodput {scalars['goodput']:.0%}"] if "goodput" in scalars else []),
            f"lr {scalars['learning_rate']:.2e}",
        ])  # fmt: skip
        self._reset()
        return line, {f"train/{name}": value for name, value in scalars.items()}

    def _utilization(self, seconds: float) -> dict[str, float]:
        """The model's operations per second and, if the devices' peak is known, their share of it (MFU)."""
        done = {"model_tflops": self._flops / seconds / 1e12}
        return done | ({"mfu": self._flops / seconds / self._peak_flops} if self._peak_flops else {})

    def _goodput(self, step: int, seconds: float) -> dict[str, float]:
        """Goodput: the time of all steps at their best speed, as a share of the time since the run first started.

        The rest is start-up, compilation, input wait, evaluation, saving, downtime, and steps repeated after a fault.
        """
        if self._quickest_step_s is None:
            self._quickest_step_s = math.inf
            return {}
        self._quickest_step_s = min(self._quickest_step_s, (seconds - self._wait_s) / max(self._taken, 1))
        return {"goodput": step * self._quickest_step_s / (time.time() - self._started_s)}


def first_start_s(workdir: epath.Path) -> float:
    """When the run in `workdir` first started, in seconds since 1970. The first process writes this time there."""
    path, now = workdir / "first_start.json", time.time()
    if jax.process_index() != 0:
        return now
    with contextlib.suppress(OSError, ValueError):  # the file does not exist, or is incomplete
        return json.loads(path.read_text())["unix_time_s"]
    with tolerant_io.tolerate_storage_errors(f"{path}: the start time for goodput"):
        files.write_whole(path, json.dumps({"unix_time_s": now}).encode())
    return now


def print_how_it_ended(run: Run, step: int, watch: run_history.EarlyStop) -> None:
    """Prints where and why training ended, and which checkpoint is the best."""
    config = run.config
    if watch.is_over(config.early_stop_evals):
        why = f"{watch.evals_since} evaluations without a new best of {config.best_metric} (config.early_stop_evals)"
        print_on_host0(f"ended at step {step} of {config.steps}: {why}")
    if best := restore.best(str(run.workdir), config.best_metric):
        best_step, value = best
        newest = "" if best_step == step else f"; predict and export use step {step} unless --step=best is given"
        print_on_host0(f"best checkpoint: step {best_step}, {config.best_metric} {value:.1%}{newest}")
    print_comparison(run)


def print_comparison(run: Run) -> None:
    """Prints the newest evaluation next to that of another run, if the config names one."""
    if run.config.compare_with and jax.process_index() == 0:  # only this host saves predictions
        print_on_host0(comparison.table(run.workdir, run.config.compare_with, list(run.eval_splits)))


def leaks_left_out(split: records.Split) -> str:
    """The end of a dataset's log line if some of its examples are left out; otherwise ""."""
    return f"; {split.num_excluded} training examples left out as leaks" if split.num_excluded else ""


def describe_run(run: Run, state) -> None:
    """Prints what the run trains, and writes config.json and versions.json."""
    for name, split in run.train_splits.items():
        evaluated = run.eval_splits[name].num_examples if name in run.eval_splits else 0
        print_on_host0(f"{name}: {split.builder}, {split.num_examples} to train on, {evaluated} to validate on, "
            f"{run.setup.num_classes[name]} classes")  # fmt: skip
        for line in mirrored_labels.describe(split.class_names, run.config.datasets[name].augment):
            print_on_host0(f"{name}: {line}")
    for name in run.kept:
        print_on_host0(f"{name}: a head that is kept but not trained, {run.setup.num_classes[name]} classes")
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    print_on_host0(overview)
    print_on_host0(f"{jax.device_count()} devices ({jax.devices()[0].device_kind}), mesh {dict(run.setup.mesh.shape)}")
    if jax.process_index() == 0:
        with tolerant_io.tolerate_storage_errors(f"{run.workdir}: config.json, versions.json, parameters.txt"):
            run.workdir.mkdir(parents=True, exist_ok=True)
            (run.workdir / "config.json").write_text(json.dumps(run.meta["config"], indent=2))
            (run.workdir / "versions.json").write_text(json.dumps(run.meta["versions"], indent=2))
            (run.workdir / "parameters.txt").write_text(overview)


def preview_input(run: Run, name: str, batch: Batch) -> np.ndarray:
    """Up to four clips as the model sees them, before normalisation: one row per clip, frames side by side."""
    arrays: dict[str, Any] = {**batch}
    few = {key: value[:4] for key, value in arrays.items() if key != "index"}
    settings = model_input.TrainInput.of(run.config.model, run.config.datasets[name], run.setup.class_names[name])
    seen = model_input.train(few, dataclasses.replace(settings, normalization=model_input.SHARES, repeats=1))
    return rearrange(np.clip(seen["frames"], 0, 1), "b t h w c -> (b h) (t w) c")


def heat_map(confusion: np.ndarray) -> np.ndarray:
    """Image [S, S, 1] of values 0..1: rows are true classes, columns are predicted classes, bright means frequent."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return np.kron(share, np.ones((max(1, 480 // len(share)),) * 2))[..., None]


class MetricWriter:
    """Writes on the first host only. Use it in a `with` statement, so that everything is flushed at the end."""

    def __init__(self, workdir: epath.Path):
        self._folder = str(workdir / "tensorboard")
        first = jax.process_index() == 0
        self._writer = metric_writers.SummaryWriter(self._folder) if first else metric_writers.MultiWriter([])

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one value per name."""
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images [number, height, width, channels], or one image [height, width, channels]; values 0..1."""
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.write_images(step, images)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.close()
