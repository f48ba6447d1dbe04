"""The training loop: every side effect of a run, in the order in which it happens."""

import contextlib
import json
import time
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from einops import rearrange
from etils import epath
from ml_collections import ConfigDict

from cover_jax import (
    bad_data,
    changed_mix,
    checkpoint,
    chips,
    comparison,
    compilation,
    curves,
    divergence,
    early_stop,
    evaluate,
    evaluated,
    exit_codes,
    flops,
    history,
    inputs,
    kept_heads,
    optimizer,
    preemption,
    preprocess,
    profiling,
    progress,
    saving,
    sharding,
    storage,
    train_step,
    warm_start,
    watchdog,
)
from cover_jax import config as config_lib
from cover_jax.hosts import say
from cover_jax.models import cover, pretrained
from data_pipelines import manifest, mixture, pipeline, records
from data_pipelines.builders import files


class PreemptedError(RuntimeError):
    """A SIGTERM came; the step that all hosts were at is saved."""

    exit_code = exit_codes.PREEMPTED


class Run:
    """What training and evaluation share: the mesh, the opened data, the model and where its state lives.

    Args:
        config: a validated config.
        workdir: the run's folder, local or gs://.
    """

    def __init__(self, config: ConfigDict, workdir: str):
        self.config, self.workdir = config, epath.Path(workdir)
        self.mesh = sharding.make_mesh(config.mesh)
        config_lib.validate_batches(config, sharding.num_batch_shards(self.mesh))
        self.train_splits, self.eval_splits = inputs.open_splits(config)
        self.train_splits, found = inputs.without_leaks(config, self.train_splits, self.eval_splits)
        self.class_names = {name: split.class_names for name, split in self.train_splits.items()}
        self.num_examples = {name: split.num_examples for name, split in self.train_splits.items()}
        saved_meta = checkpoint.newest(workdir)[1] if checkpoint.steps(workdir) else None
        self.kept = kept_heads.of_run(config, saved_meta, self.class_names)
        self.class_names |= {name: head.class_names for name, head in self.kept.items()}
        self.num_classes = {name: len(names) for name, names in self.class_names.items()}
        self.key = jax.random.key(config.seed)
        self.schedule = optimizer.make_schedule(config.optimizer, config.steps)
        self.model, self.tx, self._make_init, self._state_like = self._with_heads(self.num_classes, self.kept)
        self.shardings = jax.tree.map(lambda x: x.sharding, self._state_like)
        self._init = compilation.jit(self._make_init, out_shardings=self.shardings)
        self.step_fn = compilation.jit(
            train_step.make_train_step(
                config,
                self.model,
                self.class_names,
                self.tx,
                self.schedule,
                sharding.cut_batch(self.mesh, config.optimizer.grad_accum_steps),
            ),
            donate_argnums=0,
            out_shardings=(self.shardings, sharding.replicated(self.mesh)),
        )
        self.evaluator = evaluate.Evaluator(config, self.model, self.eval_splits, self.mesh)
        self.mix = mixture.Mixture({n: d.weight for n, d in config.datasets.items()}, config.plan, config.seed)
        self.manifests = {name: manifest.summary(d.builder, config.data_dir) for name, d in config.datasets.items()}
        self.meta = checkpoint.make_meta(config, self.train_splits, self.manifests, found, self.kept)

    def restore(self, set_aside: bool) -> tuple[train_step.TrainState | None, dict]:
        """(state of the newest sound checkpoint, its meta): see `checkpoint.restore_newest`."""
        state, saved = checkpoint.restore_newest(str(self.workdir), self._state_like_of, self.meta, set_aside)
        if state is not None and not self._has_heads_of(saved):
            state = changed_mix.carry_over(state, self._make_init, self.shardings, self.key)
        return state, saved

    def _with_heads(self, num_classes: dict[str, int], kept: Collection[str]):
        """A model with these heads, its optimizer, (key -> its first state), and that state's shapes and shardings."""
        config = self.config
        model = cover.functional(
            config.model,
            num_classes,
            constrain=sharding.constrain_batch(self.mesh),
            qkv_sharding=sharding.qkv_sharding(self.mesh),
        )
        tx = optimizer.make_optimizer(config.optimizer, self.schedule, jax.eval_shape(model.init, self.key), kept)
        init = train_step.make_init(model, tx, config.optimizer.ema_decay)
        state_like = jax.eval_shape(init, self.key)
        shardings = sharding.state_shardings(state_like, model.axes, self.mesh)
        return model, tx, init, checkpoint.abstract(state_like, shardings)

    def _state_like_of(self, saved: dict):
        """Shapes and shardings of the state that a checkpoint with this meta has."""
        if self._has_heads_of(saved):
            return self._state_like
        num_classes = {name: len(classes) for name, classes in saved["heads"].items()}
        return self._with_heads(num_classes, saved.get("kept", {}))[-1]

    def _has_heads_of(self, saved: dict) -> bool:
        return saved["heads"].keys() == self.num_classes.keys() and saved.get("kept", {}).keys() == self.kept.keys()

    def restore_or_init(self) -> tuple[train_step.TrainState, history.History]:
        """The newest sound checkpoint's state or, where there is none, a new one born on its devices; with its past."""
        state, saved = self.restore(set_aside=True)
        if state is None:
            state = self._init(self.key)
            state = self._with_pretrained(state) if self.config.model.init_from else state
            return state, history.begin(self.mix)
        return state, history.from_meta(self.mix, int(state.step), saved)

    def _with_pretrained(self, state: train_step.TrainState) -> train_step.TrainState:
        try:
            loaded = warm_start.load(self.config.model.init_from, self.config.model, self.class_names)
        except pretrained.PretrainedError as error:
            raise config_lib.ConfigError(f"config.model.init_from: {error}") from error
        params, kept = pretrained.fill(state.params, loaded)
        say("\n  ".join([*loaded.report, f"new: {', '.join(kept) or 'nothing'}"]))
        # A copy: two leaves of the state must not be one buffer, or it cannot be donated.
        return state.replace(params=params, ema=jax.tree.map(jnp.copy, params) if state.ema else {})


