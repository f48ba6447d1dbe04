"""Floating-point operations that the model needs, for MFU."""

from ml_collections import ConfigDict

from cover_jax.models.variants import Variant, parse


def forward(variant: Variant, num_frames: int, num_patches: int) -> int:
    """Operations of the backbone for one clip: matrix products only, a multiply-add counts as two.

    Args:
        num_frames: frames per clip.
        num_patches: patches per frame.
    """
    width, tokens = variant.width, num_frames * num_patches
    with_cls = tokens + num_frames  # each frame has its own CLS in spatial attention
    time = 2 * 5 * width**2 * tokens + 4 * width * num_frames * tokens  # qkv, out, temporal_fc; scores and values
    if num_frames == 1:
        time = 2 * 3 * width**2 * tokens  # a single frame attends only to itself: only its value is projected
    space = 2 * 4 * width**2 * with_cls + 4 * width * (num_patches + 1) * with_cls
    mlp = 2 * 2 * width * variant.mlp_dim * (tokens + 1)
    patch_embed = 2 * 3 * variant.patch_px**2 * width * tokens
    return variant.depth * (time + space + mlp) + patch_embed


def train_step(config: ConfigDict, name: str, trains_backbone: bool = True) -> int:
    """Operations of a training step on dataset `name`: forward, and twice that for backward, without recomputation.

    If only heads are trained, only the forward pass counts.
    """
    variant, dataset = parse(config.model.variant), config.datasets[name]
    num_patches = (config.model.size_px // variant.patch_px) ** 2
    of_clip = forward(variant, dataset.num_frames, num_patches)
    return int((3 if trains_backbone else 1) * dataset.batch_size * of_clip)
