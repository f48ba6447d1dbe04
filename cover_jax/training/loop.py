"""The training loop: all side effects of a run, in their order."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.checkpoint import layout
from cover_jax.checkpoint.saver import Saver
from cover_jax.evaluation import evaluators, saved_predictions
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import chips, compilation, hosts, sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.tasks import metrics, registry
from cover_jax.training import health, inputs, profiling, progress, run_history
from cover_jax.training.run import Run, open_trained
from cover_jax.training.run_history import RunHistory
from cover_jax.training.train_step import TrainState
from data_pipelines.doctor import manifest
from data_pipelines.output import text_tables
from data_pipelines.stream import mixture, pipeline
from data_pipelines.stream.batch import Batch


class PreemptedError(RuntimeError):
    """A SIGTERM or SIGHUP was received. All hosts saved the same step."""

    exit_code = errors.PREEMPTED


class InterruptedRunError(PreemptedError):
    """It was Ctrl-C. All hosts saved the same step."""

    exit_code = errors.INTERRUPTED


@dataclasses.dataclass(frozen=True)
class Due:
    """What to do after a step, in this order. It is the same on all hosts.

    Attributes:
        log: print a line.
        evaluate: all datasets.
        save: a checkpoint.
        leave: end this process, because of a SIGTERM.
        misses_evaluation: an evaluation is due, but is skipped because the process must end soon.
    """

    log: bool
    evaluate: bool
    save: bool
    leave: bool
    misses_evaluation: bool

    @property
    def anything(self) -> bool:
        """Whether there is more to do after the step than to take the next one."""
        return self.log or self.evaluate or self.save or self.leave

    @classmethod
    def after(cls, steps_done: int, config: ConfigDict, preempted: bool) -> "Due":
        """What is due after `steps_done` steps. `preempted`: all hosts have agreed to leave after this step."""

        def is_due(every_steps: int) -> bool:
            return steps_done % every_steps == 0 or steps_done == config.steps

        leave = preempted and steps_done < config.steps  # otherwise the run ends here in any case
        evaluation, checkpoint = is_due(config.eval_every_steps), is_due(config.checkpoint_every_steps)
        return cls(
            log=is_due(config.log_every_steps),
            evaluate=evaluation and not leave,
            save=evaluation or checkpoint or leave,
            leave=leave,
            misses_evaluation=evaluation and leave,
        )


def train(config: ConfigDict, workdir: str) -> TrainState:
    """Trains to config.steps, from the newest checkpoint in `workdir` if there is one. Returns the last state.

    Raises:
        ConfigError, DatasetNotPreparedError, CheckpointMismatchError: before the first step.
        DivergedError: see `health.check_divergence`. Raised after config.max_rollbacks rollbacks.
        BadDataError: too many examples of a dataset cannot be decoded.
        ShardLostError: a shard can no longer be read.
        PreemptedError: SIGTERM, SIGHUP or Ctrl-C was received. The last step is saved.
    """
    run = Run(config, workdir)
    state, history = run.restore_or_init()
    progress.describe_run(run, state, history.batch_schedule)
    if int(state.step) < config.steps and not history.watch.is_over(config.early_stop_evals):
        _compile(run)
    with contextlib.ExitStack() as stack:
        # At its end it waits for the save in progress. If that save fails, the run fails.
        saver = stack.enter_context(Saver(config, workdir))
        writer = stack.enter_context(progress.MetricWriter(run.workdir, config))
        while True:
            try:
                state = _train_on(run, state, history, writer, saver)
                break
            except health.DivergedError as error:
                if len(history.rollbacks) >= config.max_rollbacks:
                    raise
                diverged = error.with_traceback(None)  # the traceback would keep the diverged state in memory
            state, history = _roll_back(run, history, diverged, saver)
    process.enter_phase("exit")
    ended = int(state.step) >= config.steps or history.watch.is_over(config.early_stop_evals)
    if not ended:
        saved = f"step {int(state.step)} is saved; the same command continues from it"
        if process.is_interrupted():
            raise InterruptedRunError(f"Ctrl-C: {saved}")
        raise PreemptedError(f"SIGTERM: {saved}")
    progress.print_how_it_ended(run, int(state.step), history.watch)
    return state


def _compile(run: Run) -> None:
    """Compiles the training steps of all datasets. A host that is done waits for the others.

    The timeout of the phase is that of one program: it starts again whenever a program is done.
    """
    wanted = run.setup.step_datasets
    side_by_side = f"{len(wanted)} programs side by side, " if len(wanted) > 1 else ""
    print_on_host0(f"compiling: {side_by_side}before the first step")

    def tell(left: int) -> None:
        process.enter_phase("compile", f"{left} of {len(wanted)} programs left: {'; '.join(map(', '.join, wanted))}")

    tell(len(wanted))
    programs = compilation.compile_side_by_side({names: run.setup.lower_train_step(names) for names in wanted}, tell)
    for program in programs.values():
        program.result()
    hosts.exchange("compiled")


def _train_on(
    run: Run, state: TrainState, history: RunHistory, writer: progress.MetricWriter, saver: Saver
) -> TrainState:
    """Trains from `state` to config.steps, or until a SIGTERM or config.early_stop_evals ends the run."""
    config, watch, first_step = run.config, history.watch, int(state.step)
    step_flops = {name: run.setup.step_flops(name) for name in config.datasets}
    report = progress.Progress(
        config, history.batch_schedule, step_flops, progress.first_start_s(run.workdir), chips.peak_flops(jax.devices())
    )
    with contextlib.ExitStack() as stack:
        profiler = profiling.Profiler(config.profile_steps, run.workdir / "tensorboard")
        stack.enter_context(contextlib.closing(profiler))
        if watch.missed:
            watch.add(_evaluate(run, state, first_step, writer), config.best_metric)
        last_step = first_step if watch.is_over(config.early_stop_evals) else config.steps
        streams = inputs.open_streams(
            stack, config, run.train_splits, run.setup.mesh, history.batch_schedule.counts(first_step)
        )
        steps, compiled = _Steps(run, history, streams, report, writer), set()
        for step in range(first_step, last_step):
            ordinals = history.batch_schedule.at(step)
            names = tuple(ordinals)
            process.enter_phase("step" if names in compiled else "compile", f"step {step + 1} on {', '.join(names)}")
            compiled.add(names)
            saver.poll()
            with profiler.step(step):
                state = steps.take(step, ordinals, state)
            due = Due.after(step + 1, config, preempted=process.preemption_is_reached())
            if not due.anything:
                continue
            steps.fetch()
            if due.log:
                line, scalars = report.flush(step + 1)
                print_on_host0(line)
                writer.write_scalars(step + 1, scalars)
            accuracies = None
            if due.evaluate:
                with report.paused("evaluation"):
                    accuracies = _evaluate(run, state, step + 1, writer)
                watch.add(accuracies, config.best_metric)
            watch.missed = due.misses_evaluation
            if due.save:
                process.enter_phase("save", f"step {step + 1}")
                with report.paused("save"):
                    saver.save(state, run.meta | {"history": history.to_json(step + 1)}, accuracies)
            if due.leave or watch.is_over(config.early_stop_evals):
                break
        if first_step >= last_step:
            print_on_host0("all steps are trained; evaluating the checkpoint")
            _evaluate(run, state, first_step, writer)
        process.enter_phase("save", "the last checkpoint")
    return state


class _Steps:
    """Runs steps. The metrics of a step are fetched after the next step is dispatched, so that devices do not wait.

    Args:
        run: the run to train.
        history: of the run. Losses and undecodable examples of each step are added to it.
        streams: dataset -> its batches.
        report: for the log.
        writer: for TensorBoard.
    """

    def __init__(
        self,
        run: Run,
        history: RunHistory,
        streams: Mapping[str, pipeline.Stream],
        report: progress.Progress,
        writer: progress.MetricWriter,
    ):
        self._run, self._history, self._streams, self._report, self._writer = run, history, streams, report, writer
        self._compiled: set[str] = set()  # programs that are written, see config.write_compiled
        self._pending: tuple[int, dict] | None = None  # a step and its metrics: dispatched, not yet fetched

    def take(self, step: int, ordinals: Mapping[str, int], state: TrainState) -> TrainState:
        """The state after a step; errors as in `fetch`.

        Args:
            step: counted from 0.
            ordinals: dataset -> index of its batch in this step.
            state: the state before it.
        """
        batches = self._next_batches(list(ordinals))  # one batch for all datasets that use the same clips
        for name, batch in batches.items():
            health.report_undecodable(jax.process_index(), name, batch, self._history.bad, self._streams[name])
        self._preview(step, ordinals, batches)
        with jax.transfer_guard("disallow"):
            on_device = {name: sharding.put_batch(batch, self._run.setup.mesh) for name, batch in batches.items()}
            if self._run.config.write_compiled and "+".join(ordinals) not in self._compiled:
                self._compiled.add("+".join(ordinals))
                _write_compiled(self._run, state, on_device)
            state, measured = self._run.setup.train_step(state, on_device)
        self.fetch()
        self._pending = step, measured
        return state

    def _preview(self, step: int, ordinals: Mapping[str, int], batches: Mapping[str, Batch]) -> None:
        """Writes clips of the first batch of each dataset: once per run, not again after each restart."""
        first = [name for name in batches if ordinals[name] == 0]
        if first and jax.process_index() == 0:
            previews = {f"input/{name}": progress.preview_input(self._run, name, batches[name]) for name in first}
            self._writer.write_images(step, previews)

    def _next_batches(self, names: Sequence[str]) -> dict[str, Batch]:
        start = time.perf_counter()
        sources = dict.fromkeys(mixture.clip_source(self._run.config.datasets, name) for name in names)
        batches = {source: next(self._streams[source]) for source in sources}
        self._report.waited(names, time.perf_counter() - start)
        return batches

    def fetch(self) -> None:
        """Waits for the metrics of the last dispatched step, adds them to the history and checks them.

        Raises:
            DivergedError: see `health.check_divergence`. The message names the examples.
            BadDataError: too many examples cannot be decoded.
        """
        if self._pending is None:
            return
        (step, measured), self._pending = self._pending, None
        run, history = self._run, self._history
        measured = jax.device_get(measured)
        health.add_undecodable(history.bad, measured.pop("undecodable"))
        measured["scalars"]["undecodable"] = sum(map(len, history.bad.values()))
        self._report.add(measured)
        health.check_undecodable(run.config.input.max_bad_share, step, history.bad, run.num_examples)
        try:
            if warning := health.check_divergence(run.config, step, measured, history.losses):
                print_on_host0(warning)
        except health.DivergedError as error:
            ordinals = history.batch_schedule.at(step)
            error.examples = {name: _examples(run, name, ordinals[name]) for name in error.names}
            raise


def evaluate_checkpoint(config: ConfigDict, workdir: str) -> None:
    """Evaluates the newest checkpoint in `workdir`, or without one the model of config.model.init_from.

    Raises:
        FileNotFoundError: there is neither.
    """
    if layout.saved_steps(workdir):
        run = Run(config, workdir)
        state, _ = run.restore(set_aside=False)
    elif config.model.init_from:
        run, state = open_trained(config, workdir)
    else:
        raise FileNotFoundError(
            f"{workdir}/checkpoints: no checkpoint to evaluate; train first (--mode=train), or name a model: "
            "--config.model.init_from"
        )
    assert state is not None  # there is a checkpoint; if none is sound, `restore` has raised
    with progress.MetricWriter(run.workdir, config) as writer:
        _evaluate(run, state, int(state.step), writer)
    progress.print_comparison(run)


def _write_compiled(run: Run, state: TrainState, on_device: dict) -> None:
    """Writes the compiled program of the step on these datasets. The compilation cache avoids a second compilation."""
    train_step: Any = run.setup.train_step  # jitted
    compiled = train_step.lower(state, on_device).compile()
    print_on_host0(profiling.write_compiled(compiled, run.workdir / "compiled", "+".join(on_device)))


def _examples(run: Run, name: str, ordinal: int) -> list[int]:
    """Indices of the examples in a global batch."""
    split, dataset = run.train_splits[name], run.config.datasets[name]
    source = mixture.clip_source(run.config.datasets, name)
    return sorted(pipeline.batch_indices(split, dataset, name=source, seed=run.config.seed, batch=ordinal))


def _roll_back(
    run: Run, history: RunHistory, diverged: health.DivergedError, saver: Saver
) -> tuple[TrainState, RunHistory]:
    """The state of the last checkpoint (or a new state), and a history that skips the batches since then."""
    process.enter_phase("start", "rolling back to the last checkpoint")
    saver.wait()
    state, restored = run.restore_or_init()
    saver.reload()  # a damaged checkpoint may have been set aside
    history = run_history.rolled_back(history, restored, diverged)
    first, end = history.rollbacks[-1]["plan_steps"]
    print_on_host0(
        f"diverged: {diverged}\nback at step {int(state.step)} without the batches of {end - first} steps, rollback"
        f" {len(history.rollbacks)} of config.max_rollbacks={run.config.max_rollbacks}"
    )
    return state, history


def _evaluate(run: Run, state, step: int, writer) -> dict[str, float]:
    """Evaluates all datasets. Prints the table; writes it, curves, confusion matrices and predictions.

    Returns per dataset, as DATASET/NAME, what its predictions' `scalars` has, and the means of main metrics.
    """
    scalars: dict[str, float] = {}
    tables: dict[str, list[dict[str, str]]] = {}  # task -> its rows, which have their own columns
    for name, predictions in run.evaluator(state.eval_params).items():
        task, num_classes = registry.of(run.config.datasets[name]), run.setup.num_classes[name]
        scalars |= {f"{name}/{kind}": value for kind, value in predictions.scalars(num_classes).items()}
        tables.setdefault(task.name, []).append(task.row(name, num_classes, predictions))
        if jax.process_index() == 0:
            if (confusion := task.confusion(predictions, num_classes)) is not None:
                writer.write_images(step, {f"confusion/{name}": progress.heat_map(confusion)})
            of_split = saved_predictions.SavedPredictions(predictions, step, run.eval_splits[name].fingerprint)
            with tolerant_io.tolerate_storage_errors(f"{run.workdir}: predictions of {name}"):
                saved_predictions.save(run.workdir, name, of_split)
    if not tables:
        return {}
    measured = evaluators.measure_all(run.measures, state.eval_params)
    bests = registry.bests(run.config)
    scalars = metrics.with_bests(metrics.with_means(scalars, registry.means(run.config)), bests) | measured
    writer.write_scalars(step, {f"validation/{kind}": value for kind, value in scalars.items()})
    title = f"validation after {step} steps, {metrics.ERROR_NOTE}"
    for task_name, rows in tables.items():
        rows = text_tables.without_empty_columns(evaluators.with_columns(rows, measured))
        writer.write_table(step, "validation" if len(tables) == 1 else f"validation/{task_name}", title, rows)
        print_on_host0(text_tables.text_table(title, rows))
    for line in filter(None, (metrics.best_head_line(scalars, names) for names in bests.values())):
        print_on_host0(line)
    for name in mixture.by_clip_source(run.config.datasets):
        of_splits = run.manifests[name]
        print_on_host0(f"{name}: {manifest.summary_line(of_splits)}" + progress.leaks_left_out(run.train_splits[name]))
    return scalars