def train(config: ConfigDict, workdir: str) -> train_step.TrainState:
    """Trains to config.steps, from the newest checkpoint in `workdir` if there is one; returns the last state.

    Raises:
        ConfigError, DatasetNotPreparedError, CheckpointMismatchError: before the first step.
        DivergedError: see `divergence.check`; after config.max_rollbacks of them.
        BadDataError: too many examples of a dataset cannot be decoded.
        ShardLostError: a shard cannot be read any more.
        PreemptedError: SIGTERM; the last step is saved.
    """
    run = Run(config, workdir)
    state, past = run.restore_or_init()
    _describe(run, state)
    say("compiling: the first steps wait for it")
    with contextlib.ExitStack() as stack:
        # Waits for the save under way at the end; a failure there fails the run.
        saver = stack.enter_context(saving.Saver(config, workdir))
        writer = stack.enter_context(curves.Curves(run.workdir))
        while True:
            try:
                state = _train_on(run, state, past, writer, saver)
                break
            except divergence.DivergedError as error:
                if len(past.rollbacks) >= config.max_rollbacks:
                    raise
                diverged = error.with_traceback(None)  # that would hold the state that it left
            state, past = _roll_back(run, past, diverged, saver)
    watchdog.enter("exit")
    ended = int(state.step) >= config.steps or past.watch.is_over(config.early_stop_evals)
    if not ended:
        raise PreemptedError(f"SIGTERM: step {int(state.step)} is saved; the same command goes on from there")
    _say_how_it_ended(run, int(state.step), past.watch)
    return state


