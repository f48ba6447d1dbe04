"""TimeSformer with divided space-time attention (arXiv 2102.05095), numerically equal to the authors' code.

The references are `timesformer/models/vit.py` of facebookresearch/TimeSformer, and Hugging Face's
`TimesformerForVideoClassification`, which the tests compare with. Differences: the grid need not be square, and any
number of frames is possible, also a single frame.
"""

# B batch, T frames, H height, W width, C channels, N patches of a frame, R registers, S = N + R + 1 tokens of a frame
# with registers and CLS, D width

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx

from cover_jax.models.attention import OUTPUT_NAME, AttentionForm, reads_parts
from cover_jax.models.kernels.divided_attention import Axis
from cover_jax.models.layers import XAVIER, ZEROS, gelu, layer_norm, linear
from cover_jax.models.variants import Variant

Constrain = Callable[[jax.Array], jax.Array]

REGISTER_STD = 1e-6  # of register_tokens: facebookresearch/dinov2, dinov2/models/vision_transformer.py
EMBED_STD = 0.02  # of cls_token and pos_embed: facebookresearch/TimeSformer, timesformer/models/vit.py
TEMPORAL_INITS = {"zeros": ZEROS, "xavier": XAVIER}
REMATS = ("full", "attention", "none")


def embedding(length: int, width: int, init: nnx.Initializer, rngs: nnx.Rngs) -> nnx.Param[jax.Array]:
    """A learnt [1, length, width]. The reference has the leading 1; its logical axis is one that is never split."""
    annotated = nnx.with_partitioning(init, ("tokens", "tokens", "embed"))
    return nnx.Param(annotated(rngs.params(), (1, length, width), jnp.float32))


def to_patches(frames_BTHWC: jax.Array, patch_px: int) -> jax.Array:
    """Cuts frames into flattened patches [B, T, N, patch_px * patch_px * C], in the order (row, column, channel).

    Raises:
        ValueError: the frames are not [B, T, H, W, 3], or a patch does not divide their height or width.
    """
    if frames_BTHWC.ndim != 5 or frames_BTHWC.shape[-1] != 3:
        raise ValueError(f"frames have shape {frames_BTHWC.shape}; expected [B, T, H, W, 3]")
    height, width = frames_BTHWC.shape[2:4]
    if height % patch_px or width % patch_px:
        raise ValueError(f"frames of {height} x {width} px do not split into patches of {patch_px} px")
    return rearrange(frames_BTHWC, "b t (h p) (w q) c -> b t (h w) (p q c)", p=patch_px, q=patch_px)


