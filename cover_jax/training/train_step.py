"""Pure functions of training: the initial state, and one step over any set of datasets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cover_jax.models.cover import Functional, Params
from cover_jax.preprocess import model_input
from cover_jax.tasks import registry
from cover_jax.training import optimizer
from data_pipelines.stream import mixture

# B batch, T frames, H height, W width, C channels or classes

DeviceBatch = dict[str, jax.Array]  # a Batch (data_pipelines/stream/batch.py) as global arrays
Metrics = dict[str, Any]  # of a step; the keys are described in `make_train_step`


@flax.struct.dataclass
class TrainState:
    """All that training needs to continue. The position in the input follows from `step` alone."""

    step: jax.Array  # int32: optimizer steps taken, skipped ones included
    params: Params
    opt_state: optax.OptState
    ema: Params  # moving average of params; {} when off
    skipped: jax.Array  # int32: total steps skipped because their loss or gradient was not finite
    skipped_in_a_row: jax.Array  # int32: steps skipped since the last finite step

    @property
    def eval_params(self) -> Params:
        """The parameters for evaluation: the moving average if there is one."""
        return self.ema or self.params


def make_init(
    model: Functional, tx: optax.GradientTransformation, ema_decay: float
) -> Callable[[jax.Array], TrainState]:
    """PRNG key -> the state before the first step."""

    def init(key):
        params = model.init(key)
        zero = jnp.zeros((), jnp.int32)
        # A copy: two leaves of the state must not share one buffer, or the state cannot be donated.
        ema = jax.tree.map(jnp.copy, params) if ema_decay else {}
        return TrainState(zero, params, tx.init(params), ema, jnp.copy(zero), jnp.copy(zero))

    return init


def make_train_step(
    config: ConfigDict,
    model: Functional,
    class_names: Mapping[str, Sequence[str]],
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    cut: Callable[[jax.Array], jax.Array],
) -> Callable[[TrainState, dict[str, DeviceBatch]], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, {dataset: Batch}) -> (state, metrics)`; jit it with the state donated.

    The same function serves every step plan. It is compiled once per set of datasets and shapes. A batch serves its
    dataset and all that use its clips (config.datasets.NAME.same_clips_as). The metrics are
    {"DATASET/loss" | "DATASET/METRIC": (sum, count)}, where METRIC is the training metric of its task, plain scalars
    under "scalars" and, under "undecodable", {DATASET: [B]}: the index of each example with weight 0, and -1 for the
    others. `cut` divides an array [B, ...] into config.optimizer.grad_accum_steps pieces (sharding.cut_batch).
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    value_and_grad = jax.value_and_grad(_make_loss(config, model), has_aux=True)

    def prepare(name, batch):
        settings = model_input.TrainInput.of(config.model, config.datasets[name], class_names[name])
        return model_input.train(batch, settings) | {"weight": batch["weight"]}

    def train_step(state: TrainState, batches: dict[str, DeviceBatch]) -> tuple[TrainState, Metrics]:
        examples = {name: prepare(name, batch) for name, batch in batches.items()}
        counts = {name: jnp.sum(batch["weight"]) for name, batch in batches.items()}

        def gradients(examples, key):
            (_, measured), grads = value_and_grad(state.params, examples, counts, key)
            return grads, measured

        step_key, pieces = jax.random.fold_in(key, state.step), config.optimizer.grad_accum_steps
        grads, measured = _accumulate(gradients, examples, step_key, pieces, cut)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm)
        for loss, _ in (pair for key, pair in measured.items() if key.endswith("/loss")):
            finite &= jnp.isfinite(loss)
        # The optimizer counts only the steps that it applied: a skipped step does not advance its schedule.
        # Without the datasets' learning_rate_scale: one curve for all of them.
        scalars = {"learning_rate": schedule(state.step - state.skipped), "grad_norm": grad_norm}
        scale = config.datasets[next(iter(batches))].learning_rate_scale  # equal for all of a step (config/checks.py)
        state = _update(state, grads, finite, tx, config.optimizer.ema_decay, scale)
        scalars |= {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        undecodable = {name: jnp.where(batch["weight"] == 0, batch["index"], -1) for name, batch in batches.items()}
        return state, {**measured, "scalars": scalars, "undecodable": undecodable}

    return train_step


def _make_loss(config: ConfigDict, model: Functional) -> Callable:
    """(params, {dataset: a piece of its examples}, {dataset: weight of all of them}, key) -> (loss, metrics).

    The datasets are those whose clips are read (`mixture.by_clip_source`).
    """
    names, users = list(config.datasets), mixture.by_clip_source(config.datasets)

    def loss_fn(params, pieces, counts, key):
        params = optimizer.stop_frozen(params, config.optimizer.frozen)
        total = 0.0
        measured: Metrics = {}
        for source, piece in pieces.items():
            own_key = jax.random.fold_in(key, names.index(source))  # drop-path differs between the datasets of one step
            drop = {"key": own_key, "drop_path": drop_path(config, source)}
            for name, logits_BC in model.apply_heads(params, piece["frames"], users[source], **drop).items():
                task = registry.of(config.datasets[name])
                loss, _ = weighted_sum(task.loss(logits_BC, piece["targets"]), piece["weight"])
                hits = jnp.sum(task.hits(logits_BC, piece["answers"]) * piece["weight"])
                total += config.datasets[name].loss_weight * loss / jnp.maximum(counts[source], 1.0)
                count = jnp.sum(piece["weight"])
                measured |= {f"{name}/loss": (loss, count), f"{name}/{task.train_metric}": (hits, count)}
        return total, measured

    return loss_fn


def drop_path(config: ConfigDict, name: str) -> float:
    """The rate of stochastic depth for a dataset's examples."""
    own: float = config.datasets[name].drop_path
    shared: float = config.model.drop_path
    return shared if own == -1 else own


