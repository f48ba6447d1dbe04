"""What the user sees of a run: log lines, TensorBoard curves and images, and its start and end."""

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from einops import reduce
from etils import epath
from ml_collections import ConfigDict

from cover_jax.checkpoint import restore
from cover_jax.config import plugins
from cover_jax.evaluation import comparison
from cover_jax.fault_tolerance import tolerant_io
from cover_jax.loggers import metric_writers
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.preprocess import mirrored_labels, model_input
from cover_jax.tasks import metrics, registry
from cover_jax.training import inputs, profiling, run_history
from cover_jax.training.run import Run
from data_pipelines import files
from data_pipelines.output import text_tables
from data_pipelines.stream import mixture, records
from data_pipelines.stream.batch import Batch

PREVIEW_CLIPS, PREVIEW_FRAMES, PREVIEW_PX = 4, 8, 128  # of the input images in TensorBoard: at most 1,024 x 512 pixels


class Progress:
    """Gathers fetched metrics between two log lines.

    Args:
        config: the whole config.
        schedule: which batches the steps consume.
        step_flops: dataset -> operations of the model in a step on it.
        started_s: when the first process of the run started (seconds since 1970).
        peak_flops: peak operations per second of all devices together; None: unknown.
    """

    def __init__(
        self,
        config: ConfigDict,
        schedule: mixture.BatchSchedule,
        step_flops: Mapping[str, int],
        started_s: float,
        peak_flops: float | None,
    ):
        self._config, self._schedule, self._peak_flops = config, schedule, peak_flops
        self._elapsed = Elapsed(started_s)
        kinds = [tuple(config.datasets)] if config.plan == "joint" else [(name,) for name in config.datasets]
        self._step_flops = {kind: sum(step_flops[name] for name in kind) for kind in kinds}
        self._times = profiling.StepTimes(time.perf_counter())
        self._paused_s: dict[str, float] = {}  # "evaluation", "save" -> how long the last one took
        self._reset()

    def _reset(self):
        self._since, self._wait_s, self._examples, self._taken, self._totals = time.perf_counter(), 0.0, 0, 0, {}
        self._flops = 0

    def waited(self, names: Sequence[str], seconds: float) -> None:
        """Adds a step on these datasets, whose input was waited for."""
        self._wait_s += seconds
        sources = {mixture.clip_source(self._config.datasets, name) for name in names}
        self._examples += sum(self._config.datasets[name].batch_size for name in sources)
        self._flops += self._step_flops[tuple(names)]
        self._taken += 1
        self._times.begin(tuple(names), seconds)

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Excludes the time spent inside, on "evaluation" or "save", from that of the steps."""
        start = time.perf_counter()
        yield
        self._paused_s[what] = time.perf_counter() - start
        self._since += self._paused_s[what]
        self._times.exclude(self._paused_s[what])

    def add(self, measured: dict) -> None:
        """Merges the (sum, count) pairs of the step that was fetched. Its scalars replace the previous ones."""
        self._times.fetched(time.perf_counter())
        measured = dict(measured)
        self._scalars = measured.pop("scalars")
        self._totals = metrics.merge(self._totals, measured)

    def flush(self, step: int) -> tuple[str, dict[str, float]]:
        """The log line of the interval that ends at `step`, and its values as scalars. Starts the next interval."""
        seconds = time.perf_counter() - self._since
        values = metrics.divide(self._totals)
        self._times.end_interval()
        scalars = values | {name: float(value) for name, value in self._scalars.items()}
        scalars |= {"clips_per_s": self._examples / seconds, "input_wait_share": self._wait_s / seconds}
        scalars |= self._utilization(seconds) | self._goodput(step)
        datasets = sorted({name.split("/")[0] for name in values})
        parts = [self._measured(name, values) for name in datasets]
        line = " | ".join([
            f"step {step}/{self._config.steps}, {self._left(step, seconds)} left",
            *parts,
            f"{scalars['clips_per_s']:.1f} clips/s",
            f"MFU {scalars['mfu']:.1%}" if "mfu" in scalars else f"{scalars['model_tflops']:.3g} TFLOP/s",
            f"input wait {scalars['input_wait_share']:.0%}",
            *([f"goodput {scalars['goodput']:.0%}"] if "goodput" in scalars else []),
            f"lr {scalars['learning_rate']:.2e}",
        ])  # fmt: skip
        self._reset()
        return line, {f"train/{name}": value for name, value in scalars.items()}

    def _measured(self, name: str, values: Mapping[str, float]) -> str:
        """A dataset's loss and training metric, as text."""
        task = registry.of(self._config.datasets[name])
        kind = task.train_metric
        return f"{name} loss {values[f'{name}/loss']:.3f} {task.titles[kind]} {values[f'{name}/{kind}']:.1%}"

    def _utilization(self, seconds: float) -> dict[str, float]:
        """The model's operations per second and, if the devices' peak is known, their share of it (MFU)."""
        done = {"model_tflops": self._flops / seconds / 1e12}
        return done | ({"mfu": self._flops / seconds / self._peak_flops} if self._peak_flops else {})

    def _left(self, step: int, seconds: float) -> str:
        """The time to the end of the run, as text; evaluations stand beside it until one has been timed.

        Steps count by their datasets, as the step plan has them; evaluations and saves as the last one of each.
        """
        steps = self._kinds(step, self._config.steps)
        if self._times.mean_s:
            left_s = self._times.total_s(steps, self._step_flops, self._times.mean_s)
        else:
            left_s = sum(steps.values()) * seconds / max(self._taken, 1)
        evaluations = _count_due(step, self._config.steps, self._config.eval_every_steps)
        saves = _count_due(step, self._config.steps, self._config.eval_every_steps, self._config.checkpoint_every_steps)
        left_s += evaluations * self._paused_s.get("evaluation", 0.0) + saves * self._paused_s.get("save", 0.0)
        text = str(datetime.timedelta(seconds=round(left_s)))
        evaluates = any(dataset.eval_split for dataset in self._config.datasets.values())
        if not evaluates or "evaluation" in self._paused_s:
            return text
        return f"{text} and {evaluations} evaluation{'s' if evaluations > 1 else ''}"

    def _kinds(self, start: int, end: int) -> dict[profiling.Kind, float]:
        """Kind of step -> how many steps from `start` to before `end` are of that kind."""
        if self._config.plan == "joint":
            return {tuple(self._config.datasets): end - start}
        before, after = self._schedule.counts(start), self._schedule.counts(end)
        return {(name,): after[name] - before[name] for name in after}

    def _goodput(self, step: int) -> dict[str, float]:
        """Goodput: the time of all steps at their best speed, as a share of the time since the run first started.

        The rest is start-up, compilation, input wait, evaluation, saving, downtime, and steps repeated after a fault.
        """
        if not self._times.best_s:
            return {}
        # By the plan from its start: a run that was rolled back, or whose mix was changed, took as many steps.
        best_s = self._times.total_s(self._kinds(0, step), self._step_flops, self._times.best_s)
        return {"goodput": best_s / self._elapsed.seconds()}