def resize_pos_embed(pos_embed_1SD: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position embedding for a grid of (rows, columns) patches, resized bilinearly from the square grid; CLS is kept.

    It is sampled at the new patches' centres without antialiasing, like torch's `interpolate(mode="bilinear",
    align_corners=False)`. The same grid returns the same values.
    """
    cls_11D, patches_1ND = pos_embed_1SD[:, :1], pos_embed_1SD[:, 1:]
    grid_1HWD = rearrange(patches_1ND, "1 (h w) d -> 1 h w d", h=math.isqrt(patches_1ND.shape[1]))
    resized_1HWD = jax.image.resize(grid_1HWD, (1, *grid, grid_1HWD.shape[-1]), "linear", antialias=False)
    return jnp.concatenate([cls_11D, rearrange(resized_1HWD, "1 h w d -> 1 (h w) d")], axis=1)


def resize_time_embed(time_embed_1TD: jax.Array, num_frames: int) -> jax.Array:
    """Time embedding for `num_frames`, interpolated linearly in time. A single frame takes the middle one."""
    shape = (1, num_frames, time_embed_1TD.shape[-1])
    resized_1TD: jax.Array = jax.image.resize(time_embed_1TD, shape, "linear", antialias=False)
    return resized_1TD


def drop_path_scale(key: jax.Array | None, rate: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Factors of `shape` on a residual branch: 0 with probability `rate`, else 1 / (1 - rate) (arXiv 1603.09382).

    Without a key, a scalar 1.
    """
    if key is None:
        return jnp.ones((), dtype)
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return (kept / (1 - rate)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class TimeSformerConfig:
    """Sizes and choices of a backbone.

    Attributes:
        variant: sizes.
        num_patches: patches per frame, a square number: the length of the position embedding without CLS.
        num_frames: length of the time embedding.
        drop_path: rate of the last block; it rises linearly from 0 in the first block.
        temporal_init: initialisation of `temporal_fc`, a key of `TEMPORAL_INITS`.
        time_embed_std: standard deviation of the time embedding's initial values; 0: zeros.
        gelu: one of `layers.GELUS`.
        layer_norm_eps: added to the variance.
        dtype: of activations and matrix products; parameters are float32.
        remat: one of `REMATS`. For the backward pass, "full" keeps only each block's input; "attention" also keeps
            the outputs of its attentions.
        pre_norm: whether a norm stands before the first block, after the embeddings are added.
        registers: number of register tokens.
    """

    variant: Variant
    num_patches: int
    num_frames: int
    drop_path: float
    temporal_init: str
    time_embed_std: float
    gelu: str
    layer_norm_eps: float
    dtype: jnp.dtype
    remat: str
    pre_norm: bool = False
    registers: int = 0


class Tokens(NamedTuple):
    """What a block reads and returns: CLS, patch tokens, and register tokens (None: the model has none)."""

    cls_BD: jax.Array
    x_BTND: jax.Array
    registers_BRD: jax.Array | None = None


class Attention(nnx.Module):
    """Attention along one axis, between its input and output projections."""

    def __init__(self, config: TimeSformerConfig, axis: Axis, attend: AttentionForm, rngs: nnx.Rngs):
        width, dtype = config.variant.width, config.dtype
        self.axis, self.attend = axis, attend
        self.qkv = linear(("embed", "heads"), (width, 3 * width), dtype=dtype, rngs=rngs)
        self.out = linear(("heads", "embed"), (width, width), dtype=dtype, rngs=rngs)

    def __call__(self, x_BTSD: jax.Array, num_tokens: int | None = None) -> jax.Array:
        """Tokens [B, T, S, D] after attention, without the residual.

        If `reads_parts` holds for the form, tokens from `num_tokens` on are masked. Other forms have no such tokens.
        """
        if x_BTSD.shape[{"time": 1, "space": 2}[self.axis]] == 1:
            return self.out(self.qkv(x_BTSD, _third(2)))  # a single frame attends only to itself: its values
        if reads_parts(self.attend):
            x_BTSD = x_BTSD.astype(self.qkv.dtype)  # once: each product keeps its input for the gradient
            parts = [self.qkv(x_BTSD, _third(index)) for index in range(3)]
            return self.out(self.attend.of_parts(parts, self.axis, num_tokens))
        return self.out(self.attend(self.qkv(x_BTSD, self.attend.order_columns), self.axis))


def _third(index: int) -> Callable[[jax.Array], jax.Array]:
    """Selects the columns of query (0), key (1) or value (2)."""
    return lambda projection: jnp.split(projection, 3, axis=-1)[index]


class Mlp(nnx.Module):
    """Two layers around a GELU."""

    def __init__(self, config: TimeSformerConfig, rngs: nnx.Rngs):
        self.gelu = config.gelu
        width, mlp_dim = config.variant.width, config.variant.mlp_dim
        self.fc1 = linear(("embed", "mlp"), (width, mlp_dim), dtype=config.dtype, rngs=rngs)
        self.fc2 = linear(("mlp", "embed"), (mlp_dim, width), dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [..., D] after both layers, without the residual."""
        return self.fc2(gelu(self.fc1(x), self.gelu))


class Block(nnx.Module):
    """Attention over time, then within each frame, then an MLP. Each is a pre-norm residual branch.

    CLS is not part of temporal attention. In spatial attention every frame has its own copy of CLS, and the mean of the
    copies' outputs is the residual of CLS. Register tokens (arXiv 2309.16588) are treated like CLS.
    """

    def __init__(self, config: TimeSformerConfig, attend: AttentionForm, rngs: nnx.Rngs):
        width, eps, temporal_init = config.variant.width, config.layer_norm_eps, TEMPORAL_INITS[config.temporal_init]
        self.temporal_norm = layer_norm(width, eps, rngs)
        # cuDNN reads a position's frames side by side. So `_over_time` swaps frames and positions at the branch's ends,
        # where the compiler joins this with the norm and with the sum of the residual.
        self.time = Attention(config, "space" if reads_parts(attend) else "time", attend, rngs)
        self.temporal_fc = linear(
            ("embed", "joined"), (width, width), dtype=config.dtype, rngs=rngs, kernel_init=temporal_init
        )
        self.spatial_norm = layer_norm(width, eps, rngs)
        self.space = Attention(config, "space", attend, rngs)
        self.mlp_norm = layer_norm(width, eps, rngs)
        self.mlp = Mlp(config, rngs)

    def __call__(self, tokens: Tokens, rate: jax.Array, key: jax.Array | None) -> Tokens:
        """The tokens after the block. `rate` is that of drop-path, which a `key` turns on."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        tokens = tokens._replace(x_BTND=tokens.x_BTND + self._over_time(tokens.x_BTND, rate, keys[0]))
        tokens = jax.tree.map(jnp.add, tokens, self._over_space(tokens, rate, keys[1]))
        return self._through_mlp(tokens, rate, keys[2])

    def _over_time(self, x_BTND: jax.Array, rate: jax.Array, key: jax.Array | None) -> jax.Array:
        batch, _, num_patches, _ = x_BTND.shape
        swapped = self.time.axis == "space"
        scale_shape = (batch, num_patches, 1, 1) if swapped else (batch, 1, num_patches, 1)
        scale = drop_path_scale(key, rate, scale_shape, x_BTND.dtype)
        x = self.temporal_norm(x_BTND)
        x = rearrange(x, "b t n d -> b n t d") if swapped else x
        # The reference drops before the last layer: a dropped position still receives that layer's bias.
        x = self.temporal_fc(scale * self.time(x))
        return rearrange(x, "b n t d -> b t n d") if swapped else x

    def _over_space(self, tokens: Tokens, rate: jax.Array, key: jax.Array | None) -> Tokens:
        """The residuals of the tokens."""
        cls_BD, x_BTND, registers_BRD = tokens
        batch, frames, num_patches, _ = x_BTND.shape
        parts = [x_BTND, repeat(cls_BD, "b d -> b t 1 d", t=frames)]
        if registers_BRD is not None:
            parts.insert(1, repeat(registers_BRD, "b r d -> b t r d", t=frames))
        num_tokens = sum(part.shape[2] for part in parts)
        if reads_parts(self.space.attend) and num_tokens % 2:
            parts.append(jnp.zeros((batch, frames, 1, x_BTND.shape[-1]), x_BTND.dtype))  # masked: cuDNN needs it
        # Attention does not depend on the order. With CLS last, the other tokens keep their place in memory.
        tokens_BTSD = jnp.concatenate(parts, axis=2)
        scale_BT11 = drop_path_scale(key, rate, (batch, frames, 1, 1), x_BTND.dtype)
        residual_BTSD = scale_BT11 * self.space(self.spatial_norm(tokens_BTSD), num_tokens)
        of_registers = None
        if registers_BRD is not None:
            of_registers = residual_BTSD[:, :, num_patches : num_tokens - 1].mean(axis=1)
        of_cls = residual_BTSD[:, :, num_tokens - 1].mean(axis=1)
        return Tokens(of_cls, residual_BTSD[:, :, :num_patches], of_registers)

    def _through_mlp(self, tokens: Tokens, rate: jax.Array, key: jax.Array | None) -> Tokens:
        scale_B1 = drop_path_scale(key, rate, (tokens.cls_BD.shape[0], 1), tokens.x_BTND.dtype)

        def after(token: jax.Array) -> jax.Array:
            scale = scale_B1.reshape(-1, *[1] * (token.ndim - 1)) if scale_B1.ndim else scale_B1
            return token + scale * self.mlp(self.mlp_norm(token))

        after_mlp: Tokens = jax.tree.map(after, tokens)
        return after_mlp


def cast_matrices(blocks: Block, dtype: jnp.dtype) -> Block:
    """Stacked blocks with their [L, in, out] kernels cast to `dtype` once, so that shards are gathered in `dtype`."""
    cast: Block = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim == 3 else leaf, blocks)
    return cast


class TimeSformer(nnx.Module):
    """Frames to CLS features, or to all tokens: patches and embeddings, a scan over stacked blocks, a norm.

    Args:
        config: sizes and choices.
        attend: the form of attention.
        rngs: for the initial values.
    """

    def __init__(self, config: TimeSformerConfig, attend: AttentionForm, rngs: nnx.Rngs):
        self.config, self.attend = config, attend
        width, patch_dim = config.variant.width, 3 * config.variant.patch_px**2
        truncated = nnx.initializers.truncated_normal(EMBED_STD)
        self.patch_embed = linear(("patch", "embed"), (patch_dim, width), dtype=config.dtype, rngs=rngs)
        self.cls_token = embedding(1, width, truncated, rngs)
        self.pos_embed = embedding(config.num_patches + 1, width, truncated, rngs)
        self.time_embed = embedding(config.num_frames, width, nnx.initializers.normal(config.time_embed_std), rngs)
        stack: Callable[[nnx.Rngs], Block] = nnx.vmap(
            lambda rngs: Block(config, attend, rngs), transform_metadata={nnx.PARTITION_NAME: "layers"}
        )
        self.blocks = stack(rngs.split(config.variant.depth))
        self.norm = layer_norm(width, config.layer_norm_eps, rngs)
        # Last, so that the initial values of a model without them stay as they are.
        if config.pre_norm:
            self.pre_norm = layer_norm(width, config.layer_norm_eps, rngs)
        if config.registers:
            self.register_tokens = embedding(config.registers, width, nnx.initializers.normal(REGISTER_STD), rngs)

    def __call__(
        self, frames_BTHWC: jax.Array, key: jax.Array | None, constrain: Constrain, drop_path: float | None = None
    ) -> jax.Array:
        """CLS features [B, D], float32, of normalised frames. A `key` turns drop-path on.

        `constrain` is applied to CLS [B, D] and patch tokens [B, T, N, D] before and after every block. `drop_path` is
        the rate for these frames, in place of the config's.

        Raises:
            ValueError: the frames are not [B, T, H, W, 3] or do not split into patches.
        """
        cls_BD, _ = self._after_blocks(frames_BTHWC, key, constrain, drop_path)
        features_BD: jax.Array = self.norm(cls_BD)
        return features_BD

    def tokens(
        self, frames_BTHWC: jax.Array, key: jax.Array | None, constrain: Constrain, drop_path: float | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """CLS features [B, D] and patch tokens [B, T, N, D], both after the norm, float32. Arguments as in `__call__`.

        Raises:
            ValueError: as in `__call__`.
        """
        cls_BD, x_BTND = self._after_blocks(frames_BTHWC, key, constrain, drop_path)
        return self.norm(cls_BD), self.norm(x_BTND)

    def _after_blocks(
        self, frames_BTHWC: jax.Array, key: jax.Array | None, constrain: Constrain, drop_path: float | None
    ) -> tuple[jax.Array, jax.Array]:
        cls_BD, x_BTND = self.embed(frames_BTHWC)
        return self.run_blocks(constrain(cls_BD), constrain(x_BTND), key, constrain, drop_path)

    def embed(self, frames_BTHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """CLS [B, D] with its position embedding only; patch tokens [B, T, N, D] with position and time embedding."""
        batch, frames, height, width, _ = frames_BTHWC.shape
        patch_px, dtype = self.config.variant.patch_px, self.config.dtype
        patches = to_patches(frames_BTHWC, patch_px)
        pos_1SD = resize_pos_embed(self.pos_embed[...], (height // patch_px, width // patch_px))
        time_1TD = resize_time_embed(self.time_embed[...], frames)
        added_1TND = rearrange(pos_1SD[:, 1:], "1 n d -> 1 1 n d") + rearrange(time_1TD, "1 t d -> 1 t 1 d")
        cls_BD = repeat(self.cls_token[...] + pos_1SD[:, :1], "1 1 d -> b d", b=batch)
        x_BTND = self.patch_embed(patches) + added_1TND.astype(dtype)
        if self.config.pre_norm:
            cls_BD, x_BTND = self.pre_norm(cls_BD), self.pre_norm(x_BTND)
        return cls_BD.astype(dtype), x_BTND.astype(dtype)

    def with_registers(self, cls_BD: jax.Array, x_BTND: jax.Array) -> Tokens:
        """CLS and patch tokens with the register tokens beside them. These have no position embedding, as in DINOv2."""
        if not self.config.registers:
            return Tokens(cls_BD, x_BTND)
        registers_BRD = repeat(self.register_tokens[...], "1 r d -> b r d", b=cls_BD.shape[0])
        registers_BRD = self.pre_norm(registers_BRD) if self.config.pre_norm else registers_BRD
        return Tokens(cls_BD, x_BTND, registers_BRD.astype(cls_BD.dtype))

    def run_blocks(
        self,
        cls_BD: jax.Array,
        x_BTND: jax.Array,
        key: jax.Array | None,
        constrain: Constrain,
        drop_path: float | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """CLS and patch tokens after all blocks. Arguments as in `__call__`."""

        def step(tokens: Tokens, block_rate_key: tuple[Block, jax.Array, jax.Array | None]) -> tuple[Tokens, None]:
            block, rate, block_key = block_rate_key
            return jax.tree.map(constrain, block(tokens, rate, block_key)), None

        config = self.config
        if config.remat != "none":
            keep = jax.checkpoint_policies.save_only_these_names(*[OUTPUT_NAME] * (config.remat == "attention"))
            # Inside a scan, nothing can merge the recomputation with the forward pass, so no barrier is needed.
            step = jax.checkpoint(step, prevent_cse=False, policy=keep)
        depth = config.variant.depth
        last_rate = config.drop_path if drop_path is None else drop_path
        keys = None if key is None or last_rate == 0 else jax.random.split(key, depth)
        stacked = (cast_matrices(self.blocks, config.dtype), jnp.linspace(0.0, last_rate, depth), keys)
        after, _ = jax.lax.scan(step, self.with_registers(cls_BD, x_BTND), stacked)
        return after.cls_BD, after.x_BTND
