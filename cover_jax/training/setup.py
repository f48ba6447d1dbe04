"""Builds a run: config and class names -> model, optimizer, the state's shapes, the jitted steps.

Training, evaluation, plan, predict and export all use this module. So the plan compiles the step that training runs,
and predictions come from the model that was evaluated. It reads no files and computes only shapes. So it is cheap, and
it also works on devices that exist only for the compiler.
"""

import dataclasses
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.evaluation import eval_step
from cover_jax.models import cover, flops
from cover_jax.models.heads import HeadSpec
from cover_jax.parallel import compilation, sharding
from cover_jax.preprocess import frame_size
from cover_jax.tasks import registry
from cover_jax.training import optimizer, train_step
from cover_jax.training.train_step import DeviceBatch, Metrics, TrainState
from data_pipelines.stream import mixture
from data_pipelines.stream.batch import eval_batch_rows

HeadSpecs = Mapping[str, HeadSpec]
NO_SPECS: HeadSpecs = types.MappingProxyType({})
ClassNames = Mapping[str, Sequence[str]]  # head -> its classes, in the order of their labels


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """Everything of a run except its data and its files.

    Attributes:
        config: the whole config.
        class_names: of all heads: the heads of the datasets and the kept heads.
        head_specs: head -> what it is, of the same heads.
        mesh: the devices.
        model: the model as pure functions.
        schedule: step -> learning rate.
        init: PRNG key -> the state before the first step; a pure function, not jitted (see `new_state`).
        state: shapes, types and shardings of the state: the target when a checkpoint is restored.
        train_step: (state, {dataset: Batch}) -> (state, metrics), jitted. The input state is donated.
        eval_steps: dataset -> (parameters, Batch) -> {dataset: predictions}, jitted. Only datasets with an eval_split,
            and with clips of their own, have one.
    """

    config: ConfigDict
    class_names: ClassNames
    head_specs: HeadSpecs
    mesh: Mesh
    model: cover.Functional
    schedule: optax.Schedule
    init: Callable[[jax.Array], TrainState]
    state: TrainState
    train_step: Callable[[TrainState, dict[str, DeviceBatch]], tuple[TrainState, Metrics]]
    eval_steps: Mapping[str, Callable[[cover.Params, DeviceBatch], dict[str, dict[str, jax.Array]]]]

    @property
    def num_classes(self) -> dict[str, int]:
        """Head -> number of its classes."""
        return {head: len(names) for head, names in self.class_names.items()}

    @property
    def shardings(self) -> TrainState:
        """The sharding of each leaf of the state."""
        shardings: TrainState = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        return shardings

    @property
    def init_key(self) -> jax.Array:
        """The PRNG key of the initial parameters."""
        return jax.random.key(self.config.seed)

    def new_state(self) -> TrainState:
        """The state before the first step. Each shard is computed on its own device."""
        state: TrainState = compilation.jit(self.init, mesh=self.mesh, out_shardings=self.shardings)(self.init_key)
        return state

    def step_flops(self, name: str) -> int:
        """Operations that a training step on a dataset needs (`flops.train_step`)."""
        trains_backbone = optimizer.trains_backbone(self.config.optimizer, self.state.params)
        return flops.train_step(self.config, name, trains_backbone)

    @property
    def step_datasets(self) -> list[tuple[str, ...]]:
        """The sets of datasets that steps are taken on: each has a program of its own."""
        names = tuple(self.config.datasets)
        return [names] if self.config.plan == "joint" else [(name,) for name in names]

    def lower_train_step(self, names: Sequence[str]) -> jax.stages.Lowered:
        """The training step on these datasets, ready to be compiled."""
        jitted: Any = self.train_step
        lowered: jax.stages.Lowered = jitted.lower(self.state, self.train_batches(names))
        return lowered

    def lower_eval_step(self, name: str) -> jax.stages.Lowered:
        """The evaluation step on a dataset, ready to be compiled."""
        jitted: Any = self.eval_steps[name]
        lowered: jax.stages.Lowered = jitted.lower(self.state.eval_params, self.eval_batch(name))
        return lowered

    def train_batches(self, names: Sequence[str]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Dataset -> its `train_batch`, of those whose clips a step on these datasets reads."""
        sources = dict.fromkeys(mixture.clip_source(self.config.datasets, name) for name in names)
        return {source: self.train_batch(source) for source in sources}

    def train_batch(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a dataset's training Batch, over all devices."""
        dataset = self.config.datasets[name]
        return self._abstract_batch(name, dataset.batch_size, dataset.num_frames)

    def eval_batch(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a dataset's evaluation Batch, over all devices."""
        dataset = self.config.datasets[name]
        num_frames = dataset.num_frames * dataset.eval_clips
        size = eval_batch_rows(dataset, sharding.num_batch_shards(self.mesh))
        return self._abstract_batch(name, size, num_frames)

    def _abstract_batch(self, name: str, size: int, num_frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A Batch of a dataset as `sharding.put_batch` returns it."""
        dataset = self.config.datasets[name]
        shapes = {
            "frames": jax.ShapeDtypeStruct((size, num_frames, *dataset.canvas_px, 3), jnp.uint8),
            "size_px": jax.ShapeDtypeStruct((size, 2), jnp.int32),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
            "weight": jax.ShapeDtypeStruct((size,), jnp.float32),
            "index": jax.ShapeDtypeStruct((size,), jnp.int32),
            "seed": jax.ShapeDtypeStruct((size,), jnp.uint32),
        }
        if registry.of(dataset).several_labels:
            shapes["targets"] = jax.ShapeDtypeStruct((size, self.num_classes[name]), jnp.float32)
        return sharding.abstract(shapes, jax.tree.map(lambda _: sharding.batch_sharding(self.mesh), shapes))


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config over `devices`, by default all devices.

    Raises:
        ConfigError: config.mesh does not fit the devices, or they cannot share a training batch evenly.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    checks.validate_batches(config, mesh.shape)
    return mesh


def make_model(
    model: ConfigDict, class_names: ClassNames, mesh: Mesh | None = None, head_specs: HeadSpecs = NO_SPECS
) -> cover.Functional:
    """The model of `config.model` with these heads, split over a mesh; without a mesh, on one device.

    A head without an entry in `head_specs` is of the kind `config.model.head`.
    """
    num_classes = {head: len(names) for head, names in class_names.items()}
    if mesh is None:
        return cover.functional(model, num_classes, head_specs)
    constrain, qkv_sharding = sharding.constrain_batch(mesh), sharding.qkv_sharding(mesh)
    return cover.functional(model, num_classes, head_specs, constrain=constrain, qkv_sharding=qkv_sharding)


def make_setup(
    config: ConfigDict,
    class_names: ClassNames,
    mesh: Mesh,
    kept_heads: Collection[str] = (),
    head_specs: HeadSpecs = NO_SPECS,
) -> Setup:
    """Assembles a run.

    Args:
        config: the whole config, validated.
        class_names: of all heads. Their order decides the random initial values of each head.
        mesh: from `make_mesh`.
        kept_heads: names of the heads that are not trained.
        head_specs: of the heads that are not those of the config's datasets.

    Raises:
        ConfigError: `optimizer.frozen` matches no parameter, or all of them; or a mesh axis does not divide a size.
    """
    config = frame_size.with_canvases(config, {})  # where no data is known, as in a plan
    own = {name: HeadSpec.of(config.model, dataset.head) for name, dataset in config.datasets.items()}
    head_specs = {**own, **head_specs}
    model = make_model(config.model, class_names, mesh, head_specs)
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    schedule = optimizer.make_schedule(config.optimizer, config.steps)
    scales = {name: dataset.head.learning_rate_scale for name, dataset in config.datasets.items()}
    tx = optimizer.make_optimizer(config.optimizer, schedule, jax.eval_shape(model.init, key), kept_heads, scales)
    init = train_step.make_init(model, tx, config.optimizer.ema_decay)
    shapes = jax.eval_shape(init, key)
    shardings = sharding.state_shardings(shapes, model.axes, mesh)
    cut = sharding.cut_batch(mesh, config.optimizer.grad_accum_steps)
    return Setup(
        config=config,
        class_names=class_names,
        head_specs=head_specs,
        mesh=mesh,
        model=model,
        schedule=schedule,
        init=init,
        state=sharding.abstract(shapes, shardings),
        train_step=compilation.jit(
            train_step.make_train_step(config, model, class_names, tx, schedule, cut),
            mesh=mesh,
            donate_argnums=0,
            out_shardings=(shardings, sharding.replicated(mesh)),
        ),
        eval_steps={
            name: compilation.jit(
                eval_step.make_eval_step(config, model, name), mesh=mesh, out_shardings=sharding.replicated(mesh)
            )
            for name in mixture.by_clip_source(config.datasets)
            if config.datasets[name].eval_split
        },
    )