def _train_on(
    run: Run, state: train_step.TrainState, past: history.History, writer, saver: saving.Saver
) -> train_step.TrainState:
    """Takes the steps from `state` to config.steps; fewer after a SIGTERM, or if config.early_stop_evals ends it."""
    config, watch, first_step = run.config, past.watch, int(state.step)
    trains_backbone = optimizer.trains_backbone(config.optimizer, state.params)
    step_flops = {name: flops.train_step(config, name, trains_backbone) for name in config.datasets}
    report = progress.Progress(config.steps, _first_start(run.workdir), chips.peak_flops(jax.devices()))
    with contextlib.ExitStack() as stack:
        profiler = stack.enter_context(
            contextlib.closing(profiling.Profiler(config.profile_steps, run.workdir / "tensorboard"))
        )
        if watch.missed:
            watch.add(_evaluate(run, state, first_step, writer), config.best_metric)
        last_step = first_step if watch.is_over(config.early_stop_evals) else config.steps
        streams = inputs.open_streams(stack, config, run.train_splits, run.mesh, past.course.counts(first_step))
        previewed, compiled = set(), []
        pending = None  # (step, metrics) that was dispatched and not fetched yet
        for step in range(first_step, last_step):
            names = list(past.course.at(step))
            watchdog.enter("step" if names in compiled else "compile", f"step {step + 1} on {', '.join(names)}")
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
                    bad_data.tell(jax.process_index(), name, batch, past.bad, streams[name])
                if unseen := batches.keys() - previewed:
                    previewed |= unseen
                    writer.write_images(step, {f"input/{name}": _preview(run, name, batches[name]) for name in unseen})
                with jax.transfer_guard("disallow"):
                    on_device = {name: sharding.put_batch(batch, run.mesh) for name, batch in batches.items()}
                    if config.write_compiled and unseen:
                        _write_compiled(run.workdir, run.step_fn, state, on_device)
                    state, measured = run.step_fn(state, on_device)
                _fetch(run, pending, report, past)
                pending = (step, measured)

            done = step + 1
            logs, evaluates, saves = (_due(done, config[f"{what}_every_steps"], config.steps)
                                      for what in ("log", "eval", "checkpoint"))  # fmt: skip
            leaves = preemption.reached() and done < config.steps  # else it ends anyhow
            if not (logs or evaluates or saves or leaves):
                continue
            pending = _fetch(run, pending, report, past)
            if logs:
                line, scalars = report.flush(done)
                say(line)
                writer.write_scalars(done, scalars)
            accuracies = None
            if evaluates and not leaves:  # whoever sent the signal does not wait for long
                with report.paused():
                    accuracies = _evaluate(run, state, done, writer)
                watch.add(accuracies, config.best_metric)
            watch.missed = evaluates and leaves
            if evaluates or saves or leaves:
                watchdog.enter("save", f"step {done}")
                saver.save(state, run.meta | {"history": past.to_json(done)}, accuracies)
            if leaves or watch.is_over(config.early_stop_evals):
                break
        if first_step >= last_step:
            say("nothing is left to train; evaluating the checkpoint")
            _evaluate(run, state, first_step, writer)
        watchdog.enter("save", "the last one")
    return state


