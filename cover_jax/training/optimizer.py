"""config.optimizer -> one optax chain and its learning-rate schedule."""

import re
import types
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cover_jax.config import notices
from cover_jax.errors import ConfigError


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warmup from 0, then a cosine decay to `final_learning_rate` at the last of `steps` steps."""
    warmup_steps = notices.cut_warmup(config.warmup_steps, steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps,
        end_value=config.final_learning_rate,
    )


def make_optimizer(
    config: ConfigDict,
    schedule: optax.Schedule,
    params,
    kept_heads: Collection[str] = (),
    head_scales: Mapping[str, float] = types.MappingProxyType({}),
) -> optax.GradientTransformation:
    """Clipping, momentum or Adam, decoupled weight decay, rates per layer and head, schedule.

    Frozen parameters have no state.

    Args:
        config: config.optimizer.
        schedule: step -> learning rate.
        params: the parameters or their shapes; only paths and shapes are read.
        kept_heads: names of heads that are frozen as well.
        head_scales: head -> factor on the update of its parameters; 1 for a head that is not named.

    Raises:
        ConfigError: `frozen` matches no parameter, or all of them.
    """
    parts = [_direction(config)]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_decayed(config)))
    if config.layer_decay != 1:
        depth = jax.tree.leaves(params["backbone"]["blocks"])[0].shape[0]
        parts.append(_scale_layers(config.layer_decay, depth))
    if any(scale != 1 for scale in head_scales.values()):
        parts.append(_scale_heads(head_scales))
    tx = optax.chain(*parts, optax.scale_by_learning_rate(schedule))
    if not config.frozen and not kept_heads:
        return tx
    labels = map_paths(lambda path, _: "frozen" if re.fullmatch(config.frozen, path) else "trained", params)
    if config.frozen and len(set(jax.tree.leaves(labels))) < 2:
        paths = ", ".join(sorted(jax.tree.leaves(map_paths(lambda path, _: path, params)))[:5])
        which = "all parameters" if "frozen" in jax.tree.leaves(labels) else "no parameter"
        raise ConfigError(
            f"config.optimizer.frozen={config.frozen!r} matches {which}; it must match some, in full: {paths}, ..."
        )
    labels["heads"] |= {name: jax.tree.map(lambda _: "frozen", labels["heads"][name]) for name in kept_heads}
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def trains_backbone(config: ConfigDict, params) -> bool:
    """Whether config.optimizer trains any parameter of the backbone. Only paths are read."""
    frozen = map_paths(lambda path, _: bool(re.fullmatch(config.frozen, path)), {"backbone": params["backbone"]})
    return not all(jax.tree.leaves(frozen))


def stop_frozen(params, frozen: str):
    """The same parameters with `stop_gradient` on those whose full path `frozen` matches."""
    if not frozen:
        return params
    return map_paths(lambda path, p: jax.lax.stop_gradient(p) if re.fullmatch(frozen, path) else p, params)


def map_paths(fn, tree):
    """tree.map with the leaf's path as first argument: "backbone/blocks/time/qkv/kernel"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fn(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def _direction(config: ConfigDict) -> optax.GradientTransformation:
    if config.name == "sgd":
        return optax.trace(decay=config.momentum)
    return optax.scale_by_adam(b1=config.b1, b2=config.b2)


def _decayed(config: ConfigDict):
    return lambda params: map_paths(lambda path, _: not re.fullmatch(config.no_decay, path), params)


def _scale_layers(decay: float, depth: int) -> optax.GradientTransformation:
    """Heads and the last norm learn at the full rate, each block at `decay` times the rate of the block above it.

    As in BEiT and VideoMAE fine-tuning (layer 0: embeddings; block i: layer i + 1). Blocks are stacked, so their
    factors are one vector along the first axis. Unlike there, the time embedding learns at the full rate too: from an
    image model it starts at zero, and at the rate of layer 0 (1/40 for 12 blocks and decay 0.75) it hardly changes.
    """

    def scale(updates):  # of the parameters that are not frozen
        factors = decay ** jnp.arange(depth, 0, -1, dtype=jnp.float32)

        def one(path, update):
            if path.startswith("backbone/blocks/"):
                return update * factors.reshape(-1, *[1] * (update.ndim - 1))
            embedding = re.fullmatch(r"backbone/(patch_embed/.*|pre_norm/.*|cls_token|pos_embed|register_tokens)", path)
            return update * decay ** (depth + 1) if embedding else update

        return map_paths(one, updates)

    return optax.stateless(lambda updates, params: scale(updates))


def _scale_heads(scales: Mapping[str, float]):
    """Each head learns at its own multiple of the learning rate."""

    def one(path, update):
        part, name, *_ = path.split("/")
        return update * scales[name] if part == "heads" and name in scales else update

    return optax.stateless(lambda updates, params: map_paths(one, updates))
