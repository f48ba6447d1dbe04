"""A run: the setup of a config, its opened data and its files, ready for training or evaluation."""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.checkpoint import compatibility, init_from, kept_heads, layout, metadata, restore
from cover_jax.checkpoint.layout import Meta
from cover_jax.config import checks, keys, plugins, schema
from cover_jax.errors import ConfigError
from cover_jax.evaluation import evaluator, evaluators
from cover_jax.models.heads import HeadSpec
from cover_jax.models.pretrained import loader
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.parallel import backend, hosts
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.preprocess import frame_size
from cover_jax.published import load, match
from cover_jax.tasks import metrics, registry
from cover_jax.training import inputs, optimizer, run_history, setup
from cover_jax.training.train_step import TrainState
from data_pipelines.doctor import manifest
from data_pipelines.stream import mixture


def _with_dtype(config: ConfigDict, mesh: Mesh) -> ConfigDict:
    """The config with config.model.dtype='auto' decided, which is said."""
    device = mesh.devices.flat[0]
    decided = backend.with_dtype(config, device)
    if decided is not config:
        print_on_host0(f"config.model.dtype='auto': {decided.model.dtype} on {device.device_kind}")
    return decided


class Run:
    """What training and evaluation share: the setup, the opened data, and the workdir.

    Args:
        config: a validated config.
        workdir: the run's folder, local or gs://.
        splits: the opened training and evaluation splits (`inputs.open_splits`). None: they are opened here.
        class_names: dataset -> the classes of its head, if these are not exactly the dataset's own.

    Attributes:
        config: the same, with the canvases that follow the model, and the dtype that follows the devices.
        setup: mesh, model, optimizer, steps.
        train_splits, eval_splits: dataset -> its opened split.
        enlargements: dataset -> how much its frames are enlarged for the model.
        num_examples: dataset -> number of its training examples.
        kept: the heads that are kept but not trained.
        evaluator: parameters -> predictions on all evaluation splits.
        measures: what else is measured at an evaluation (`config.evaluators`).
        mix: the step plan.
        manifests: dataset -> how many of the examples that its source lists are present.
        meta: the metadata of each of its checkpoints.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str,
        splits: tuple[dict, dict] | None = None,
        class_names: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
    ):
        self.workdir = epath.Path(workdir)
        plugins.check_packages("loggers", tuple(config.loggers), plugins.LOGGERS)
        mesh = setup.make_mesh(config)  # first: preparing and opening data may take long
        config = _with_dtype(config, mesh)
        self.train_splits, self.eval_splits = splits or inputs.open_splits(config)
        contents = inputs.contents(self.train_splits, self.eval_splits)
        sizes = inputs.frame_sizes(config, self.train_splits, self.eval_splits)
        saved_meta = _newest_meta(workdir)
        self.config = config = _with_canvases(config, sizes, saved_meta)
        prepared_px = {name: split.origin.get("short_side_px") for name, split in self.train_splits.items()}
        self.enlargements = frame_size.enlargements(config, sizes, prepared_px)
        saved_data = saved_meta["data"] if saved_meta else None
        self.train_splits, leaks = inputs.without_leaks(config, self.train_splits, self.eval_splits, saved_data)
        self.num_examples = {name: split.num_examples for name, split in self.train_splits.items()}
        class_names = {name: split.class_names for name, split in self.train_splits.items()} | dict(class_names)
        self.kept = kept_heads.find_kept_heads(config, saved_meta, class_names)
        class_names |= {name: head.class_names for name, head in self.kept.items()}
        specs = {name: HeadSpec.of(config.model, head.dataset.get("head")) for name, head in self.kept.items()}
        self.setup = setup.make_setup(config, class_names, mesh, self.kept, specs)
        metrics.check_best_metric(config.best_metric, self.setup.num_classes)
        self.evaluator = evaluator.Evaluator(config, self.setup.eval_steps, self.eval_splits, mesh)
        self.measures = evaluators.make(
            evaluators.EvaluatedRun(config, self.setup.model, self.train_splits, self.eval_splits, mesh)
        )
        self.mix = mixture.Mixture.of(config.datasets, config.plan, config.seed)
        self.manifests = {name: manifest.summary(d.builder, config.data_dir) for name, d in config.datasets.items()}
        self.meta = metadata.make_meta(config, self.train_splits, self.manifests, leaks, contents, self.kept)

    def restore(self, set_aside: bool) -> tuple[TrainState | None, dict]:
        """(state of the newest sound checkpoint, its meta). See `restore.restore_newest`."""
        state, saved = restore.restore_newest(str(self.workdir), self._state_of, self.meta, set_aside)
        if state is not None and (line := self._other_rate(saved, int(state.step))):
            print_on_host0(line)
        if state is not None and not self._has_heads_of(saved):
            now = self.setup
            state = compatibility.carry_over(state, now.init, now.shardings, now.init_key)
        return state, saved

    def _other_rate(self, saved: dict, step: int) -> str:
        """What another number of steps does to the learning rate; "" if it is the same number."""
        before, steps = metadata.config_of(saved), self.config.steps
        if before.steps == steps:
            return ""
        old, new = optimizer.make_schedule(before.optimizer, before.steps), self.setup.schedule
        return (
            f"config.steps={steps}, {before.steps} before: the learning rate at step {step} is {float(new(step)):.3g}, "
            f"with {before.steps} steps it would be {float(old(step)):.3g}; its schedule now ends at step {steps}"
        )

    def _state_of(self, saved: dict) -> TrainState:
        """Shapes and shardings of the state in a checkpoint with this meta. Its heads may differ from this run's."""
        if self._has_heads_of(saved):
            return self.setup.state
        kept, model = saved.get("kept", {}), self.config.model
        datasets = metadata.config_of(saved).datasets.to_dict() | kept  # its heads: some may have left the mix
        specs = {name: HeadSpec.of(model, dataset.get("head")) for name, dataset in datasets.items()}
        return setup.make_setup(self.config, saved["heads"], self.setup.mesh, kept, specs).state

    def _has_heads_of(self, saved: dict) -> bool:
        same_heads = saved["heads"].keys() == self.setup.class_names.keys()
        return same_heads and saved.get("kept", {}).keys() == self.kept.keys()

    def restore_or_init(self, set_aside: bool = True) -> tuple[TrainState, run_history.RunHistory]:
        """The state and the history to train from: those of the newest sound checkpoint, or else of a new run."""
        state, saved = self.restore(set_aside)
        if state is None:
            state = self.setup.new_state()
            state = self._with_pretrained(state) if self.config.model.init_from else state
            return state, run_history.begin(self.mix)
        return state, run_history.from_meta(self.mix, int(state.step), saved)

    def _with_pretrained(self, state: TrainState) -> TrainState:
        try:
            tasks = {name: dataset.task for name, dataset in self.config.datasets.items()}
            now, model = self.setup, self.config.model
            loaded = init_from.load(model.init_from, model, now.class_names, tasks, now.head_specs)
        except PretrainedError as error:
            raise ConfigError(f"config.model.init_from: {error}") from error
        params, kept = loader.fill(state.params, loaded)
        print_on_host0("\n  ".join([*loaded.report, f"new: {', '.join(kept) or 'nothing'}"]))
        # A copy: two leaves of the state must not share one buffer, or the state cannot be donated.
        return dataclasses.replace(state, params=params, ema=jax.tree.map(jnp.copy, params) if state.ema else {})