def evaluate_checkpoint(config: ConfigDict, workdir: str) -> None:
    """Evaluates the newest checkpoint in `workdir` and prints the table.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    if not checkpoint.steps(workdir):
        raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint to evaluate; train first (--mode=train)")
    run = Run(config, workdir)
    state, _ = run.restore(set_aside=False)
    with curves.Curves(run.workdir) as writer:
        _evaluate(run, state, int(state.step), writer)
    _compare(run)


def _first_start(workdir: epath.Path) -> float:
    """When the run in `workdir` was first started, in seconds since 1970; noted there by the first process."""
    path, now = workdir / "first_start.json", time.time()
    if jax.process_index() != 0:
        return now
    with contextlib.suppress(OSError, ValueError):  # there is none, or it was not written whole
        return json.loads(path.read_text())["unix_time_s"]
    with storage.tolerated(f"{path}: from when goodput is counted"):
        files.write_whole(path, json.dumps({"unix_time_s": now}).encode())
    return now


def _write_compiled(workdir: epath.Path, step_fn, state, on_device: dict) -> None:
    """Writes what the compiler made of the step on these datasets; with the compilation cache it compiles once."""
    say(profiling.write_compiled(step_fn.lower(state, on_device).compile(), workdir / "compiled", "+".join(on_device)))


def _due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def _say_how_it_ended(run: Run, step: int, watch: early_stop.Watch) -> None:
    """Where and why training ended, and which checkpoint is the best."""
    config = run.config
    if watch.is_over(config.early_stop_evals):
        why = f"{watch.evals_since} evaluations without a new best of {config.best_metric} (config.early_stop_evals)"
        say(f"ended at step {step} of {config.steps}: {why}")
    if best := checkpoint.best(str(run.workdir), config.best_metric):
        best_step, value = best
        newest = "" if best_step == step else f"; without --step=best, step {step} is what predicts and is exported"
        say(f"best checkpoint: step {best_step}, {config.best_metric} {value:.1%}{newest}")
    _compare(run)


def _compare(run: Run) -> None:
    """Prints the newest evaluation beside that of another run, if the config names one."""
    if run.config.compare_with and jax.process_index() == 0:  # which alone keeps what was said of each example
        say(comparison.table(run.workdir, run.config.compare_with, list(run.eval_splits)))


def _fetch(run: Run, pending, report: progress.Progress, past: history.History) -> None:
    """Waits for a step's metrics, counts and judges them.

    Raises:
        DivergedError: see `divergence.check`; names the examples.
        BadDataError: too many examples cannot be decoded.
    """
    if pending is None:
        return
    step, measured = pending
    measured = jax.device_get(measured)
    bad_data.add(past.bad, measured.pop("undecodable"))
    measured["scalars"]["undecodable"] = sum(map(len, past.bad.values()))
    report.add(measured)
    bad_data.check(run.config.input.max_bad_share, step, past.bad, run.num_examples)
    try:
        if warning := divergence.check(run.config, step, measured, past.losses):
            say(warning)
    except divergence.DivergedError as error:
        ordinals = past.course.at(step)
        error.examples = {name: _examples(run, name, ordinals[name]) for name in error.names}
        raise


def _examples(run: Run, name: str, ordinal: int) -> list[int]:
    """Indices of the examples in a global batch."""
    split, dataset = run.train_splits[name], run.config.datasets[name]
    return sorted(pipeline.batch_indices(split, dataset, name=name, seed=run.config.seed, batch=ordinal))


def _roll_back(run: Run, past: history.History, diverged: divergence.DivergedError, saver: saving.Saver):
    """The last checkpoint's state, or a new one, and a past that leaves out the batches since."""
    watchdog.enter("start", "going back to the last checkpoint")
    saver.wait()
    state, restored = run.restore_or_init()
    saver.reload()  # a damaged one may have been set aside
    past = history.rolled_back(past, restored, diverged)
    first, end = past.rollbacks[-1]["plan_steps"]
    say(
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
        rows.append(progress.accuracy_row(name, run.num_classes[name], predictions))
        writer.write_images(step, {f"confusion/{name}": _heat_map(predictions.confusion(run.num_classes[name]))})
        if jax.process_index() == 0:
            of_split = evaluated.Evaluated(predictions, step, run.eval_splits[name].fingerprint)
            with storage.tolerated(f"{run.workdir}: predictions of {name}"):
                evaluated.save(run.workdir, name, of_split)
    if not rows:
        return {}
    accuracies["mean_top1"] = float(np.mean([accuracies[f"{name}/top1"] for name in run.eval_splits]))
    writer.write_scalars(step, {f"validation/{kind}": value for kind, value in accuracies.items()})
    say(progress.table(f"validation after {step} steps", rows))
    for name, of_splits in run.manifests.items():
        say(f"{name}: {manifest.line(of_splits)}" + _left_out(run.train_splits[name]))
    return accuracies


def _left_out(split: records.Split) -> str:
    return f"; {split.num_excluded} training examples left out as leaks" if split.num_excluded else ""


def _describe(run: Run, state) -> None:
    """Prints what is about to be trained, and writes config.json and versions.json."""
    for name, split in run.train_splits.items():
        evaluated = run.eval_splits[name].num_examples if name in run.eval_splits else 0
        say(f"{name}: {split.builder}, {split.num_examples} to train on, {evaluated} to validate on, "
            f"{run.num_classes[name]} classes")  # fmt: skip
    for name in run.kept:
        say(f"{name}: a head that is kept and not trained, {run.num_classes[name]} classes")
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    say(overview)
    say(f"{jax.device_count()} devices ({jax.devices()[0].device_kind}), mesh {dict(run.mesh.shape)}")
    if jax.process_index() == 0:
        with storage.tolerated(f"{run.workdir}: config.json, versions.json, parameters.txt"):
            run.workdir.mkdir(parents=True, exist_ok=True)
            (run.workdir / "config.json").write_text(json.dumps(run.meta["config"], indent=2))
            (run.workdir / "versions.json").write_text(json.dumps(run.meta["versions"], indent=2))
            (run.workdir / "parameters.txt").write_text(overview)


def _preview(run: Run, name: str, batch: dict) -> np.ndarray:
    """Up to four clips as the model sees them, but for normalisation: frames side by side, clips below each other."""
    dataset = run.config.datasets[name]
    few = {key: value[:4] for key, value in batch.items() if key != "index"}
    seen = preprocess.train(
        few, augment=dataset.augment, size_px=run.config.model.size_px, class_names=run.class_names[name],
        label_smoothing=dataset.label_smoothing, mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    return rearrange(np.clip(seen["frames"], 0, 1), "b t h w c -> (b h) (t w) c")


def _heat_map(confusion: np.ndarray) -> np.ndarray:
    """Image [S, S, 1] of values 0..1: rows are true classes, columns predicted ones, bright is often."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return np.kron(share, np.ones((max(1, 480 // len(share)),) * 2))[..., None]
