"""A run: its config, opened data, model and state, ready to be trained or evaluated."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from cover_jax.checkpoint import compatibility, init_from, kept_heads, layout, metadata, restore
from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.evaluation import evaluator
from cover_jax.models import cover
from cover_jax.models.pretrained import loader
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.parallel import compilation, sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.training import inputs, optimizer, run_history, train_step
from data_pipelines.doctor import manifest
from data_pipelines.stream import mixture


class Run:
    """What training and evaluation share: the mesh, the opened data, the model and where its state lives.

    Args:
        config: a validated config.
        workdir: the run's folder, local or gs://.
    """

    def __init__(self, config: ConfigDict, workdir: str):
        self.config, self.workdir = config, epath.Path(workdir)
        self.mesh = sharding.make_mesh(config.mesh)
        checks.validate_batches(config, sharding.num_batch_shards(self.mesh))
        self.train_splits, self.eval_splits = inputs.open_splits(config)
        self.train_splits, found = inputs.without_leaks(config, self.train_splits, self.eval_splits)
        self.class_names = {name: split.class_names for name, split in self.train_splits.items()}
        self.num_examples = {name: split.num_examples for name, split in self.train_splits.items()}
        saved_meta = restore.newest(workdir)[1] if layout.saved_steps(workdir) else None
        self.kept = kept_heads.find_kept_heads(config, saved_meta, self.class_names)
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
        self.evaluator = evaluator.Evaluator(config, self.model, self.eval_splits, self.mesh)
        self.mix = mixture.Mixture({n: d.weight for n, d in config.datasets.items()}, config.plan, config.seed)
        self.manifests = {name: manifest.summary(d.builder, config.data_dir) for name, d in config.datasets.items()}
        self.meta = metadata.make_meta(config, self.train_splits, self.manifests, found, self.kept)

    def restore(self, set_aside: bool) -> tuple[train_step.TrainState | None, dict]:
        """(state of the newest sound checkpoint, its meta): see `restore.restore_newest`."""
        state, saved = restore.restore_newest(str(self.workdir), self._state_like_of, self.meta, set_aside)
        if state is not None and not self._has_heads_of(saved):
            state = compatibility.carry_over(state, self._make_init, self.shardings, self.key)
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
        return model, tx, init, restore.abstract_state(state_like, shardings)

    def _state_like_of(self, saved: dict):
        """Shapes and shardings of the state that a checkpoint with this meta has."""
        if self._has_heads_of(saved):
            return self._state_like
        num_classes = {name: len(classes) for name, classes in saved["heads"].items()}
        return self._with_heads(num_classes, saved.get("kept", {}))[-1]

    def _has_heads_of(self, saved: dict) -> bool:
        return saved["heads"].keys() == self.num_classes.keys() and saved.get("kept", {}).keys() == self.kept.keys()

    def restore_or_init(self) -> tuple[train_step.TrainState, run_history.RunHistory]:
        """The newest sound checkpoint's state or, where there is none, a new one born on its devices; with its past."""
        state, saved = self.restore(set_aside=True)
        if state is None:
            state = self._init(self.key)
            state = self._with_pretrained(state) if self.config.model.init_from else state
            return state, run_history.begin(self.mix)
        return state, run_history.from_meta(self.mix, int(state.step), saved)

    def _with_pretrained(self, state: train_step.TrainState) -> train_step.TrainState:
        try:
            loaded = init_from.load(self.config.model.init_from, self.config.model, self.class_names)
        except PretrainedError as error:
            raise ConfigError(f"config.model.init_from: {error}") from error
        params, kept = loader.fill(state.params, loaded)
        print_on_host0("\n  ".join([*loaded.report, f"new: {', '.join(kept) or 'nothing'}"]))
        # A copy: two leaves of the state must not be one buffer, or it cannot be donated.
        return state.replace(params=params, ema=jax.tree.map(jnp.copy, params) if state.ema else {})
