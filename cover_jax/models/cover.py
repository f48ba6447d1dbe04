"""CoVeR (arXiv 2112.07175): one TimeSformer with one head per dataset, as functions of a nested dict of arrays.

The optimizer, checkpoints and sharding use this dict. Paths in it are the modules' attribute names:
`backbone/blocks/time/qkv/kernel`, `heads/NAME/kernel`.
"""

# B batch, T frames, H height, W width, C channels, D width

import dataclasses
import functools
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from cover_jax.models import attention, heads, layers, timesformer, variants

Params = dict[str, Any]  # nested dict with arrays as leaves


@dataclasses.dataclass(frozen=True)
class Functional:
    """A model as pure functions.

    Attributes:
        init: PRNG key -> float32 parameters. Can be jitted and `eval_shape`d.
        features: (params, frames, *, key=None, drop_path=None) -> CLS features [B, D], float32.
        apply: (params, frames, head, *, key=None, drop_path=None) -> logits [B, classes of that head], float32.
        apply_heads: the same of several heads, which read one pass of the backbone -> {head: logits}.
        axes: the parameters' tree, with a tuple of logical axis names per parameter, one name per dimension.
        tokens: as `features` -> (CLS features [B, D], patch tokens [B, T, N, D]), both normalised, float32.

    `frames` are float [B, T, H, W, 3], normalised. T is any number; H and W are multiples of the patch size. `head` is
    a name in `num_classes`. A `key` turns drop-path on; its rate is `drop_path`, by default the model's.
    """

    init: Callable[[jax.Array], Params]
    features: Callable[..., jax.Array]
    apply: Callable[..., jax.Array]
    apply_heads: Callable[..., dict[str, jax.Array]]
    axes: Params
    tokens: Callable[..., tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Part:
    """One module without its arrays.

    Attributes:
        init: PRNG key -> the initial arrays.
        bind: arrays -> the module with these arrays, ready to be called.
        axes: the arrays' tree, with a tuple of logical axis names per array.
    """

    init: Callable[[jax.Array], Params]
    bind: Callable[[Params], Any]
    axes: Params


def identity(x: jax.Array) -> jax.Array:
    """No constraint: returns the activations unchanged."""
    return x


def functional(
    model: ConfigDict,
    num_classes: Mapping[str, int],
    head_specs: Mapping[str, heads.HeadSpec] = types.MappingProxyType({}),
    *,
    constrain: timesformer.Constrain = identity,
    qkv_sharding: NamedSharding | None = None,
) -> Functional:
    """The model of a config, with one head per name in `num_classes`.

    Args:
        model: `config.model`, as in configs/common.py.
        num_classes: head name -> its number of classes. Names are letters, digits and "_".
        head_specs: head name -> what it is. A head that is not named is of the kind `config.model.head`.
        constrain: a sharding constraint, applied to activations (batch first) before and after every block.
        qkv_sharding: sharding of projected tokens [B, T, S, C] for attention kernels, which the partitioner cannot
            split. None: they are not split.

    Raises:
        ValueError: an invalid config value, head name or head size. The message names it and the valid values.
    """
    backbone = make_backbone(model, choose_attention(model, qkv_sharding))
    specs = {name: head_specs.get(name) or heads.HeadSpec.of(model) for name in num_classes}
    head_parts = {name: make_head(model, specs[name], name, count) for name, count in num_classes.items()}

    def init(key: jax.Array) -> Params:
        backbone_key, heads_key = jax.random.split(key)
        head_keys = jax.random.split(heads_key, len(head_parts))
        drawn = {name: part.init(key) for (name, part), key in zip(head_parts.items(), head_keys, strict=True)}
        return {"backbone": backbone.init(backbone_key), "heads": drawn}

    def features(params: Params, frames_BTHWC: jax.Array, **drop: Any) -> jax.Array:
        return cast(jax.Array, run(backbone.bind(params["backbone"]), frames_BTHWC, **drop))

    def tokens(params: Params, frames_BTHWC: jax.Array, **drop: Any) -> tuple[jax.Array, jax.Array]:
        return cast(tuple[jax.Array, jax.Array], run(backbone.bind(params["backbone"]).tokens, frames_BTHWC, **drop))

    def run(
        module: Callable[..., Any], frames: jax.Array, *, key: jax.Array | None = None, drop_path: float | None = None
    ) -> Any:
        return module(frames, key, constrain, drop_path)

    def apply_heads(
        params: Params, frames_BTHWC: jax.Array, names: Collection[str], **drop: Any
    ) -> dict[str, jax.Array]:
        for head in names:
            _check_choice("head", head, head_parts)
        bound = {head: head_parts[head].bind(params["heads"][head]) for head in names}
        of_cls = [head for head in names if specs[head].reads == "cls"]
        if len(of_cls) == len(names):
            features_BD = features(params, frames_BTHWC, **drop)
            return {head: bound[head](features_BD) for head in names}
        features_BD, tokens_BTND = tokens(params, frames_BTHWC, **drop)
        return {h: bound[h](features_BD) if h in of_cls else bound[h](tokens_BTND, constrain) for h in names}

    def apply(params: Params, frames_BTHWC: jax.Array, head: str, **drop: Any) -> jax.Array:
        return apply_heads(params, frames_BTHWC, (head,), **drop)[head]

    axes = {"backbone": backbone.axes, "heads": {name: part.axes for name, part in head_parts.items()}}
    return Functional(init, features, apply, apply_heads, axes, tokens)


def make_backbone(model: ConfigDict, attend: attention.AttentionForm) -> Part:
    """The backbone of a config, with a form of attention.

    Raises:
        ValueError: as in `functional`.
    """
    return _part(functools.partial(timesformer.TimeSformer, _backbone_config(model), attend))


def _backbone_config(model: ConfigDict) -> timesformer.TimeSformerConfig:
    variant = variants.parse(model.variant)
    if model.size_px < 1 or model.size_px % variant.patch_px:
        raise ValueError(f"model.size_px: {model.size_px} is not a positive multiple of {model.variant}'s patch")
    if model.num_frames < 1:
        raise ValueError(f"model.num_frames: {model.num_frames} is not positive")
    if not 0 <= model.drop_path < 1:
        raise ValueError(f"model.drop_path: {model.drop_path} is not in [0, 1)")
    _check_choice("model.temporal_init", model.temporal_init, timesformer.TEMPORAL_INITS)
    _check_choice("model.remat", model.remat, timesformer.REMATS)
    if model.registers < 0:
        raise ValueError(f"model.registers: {model.registers} is negative")
    _check_choice("model.gelu", model.gelu, layers.GELUS)
    _check_choice("model.dtype", model.dtype, ("bfloat16", "float32"))
    return timesformer.TimeSformerConfig(
        variant=variant,
        num_patches=(model.size_px // variant.patch_px) ** 2,
        num_frames=model.num_frames,
        drop_path=model.drop_path,
        temporal_init=model.temporal_init,
        time_embed_std=model.time_embed_std,
        gelu=model.gelu,
        layer_norm_eps=model.layer_norm_eps,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        pre_norm=model.pre_norm,
        registers=model.registers,
    )


def choose_attention(model: ConfigDict, qkv_sharding: NamedSharding | None) -> attention.AttentionForm:
    """The form of attention of `config.model` on the devices of a sharding (`attention.choose`)."""
    _check_choice("model.attention", model.attention, attention.FORMS)
    config = _backbone_config(model)
    head_dim = config.variant.width // config.variant.num_heads
    clip = (config.num_frames, config.num_patches + config.registers + 1)
    return attention.choose(model.attention, config.variant.num_heads, head_dim, config.dtype, qkv_sharding, clip)


def make_head(model: ConfigDict, spec: heads.HeadSpec, name: str, num_classes: int) -> Part:
    """One head on features of a config's backbone.

    Raises:
        ValueError: as in `functional`.
    """
    if re.fullmatch(r"[A-Za-z0-9_]+", name) is None:
        raise ValueError(f"head {name!r}: a name is letters, digits and '_' only")
    if num_classes < 1:
        raise ValueError(f"head {name!r}: {num_classes} classes; at least 1 is needed")
    variant = variants.parse(model.variant)
    sizes = heads.Sizes(variant.width, num_classes, variant.num_heads, _backbone_config(model).dtype)
    return _part(functools.partial(heads.HEADS[spec.kind].build, spec, sizes))


def _check_choice(what: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what}: {value!r} is not one of {', '.join(choices)}")


def _part(build: Callable[..., nnx.Module]) -> Part:
    """`build(rngs=...)` as functions of its parameters."""

    def draw(rngs: nnx.Rngs) -> nnx.Module:
        # The annotations are logical names. The caller has the mesh and turns them into shardings.
        with nnx.use_eager_sharding(False):
            return build(rngs=rngs)

    graph, abstract = jax.eval_shape(lambda: nnx.split(draw(nnx.Rngs(0))))
    return Part(
        init=lambda key: nnx.to_pure_dict(nnx.state(draw(nnx.Rngs(key)))),
        bind=lambda params: nnx.merge(graph, params),
        axes=nnx.to_pure_dict(abstract, lambda variable: variable.get_metadata("out_sharding")),
    )
