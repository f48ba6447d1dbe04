"""Classification heads: features of one dataset's clips to its logits, in float32.

A head reads what its kind says: the CLS features [B, D], or the patch tokens [B, T, N, D].
"""

# B batch, T frames, N patches of a frame, D width, S = T * N tokens of a clip, Q = 1 query, H heads, K head_dim,
# L blocks

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx

from cover_jax.models import attention, layers, timesformer
from cover_jax.models.layers import ZEROS, linear

# Of the attentive head: facebookresearch/vjepa2, src/models/attentive_pooler.py and torch's nn.LayerNorm.
INIT_STD, MLP_RATIO, LAYER_NORM_EPS = 0.02, 4, 1e-5
DEPTH = 4  # as `datasets.NAME.head.depth` in cover_jax/config/schema.py, which has the source


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """What one head is.

    Attributes:
        kind: a key of `HEADS`.
        depth: of an attentive head: its number of blocks, the last of which pools; other kinds have 0.
        num_heads: of an attentive head: its number of attention heads; 0: as many as the backbone has.
    """

    kind: str = "linear"
    depth: int = 0
    num_heads: int = 0

    @classmethod
    def of(cls, model: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> "HeadSpec":
        """The head of a dataset.

        Args:
            model: `config.model`; its `head` is the kind that a dataset does not name itself.
            own: `head` of the dataset's config; None: of a checkpoint that is older than this key.

        Raises:
            ValueError: there is no such kind.
        """
        kind = (own or {}).get("kind") or model["head"]
        if kind not in HEADS:
            raise ValueError(f"model.head: {kind!r} is not one of {', '.join(HEADS)}")
        if kind != "attentive":
            return cls(kind)
        return cls(kind, own["depth"], own["num_heads"]) if own else cls(kind, DEPTH)

    @property
    def reads(self) -> Literal["cls", "tokens"]:
        """What the head reads: the CLS features, or the patch tokens."""
        return HEADS[self.kind].reads


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a head is built for.

    Attributes:
        width: of the features.
        num_classes: number of logits.
        num_heads: attention heads of the backbone.
        dtype: of activations and matrix products inside an attentive head. Logits are float32.
    """

    width: int
    num_classes: int
    num_heads: int
    dtype: jnp.dtype = dataclasses.field(default_factory=lambda: jnp.dtype(jnp.float32))


def logits_layer(axis: str, sizes: Sizes, rngs: nnx.Rngs) -> nnx.Linear:
    """Zero at the start, so that all classes are equal: big_vision, models/vit.py, `head_zeroinit`; PolyViT's heads.

    Full precision, because by default a TPU rounds the factors of a float32 product to bfloat16.
    """
    highest, shape = jax.lax.Precision.HIGHEST, (sizes.width, sizes.num_classes)
    return linear((axis, "classes"), shape, dtype=jnp.float32, rngs=rngs, kernel_init=ZEROS, precision=highest)


def linear_head(_: HeadSpec, sizes: Sizes, rngs: nnx.Rngs) -> nnx.Linear:
    """Features [B, D] to logits [B, num_classes]."""
    return logits_layer("embed", sizes, rngs)


class MlpHead(nnx.Module):
    """One hidden tanh layer of the model's width before the logits: ViT's pre-training head (arXiv 2010.11929)."""

    def __init__(self, _: HeadSpec, sizes: Sizes, rngs: nnx.Rngs):
        highest, shape = jax.lax.Precision.HIGHEST, (sizes.width, sizes.width)
        self.pre_logits = linear(("embed", "mlp"), shape, dtype=jnp.float32, rngs=rngs, precision=highest)
        self.logits = logits_layer("mlp", sizes, rngs)

    def __call__(self, features_BD: jax.Array) -> jax.Array:
        """Features [B, D] to logits [B, num_classes]."""
        return self.logits(jnp.tanh(self.pre_logits(features_BD)))


def _layer(
    axes: tuple[str, str], shape: tuple[int, int], sizes: Sizes, rngs: nnx.Rngs, scale: float = 1.0
) -> layers.Linear:
    init = nnx.initializers.normal(INIT_STD * scale)  # theirs is truncated only at -2 and 2
    return linear(axes, shape, dtype=sizes.dtype, rngs=rngs, kernel_init=init)


class _Mlp(nnx.Module):
    """Norm and two layers around an exact GELU, without the residual."""

    def __init__(self, sizes: Sizes, scale: float, rngs: nnx.Rngs):
        hidden = MLP_RATIO * sizes.width
        self.norm = layers.layer_norm(sizes.width, LAYER_NORM_EPS, rngs)
        self.fc1 = _layer(("embed", "mlp"), (sizes.width, hidden), sizes, rngs)
        self.fc2 = _layer(("mlp", "embed"), (hidden, sizes.width), sizes, rngs, scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = self.fc2(layers.gelu(self.fc1(self.norm(x)), "exact"))
        return y


class TokenBlock(nnx.Module):
    """Self-attention over all tokens of a clip, then an MLP: pre-norm residual branches."""

    def __init__(self, num_heads: int, sizes: Sizes, rngs: nnx.Rngs):
        width = sizes.width
        self.num_heads = num_heads
        self.norm = layers.layer_norm(width, LAYER_NORM_EPS, rngs)
        self.qkv = _layer(("embed", "heads"), (width, 3 * width), sizes, rngs)
        self.out = _layer(("heads", "embed"), (width, width), sizes, rngs)
        self.mlp = _Mlp(sizes, 1.0, rngs)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        """Tokens [B, S, D] after the block."""
        qkv_B1SC = rearrange(self.qkv(self.norm(x_BSD)), "b s c -> b 1 s c")
        attended_B1SD = attention.attend(qkv_B1SC, self.num_heads, "space")  # one "frame" of all tokens
        x_BSD = x_BSD + self.out(rearrange(attended_B1SD, "b 1 s d -> b s d"))
        return x_BSD + self.mlp(x_BSD)


class PoolingBlock(nnx.Module):
    """A learnt query attends to all tokens of a clip, then an MLP. There is no projection after the attention."""

    def __init__(self, num_heads: int, scale: float, sizes: Sizes, rngs: nnx.Rngs):
        width = sizes.width
        self.num_heads = num_heads
        self.query = timesformer.embedding(1, width, nnx.initializers.normal(INIT_STD), rngs)
        self.norm = layers.layer_norm(width, LAYER_NORM_EPS, rngs)
        self.query_projection = _layer(("embed", "heads"), (width, width), sizes, rngs)
        self.key_value = _layer(("embed", "heads"), (width, 2 * width), sizes, rngs)
        self.mlp = _Mlp(sizes, scale, rngs)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        """Tokens [B, S, D] to pooled features [B, D]."""
        query_11D, heads = self.query[...].astype(x_BSD.dtype), self.num_heads
        query_QHK = rearrange(self.query_projection(query_11D), "1 q (h k) -> q h k", h=heads)
        key, value = rearrange(self.key_value(self.norm(x_BSD)), "b s (c h k) -> c b s h k", c=2, h=heads)
        scores = jnp.einsum("qhk,bshk->bhqs", query_QHK, key, preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores * query_QHK.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
        pooled_BQD = rearrange(jnp.einsum("bhqs,bshk->bqhk", shares, value), "b q h k -> b q (h k)")
        pooled_BQD = repeat(query_11D, "1 q d -> b q d", b=len(x_BSD)) + pooled_BQD
        return rearrange(pooled_BQD + self.mlp(pooled_BQD), "b 1 d -> b d")


class AttentiveHead(nnx.Module):
    """V-JEPA 2's attentive probe (arXiv 2506.09985): self-attention blocks, a pooling block, logits.

    Equal to `AttentiveClassifier` of facebookresearch/vjepa2, src/models/attentive_pooler.py, but for the logits, which
    are zero at the start as those of the other heads. A backward pass recomputes the blocks, as there.
    """

    def __init__(self, spec: HeadSpec, sizes: Sizes, rngs: nnx.Rngs):
        num_heads = spec.num_heads or sizes.num_heads
        if spec.depth < 1:
            raise ValueError(f"head.depth: {spec.depth}: must be at least 1")
        if sizes.width % num_heads:
            raise ValueError(f"head.num_heads: {num_heads} does not divide the width {sizes.width}")
        self.blocks = self._stack(spec.depth - 1, num_heads, sizes, rngs) if spec.depth > 1 else None
        self.dtype = sizes.dtype
        self.pool = PoolingBlock(num_heads, 1 / math.sqrt(2 * max(spec.depth - 1, 1)), sizes, rngs)
        self.logits = logits_layer("embed", sizes, rngs)

    @staticmethod
    def _stack(count: int, num_heads: int, sizes: Sizes, rngs: nnx.Rngs) -> TokenBlock:
        """Stacked blocks. The deeper a block, the smaller the initial values of the last layer of its branches."""
        stack: Callable[[nnx.Rngs], TokenBlock] = nnx.vmap(
            lambda rngs: TokenBlock(num_heads, sizes, rngs), transform_metadata={nnx.PARTITION_NAME: "layers"}
        )
        blocks = stack(rngs.split(count))
        scale_L11 = (2 * jnp.arange(1.0, count + 1)) ** -0.5
        for layer in (blocks.out, blocks.mlp.fc2):
            layer.kernel[...] = layer.kernel[...] * scale_L11[:, None, None]
        return blocks

    def __call__(self, x_BTND: jax.Array, constrain: timesformer.Constrain = lambda x: x) -> jax.Array:
        """Patch tokens [B, T, N, D] to logits [B, num_classes]. `constrain` is applied to the tokens of each block."""

        def step(x_BSD: jax.Array, block: TokenBlock) -> tuple[jax.Array, None]:
            return constrain(block(x_BSD)), None

        x_BSD = constrain(rearrange(x_BTND, "b t n d -> b (t n) d").astype(self.dtype))
        if self.blocks is not None:
            x_BSD, _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), x_BSD, self.blocks)
        pooled_BD = jax.checkpoint(lambda pool, x_BSD: pool(x_BSD))(self.pool, x_BSD)
        logits_BC: jax.Array = self.logits(pooled_BD.astype(jnp.float32))
        return logits_BC


@dataclasses.dataclass(frozen=True)
class HeadKind:
    """One kind of head.

    Attributes:
        build: (spec, sizes, rngs) -> the module, called with the features that it reads.
        reads: the CLS features [B, D], or the patch tokens [B, T, N, D].
    """

    build: Callable[[HeadSpec, Sizes, nnx.Rngs], nnx.Module]
    reads: Literal["cls", "tokens"]


HEADS = {
    "linear": HeadKind(linear_head, "cls"),
    "mlp": HeadKind(MlpHead, "cls"),
    "attentive": HeadKind(AttentiveHead, "tokens"),
}


def is_per_class(leaf: str) -> bool:
    """Whether the last axis of a head's parameter is that of the classes. `leaf` is its path within the head."""
    return leaf in ("kernel", "bias") or leaf.startswith("logits/")


def flops(spec: HeadSpec, width: int, num_tokens: int) -> int:
    """Operations of an attentive head for one clip: matrix products, a multiply-add counts as two; 0 for other kinds.

    Args:
        spec: the head.
        width: of the features.
        num_tokens: patch tokens of the clip.
    """
    if spec.kind != "attentive":
        return 0  # at most one product of [D, D], for one token of the clip
    mlp = 2 * 2 * MLP_RATIO * width**2
    block = (2 * 4 * width**2 + mlp) * num_tokens + 4 * width * num_tokens**2
    pool = 2 * 2 * width**2 * num_tokens + 4 * width * num_tokens + 2 * width**2 + mlp
    return (spec.depth - 1) * block + pool