class Elapsed:
    """Counts the time since the run first started: from now on by the steady clock, as the wall clock may be set.

    Args:
        started_s: when the run first started, in seconds since 1970.
    """

    def __init__(self, started_s: float):
        self._before_s, self._began_s = max(0.0, time.time() - started_s), time.perf_counter()

    def seconds(self) -> float:
        """More than 0."""
        return max(self._before_s + time.perf_counter() - self._began_s, 1e-9)


def _count_due(step: int, last_step: int, *every_steps: int) -> int:
    """How many of the steps from `step` to the last are multiples of one of these numbers, or the last (`loop.Due`)."""
    multiples = (range(-(-step // every) * every, last_step + 1, every) for every in every_steps)
    return len({last_step}.union(*multiples))


def first_start_s(workdir: epath.Path) -> float:
    """When the run in `workdir` first started, in seconds since 1970. The first process writes this time there."""
    path, now = workdir / "first_start.json", time.time()
    if jax.process_index() != 0:
        return now
    try:
        return files.read_json(path, {"unix_time_s": float})["unix_time_s"]
    except files.DamagedFileError as error:
        print_on_host0(f"WARNING: {error}; goodput is counted from now on")
    except OSError:
        pass  # it does not exist, or cannot be read
    with tolerant_io.tolerate_storage_errors(f"{path}: the start time for goodput"):
        files.write_whole(path, files.sealed_json({"unix_time_s": now}))
    return now


def print_how_it_ended(run: Run, step: int, watch: run_history.EarlyStop) -> None:
    """Prints where and why training ended, and which checkpoint is the best."""
    config = run.config
    if watch.is_over(config.early_stop_evals):
        why = f"{watch.evals_since} evaluations without a new best of {config.best_metric} (config.early_stop_evals)"
        print_on_host0(f"ended at step {step} of {config.steps}: {why}")
    if best := restore.best(str(run.workdir), config.best_metric):
        best_step, value, error = best
        newest = "" if best_step == step else f"; predict and export use step {step} unless --step=best is given"
        accuracy, names = metrics.percent(value, error), registry.bests(config).get(config.best_metric, ())
        head = ""
        if len(names) > 1:
            accuracies = restore.about(str(run.workdir), str(best_step))[2]
            head = f" ({metrics.best_of(accuracies, names).partition('/')[0]})"
        print_on_host0(f"best checkpoint: step {best_step}, {config.best_metric}{head} {accuracy}{newest}")
    print_comparison(run)


def print_comparison(run: Run) -> None:
    """Prints the newest evaluation next to that of another run, if the config names one."""
    if run.config.compare_with and jax.process_index() == 0:  # only this host saves predictions
        print_on_host0(comparison.table(run.workdir, run.config.compare_with, list(run.eval_splits)))


def leaks_left_out(split: records.Split) -> str:
    """The end of a dataset's log line if some of its examples are left out; otherwise ""."""
    return f"; {split.num_excluded} training examples left out as leaks" if split.num_excluded else ""


def describe_run(run: Run, state, schedule: mixture.BatchSchedule) -> None:
    """Prints what the run trains and for how many epochs, and writes config.json and versions.json."""
    epochs = inputs.epochs(run.config, schedule, run.num_examples)
    for name, split in run.train_splits.items():
        evaluated = run.eval_splits[name].num_examples if name in run.eval_splits else 0
        print_on_host0(f"{name}: {split.builder}, {split.num_examples} to train on, {evaluated} to validate on, "
            f"{run.setup.num_classes[name]} classes; {epochs[name]:.1f} epochs in the whole run")  # fmt: skip
        for line in mirrored_labels.describe(split.class_names, run.config.datasets[name].augment):
            print_on_host0(f"{name}: {line}")
    for name, enlargement in run.enlargements.items():
        print_on_host0(enlargement.line(name))
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
    """Some clips as the model sees them, before normalisation: one row per clip, frames side by side.

    At most PREVIEW_CLIPS clips of PREVIEW_FRAMES frames, each shrunk to PREVIEW_PX.
    """
    arrays: dict[str, Any] = {**batch}
    few = {key: value[:PREVIEW_CLIPS] for key, value in arrays.items() if key != "index"}
    settings = model_input.TrainInput.of(run.config.model, run.config.datasets[name], run.setup.class_names[name])
    seen = model_input.train(few, dataclasses.replace(settings, normalization=model_input.SHARES, repeats=1))
    return shrink_preview(np.asarray(seen["frames"]))


def shrink_preview(frames: np.ndarray) -> np.ndarray:
    """Frames [B, T, H, W, 3] of values 0..1, at most PREVIEW_FRAMES per clip, as one picture [B * h, t * w, 3]."""
    num_frames = frames.shape[1]
    frames = frames[:, np.unique(np.linspace(0, num_frames - 1, PREVIEW_FRAMES).astype(int))]
    factor = -(-max(frames.shape[2:4]) // PREVIEW_PX)
    height, width = (size // factor * factor for size in frames.shape[2:4])
    shrunk = reduce(frames[:, :, :height, :width], "b t (h i) (w j) c -> (b h) (t w) c", "mean", i=factor, j=factor)
    return np.clip(shrunk, 0, 1)


def heat_map(confusion: np.ndarray) -> np.ndarray:
    """Image [S, S, 1] of values 0..1: rows are true classes, columns are predicted classes, bright means frequent.

    Args:
        confusion: as in `metrics.Predictions.confusion`; several classes may share a row.
    """
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return np.kron(share, np.ones((max(1, 480 // len(share)),) * 2))[..., None]


class MetricWriter:
    """Writes to all of config.loggers, on the first host only.

    Use it in a `with` statement, so that everything is flushed at the end.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict):
        self._folder, writers = f"{workdir}: curves of {', '.join(config.loggers)}", []
        for name in config.loggers if jax.process_index() == 0 else ():
            with tolerant_io.tolerate_storage_errors(self._folder):
                writers.append(plugins.LOGGERS[name].load().make(workdir, config))
        self._writer: Any = metric_writers.MultiWriter(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one value per name."""
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.write_scalars(step, scalars)

    def write_table(self, step: int, name: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Writes rows of the same columns as a table, for TensorBoard's text."""
        lines = [[text_tables.markdown_text(cell) for cell in row.values()] for row in rows]
        text = f"{title}\n\n{text_tables.markdown_table(list(rows[0]), lines, left=1)}"
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.write_texts(step, {name: text})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images [number, height, width, channels], or one image [height, width, channels]; values 0..1."""
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.write_images(step, images)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        with tolerant_io.tolerate_storage_errors(self._folder):
            self._writer.close()
