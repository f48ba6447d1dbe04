"""Floating-point operations that the model needs, for MFU."""

from collections.abc import Callable

from ml_collections import ConfigDict

from cover_jax.models import attention, heads
from cover_jax.models.kernels.divided_attention import Axis
from cover_jax.models.variants import Variant, parse

KeysPerQuery = Callable[[Axis, int], float]  # as `attention.OwnForm.keys_per_query`


def _all_keys(axis: Axis, length: int) -> float:
    return length


def forward(
    variant: Variant, num_frames: int, num_patches: int, registers: int = 0, keys_per_query: KeysPerQuery = _all_keys
) -> int:
    """Operations of the backbone for one clip: matrix products only, a multiply-add counts as two.

    Args:
        num_frames: frames per clip.
        num_patches: patches per frame.
        registers: number of register tokens.
        keys_per_query: (axis, tokens along it) -> to how many a token attends.
    """
    width, tokens, shared = variant.width, num_frames * num_patches, 1 + registers
    with_shared = tokens + shared * num_frames  # each frame has its own CLS and registers in spatial attention
    in_time, in_space = keys_per_query("time", num_frames), keys_per_query("space", num_patches + shared)
    time = 2 * 5 * width**2 * tokens + 4 * width * in_time * tokens  # qkv, out, temporal_fc; scores and values
    if num_frames == 1:
        time = 2 * 3 * width**2 * tokens  # a single frame attends only to itself: only its value is projected
    space = 2 * 4 * width**2 * with_shared + 4 * width * in_space * with_shared
    mlp = 2 * 2 * width * variant.mlp_dim * (tokens + shared)
    patch_embed = 2 * 3 * variant.patch_px**2 * width * tokens
    return int(variant.depth * (time + space + mlp) + patch_embed)


def train_step(config: ConfigDict, name: str, trains_backbone: bool = True) -> int:
    """Operations of a training step on dataset `name`: forward, and twice that for backward, without recomputation.

    If only heads are trained, only the forward pass of the backbone counts, and both passes of an attentive head. A
    dataset that uses the clips of another one uses its pass of the backbone, too, so that only its head counts.
    """
    dataset, variant = config.datasets[name], parse(config.model.variant)
    num_tokens = dataset.num_frames * (config.model.size_px // variant.patch_px) ** 2
    of_head = heads.flops(heads.HeadSpec.of(config.model, dataset.head), variant.width, num_tokens)
    shared = dataset.same_clips_as in config.datasets
    of_backbone = 0 if shared else of_clip(config.model, dataset.num_frames)
    return int(dataset.batch_size * ((3 if trains_backbone else 1) * of_backbone + 3 * of_head))


def of_clip(model: ConfigDict, num_frames: int) -> int:
    """Operations of the backbone of `config.model` for one clip of `num_frames` frames."""
    variant = parse(model.variant)
    num_patches = (model.size_px // variant.patch_px) ** 2
    own = attention.own_form(model.attention, variant.num_heads, variant.width // variant.num_heads)
    return forward(variant, num_frames, num_patches, model.registers, own.keys_per_query if own else _all_keys)