def _accumulate(gradients: Callable, examples: dict, key: jax.Array, num_pieces: int, cut: Callable):
    """The sum of `gradients(examples, key) -> (gradients, metrics)` over the pieces, computed one after another."""
    if num_pieces == 1:
        return gradients(examples, key)
    pieces = jax.tree.map(cut, examples)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], pieces), key))

    def add(total, piece_and_number):
        piece, number = piece_and_number
        return jax.tree.map(jnp.add, total, gradients(piece, jax.random.fold_in(key, number))), None

    return jax.lax.scan(add, zeros, (pieces, jnp.arange(num_pieces)))[0]


def _update(state: TrainState, grads, finite, tx, ema_decay: float, learning_rate_scale: float) -> TrainState:
    """The next state. If the loss or the gradients are not finite, only the counters change.

    `learning_rate_scale` multiplies the whole update, as a factor on the learning rate does: that of momentum, of Adam
    and of weight decay, too. The optimizer's state does not depend on it.
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    if learning_rate_scale != 1:
        updates = optax.tree.scale(learning_rate_scale, updates)
    params = optax.apply_updates(state.params, updates)
    # Not optax.incremental_update: its weighted sum changes a constant parameter's average by a rounding error.
    ema = jax.tree.map(lambda new, old: old + (1 - ema_decay) * (new - old), params, state.ema) if ema_decay else {}
    params, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, ema),
        (state.params, state.opt_state, state.ema),
    )
    bad = 1 - finite.astype(jnp.int32)
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        skipped=state.skipped + bad,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
    )


def weighted_sum(loss_B: jax.Array, weight_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The losses of a batch's examples: (weighted sum, sum of the weights)."""
    # `where`, because 0 * NaN is NaN: a NaN of an example without weight must not reach the sum.
    return jnp.sum(jnp.where(weight_B > 0, loss_B * weight_B, 0.0)), jnp.sum(weight_B)