def _newest_meta(workdir: str) -> Meta | None:
    """The metadata of the newest checkpoint as the first host sees it: others may see an older state of the folder."""
    mine = None
    if jax.process_index() == 0 and layout.saved_steps(workdir):
        mine = restore.newest(workdir)[1]
    meta: Meta | None = json.loads(hosts.exchange(json.dumps(mine))[0])
    return meta


def _with_canvases(config: ConfigDict, sizes: frame_size.Sizes, saved_meta: Meta | None) -> ConfigDict:
    """The config with all canvases. A run that continues keeps those it began with, and says where they are others."""
    chosen = frame_size.with_canvases(config, sizes)
    if saved_meta is None:
        return chosen
    saved = metadata.config_of(saved_meta).datasets
    before = {
        name: tuple(saved[name].canvas_px)
        for name in config.datasets
        if name in saved and not frame_size.follows_model(saved[name].canvas_px)
    }
    kept = frame_size.with_canvases(config, sizes, before)
    for name, dataset in kept.datasets.items():
        if dataset.canvas_px != (now := chosen.datasets[name].canvas_px):
            print_on_host0(
                f"{name}: canvas {dataset.canvas_px}, as when the run began; its records would now give {now}; "
                f"config.datasets.{name}.canvas_px={now} changes it from here on"
            )
    return kept


# What a model computes: taken from the model that is evaluated, whatever the config says.
_MODEL_KEYS = keys.that_change(schema.Model, keys.Changes.SHAPE, keys.Changes.FUNCTION)
_VIEW_KEYS = ("num_frames", "sample_fps", "eval_clips", "eval_crops", "eval_crop_share")


def open_trained(config: ConfigDict, workdir: str) -> tuple[Run, TrainState]:
    """The model of `config.model.init_from` on the datasets of a config, without training: a published model or a run.

    Each dataset gets the head that knows most of its classes.

    Raises:
        ConfigError: the model cannot be read, or no head knows a class of a dataset.
    """
    try:
        trained = load.load(config.model.init_from)
    except (PretrainedError, FileNotFoundError) as error:
        raise ConfigError(f"config.model.init_from: {error}") from error
    splits = inputs.open_splits(config)
    heads = {
        # Of exactly one class per clip all classes compete, those that the dataset does not have, too.
        name: match.match_head(trained, name, split.class_names, config.datasets[name].task == registry.DEFAULT)
        for name, split in splits[0].items()
    }
    config = config.copy_and_resolve_references()
    config.model.update({key: trained.config.model[key] for key in _MODEL_KEYS})
    for name, head in heads.items():
        config.datasets[name].head = trained.dataset(head.source).head
    checks.validate(config)
    run = Run(config, workdir, splits, {name: head.class_names for name, head in heads.items()})
    params = {"backbone": trained.params["backbone"], "heads": {name: head.params for name, head in heads.items()}}
    state = run.setup.new_state()
    flat = traverse_util.flatten_dict(params, sep="/")
    params, _ = loader.fill(state.params, loader.LoadedWeights(flat, (), ()))
    lines = [*trained.notes, *(line for head in heads.values() for line in head.lines), *_other_views(config, trained)]
    print_on_host0("\n  ".join([f"evaluating {config.model.init_from}", *lines]))
    return run, dataclasses.replace(state, params=params, ema=jax.tree.map(jnp.copy, params) if state.ema else {})


def _other_views(config: ConfigDict, trained: metadata.TrainedModel) -> list[str]:
    """How the config's clips differ from those of a published model, with the flags that would make them equal."""
    if not trained.notes:
        return []
    (own,) = (trained.dataset(head) for head in trained.class_names)
    return [
        f"{name}: seen otherwise than the model's clips; as they are: "
        + " ".join(f"--config.datasets.{name}.{key}={own[key]}" for key in differing)
        for name, dataset in config.datasets.items()
        if (differing := [key for key in _VIEW_KEYS if dataset[key] != own[key]])
    ]
