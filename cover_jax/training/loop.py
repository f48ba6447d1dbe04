"""The training loop: every side effect of a run, in the order in which it happens."""

import contextlib
import time

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.checkpoint import layout
from cover_jax.checkpoint.saver import Saver
from cover_jax.evaluation import saved_predictions, tables
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import chips, sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.training import health, inputs, profiling, progress, run_history, train_step
from cover_jax.training.run import Run
from data_pipelines.doctor import manifest
from data_pipelines.stream import pipeline


class PreemptedError(RuntimeError):
    """A SIGTERM came; the step that all hosts were at is saved."""

    exit_code = errors.PREEMPTED


def train(config: ConfigDict, workdir: str) -> train_step.TrainState:
    """Trains to config.steps, from the newest checkpoint in `workdir` if there is one; returns the last state.

    Raises:
        ConfigError, DatasetNotPreparedError, CheckpointMismatchError: before the first step.
        DivergedError: see `health.check_divergence`; after config.max_rollbacks of them.
        BadDataError: too many examples of a dataset cannot be decoded.
        ShardLostError: a shard cannot be read any more.
        PreemptedError: SIGTERM; the last step is saved.
    """
    run = Run(config, workdir)
    state, past = run.restore_or_init()
    progress.describe_run(run, state)
    print_on_host0("compiling: the first steps wait for it")
    with contextlib.ExitStack() as stack:
        # Waits for the save under way at the end; a failure there fails the run.
        saver = stack.enter_context(Saver(config, workdir))
        writer = stack.enter_context(progress.MetricWriter(run.workdir))
        while True:
            try:
                state = _train_on(run, state, past, writer, saver)
                break
            except health.DivergedError as error:
                if len(past.rollbacks) >= config.max_rollbacks:
                    raise
                diverged = error.with_traceback(None)  # that would hold the state that it left
            state, past = _roll_back(run, past, diverged, saver)
    process.enter_phase("exit")
    ended = int(state.step) >= config.steps or past.watch.is_over(config.early_stop_evals)
    if not ended:
        raise PreemptedError(f"SIGTERM: step {int(state.step)} is saved; the same command goes on from there")
    progress.print_how_it_ended(run, int(state.step), past.watch)
    return state


def _train_on(
    run: Run, state: train_step.TrainState, past: run_history.RunHistory, writer, saver: Saver
) -> train_step.TrainState:
    """Takes the steps from `state` to config.steps; fewer after a SIGTERM, or if config.early_stop_evals ends it."""
    config, watch, first_step = run.config, past.watch, int(state.step)
    step_flops = {name: run.setup.step_flops(name) for name in config.datasets}
    report = progress.Progress(config.steps, progress.first_start_s(run.workdir), chips.peak_flops(jax.devices()))
    with contextlib.ExitStack() as stack:
        profiler = stack.enter_context(
            contextlib.closing(profiling.Profiler(config.profile_steps, run.workdir / "tensorboard"))
        )
        if watch.missed:
            watch.add(_evaluate(run, state, first_step, writer), config.best_metric)
        last_step = first_step if watch.is_over(config.early_stop_evals) else config.steps
        streams = inputs.open_streams(
            stack, config, run.train_splits, run.setup.mesh, past.batch_schedule.counts(first_step)
        )
        previewed, compiled = set(), []
        pending = None  # (step, metrics) that was dispatched and not fetched yet
        for step in range(first_step, last_step):
            names = list(past.batch_schedule.at(step))
            process.enter_phase("step" if names in compiled else "compile", f"step {step + 1} on {', '.join(names)}")
            compiled += [names] if names not in compiled else []
            saver.poll()
            with profiler.step(step):
                start = time.perf_counter()
                batches = {name: next(streams[name]) for name in names}
                report.waited(
                    time.perf_counter() - start,
                    examples=sum(config.datasets[name].batch_size for name in batches),
                    flops=sum(step_flops[name] for name in batches),
                )
                for name, batch in batches.items():
                    health.report_undecodable(jax.process_index(), name, batch, past.bad, streams[name])
                if unseen := batches.keys() - previewed:
                    previewed |= unseen
                    writer.write_images(
                        step, {f"input/{name}": progress.preview_input(run, name, batches[name]) for name in unseen}
                    )
                with jax.transfer_guard("disallow"):
                    on_device = {name: sharding.put_batch(batch, run.setup.mesh) for name, batch in batches.items()}
                    if config.write_compiled and unseen:
                        _write_compiled(run.workdir, run.setup.train_step, state, on_device)
                    state, measured = run.setup.train_step(state, on_device)
                _fetch(run, pending, report, past)
                pending = (step, measured)

            done = step + 1
            logs, evaluates, saves = (_due(done, config[f"{what}_every_steps"], config.steps)
                                      for what in ("log", "eval", "checkpoint"))  # fmt: skip
            leaves = process.preemption_is_reached() and done < config.steps  # else it ends anyhow
            if not (logs or evaluates or saves or leaves):
                continue
            pending = _fetch(run, pending, report, past)
            if logs:
                line, scalars = report.flush(done)
                print_on_host0(line)
                writer.write_scalars(done, scalars)
            accuracies = None
            if evaluates and not leaves:  # whoever sent the signal does not wait for long
                with report.paused():
                    accuracies = _evaluate(run, state, done, writer)
                watch.add(accuracies, config.best_metric)
            watch.missed = evaluates and leaves
            if evaluates or saves or leaves:
                process.enter_phase("save", f"step {done}")
                saver.save(state, run.meta | {"history": past.to_json(done)}, accuracies)
            if leaves or watch.is_over(config.early_stop_evals):
                break
        if first_step >= last_step:
            print_on_host0("nothing is left to train; evaluating the checkpoint")
            _evaluate(run, state, first_step, writer)
        process.enter_phase("save", "the last one")
    return state


def evaluate_checkpoint(config: ConfigDict, workdir: str) -> None:
    """Evaluates the newest checkpoint in `workdir` and prints the table.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    if not layout.saved_steps(workdir):
        raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint to evaluate; train first (--mode=train)")
    run = Run(config, workdir)
    state, _ = run.restore(set_aside=False)
    with progress.MetricWriter(run.workdir) as writer:
        _evaluate(run, state, int(state.step), writer)
    progress.print_comparison(run)


def _write_compiled(workdir: epath.Path, step_fn, state, on_device: dict) -> None:
    """Writes what the compiler made of the step on these datasets; with the compilation cache it compiles once."""
    print_on_host0(
        profiling.write_compiled(step_fn.lower(state, on_device).compile(), workdir / "compiled", "+".join(on_device))
    )


def _due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def _fetch(run: Run, pending, report: progress.Progress, past: run_history.RunHistory) -> None:
    """Waits for a step's metrics, counts and judges them.

    Raises:
        DivergedError: see `health.check_divergence`; names the examples.
        BadDataError: too many examples cannot be decoded.
    """
    if pending is None:
        return
    step, measured = pending
    measured = jax.device_get(measured)
    health.add_undecodable(past.bad, measured.pop("undecodable"))
    measured["scalars"]["undecodable"] = sum(map(len, past.bad.values()))
    report.add(measured)
    health.check_undecodable(run.config.input.max_bad_share, step, past.bad, run.num_examples)
    try:
        if warning := health.check_divergence(run.config, step, measured, past.losses):
            print_on_host0(warning)
    except health.DivergedError as error:
        ordinals = past.batch_schedule.at(step)
        error.examples = {name: _examples(run, name, ordinals[name]) for name in error.names}
        raise


def _examples(run: Run, name: str, ordinal: int) -> list[int]:
    """Indices of the examples in a global batch."""
    split, dataset = run.train_splits[name], run.config.datasets[name]
    return sorted(pipeline.batch_indices(split, dataset, name=name, seed=run.config.seed, batch=ordinal))


def _roll_back(run: Run, past: run_history.RunHistory, diverged: health.DivergedError, saver: Saver):
    """The last checkpoint's state, or a new one, and a past that leaves out the batches since."""
    process.enter_phase("start", "going back to the last checkpoint")
    saver.wait()
    state, restored = run.restore_or_init()
    saver.reload()  # a damaged one may have been set aside
    past = run_history.rolled_back(past, restored, diverged)
    first, end = past.rollbacks[-1]["plan_steps"]
    print_on_host0(
        f"diverged: {diverged}\nback at step {int(state.step)} without the batches of {end - first} steps, rollback"
        f" {len(past.rollbacks)} of config.max_rollbacks={run.config.max_rollbacks}"
    )
    return state, past


def _evaluate(run: Run, state, step: int, writer) -> dict[str, float]:
    """Evaluates all datasets; prints the table, writes curves, confusion matrices and what was said of each example.

    Returns all accuracies and, as DATASET/examples, of how many examples.
    """
    accuracies, rows = {}, []
    for name, predictions in run.evaluator(state.eval_params).items():
        accuracies |= {f"{name}/{kind}": value for kind, value in predictions.accuracies.items()}
        accuracies[f"{name}/examples"] = len(predictions.index)
        rows.append(tables.accuracy_row(name, run.setup.num_classes[name], predictions))
        writer.write_images(
            step, {f"confusion/{name}": progress.heat_map(predictions.confusion(run.setup.num_classes[name]))}
        )
        if jax.process_index() == 0:
            of_split = saved_predictions.SavedPredictions(predictions, step, run.eval_splits[name].fingerprint)
            with tolerant_io.tolerate_storage_errors(f"{run.workdir}: predictions of {name}"):
                saved_predictions.save(run.workdir, name, of_split)
    if not rows:
        return {}
    accuracies["mean_top1"] = float(np.mean([accuracies[f"{name}/top1"] for name in run.eval_splits]))
    writer.write_scalars(step, {f"validation/{kind}": value for kind, value in accuracies.items()})
    print_on_host0(tables.table(f"validation after {step} steps", rows))
    for name, of_splits in run.manifests.items():
        print_on_host0(f"{name}: {manifest.summary_line(of_splits)}" + progress.leaks_left_out(run.train_splits[name]))
    return accuracies
