"""Resizes position embeddings to another grid."""

import math

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from cover_jax.models import timesformer, variants
from cover_jax.models.pretrained.errors import PretrainedError

_CUBIC_A = -0.75  # of the cubic convolution kernel; torch's, in aten/src/ATen/native/UpSample.h


def embeddings(given: dict[str, np.ndarray], model: ConfigDict) -> tuple[dict[str, np.ndarray], list[str]]:
    """Resizes `cls_token`, `pos_embed` and, for a video model, `time_embed`, to the shapes of another config.

    Returns:
        The arrays for `model`'s grid and frames, and one line per resized array.
    """
    resized = dict(given)
    grid_size = model.size_px // variants.parse(model.variant).patch_px
    resized["pos_embed"] = position_embedding(given["pos_embed"], grid_size)
    if "time_embed" in given:
        time_embed_1TD = jnp.asarray(given["time_embed"])
        resized["time_embed"] = np.asarray(timesformer.resize_time_embed(time_embed_1TD, model.num_frames))
    lines = [
        f"{path}: resized from {old.shape[1]} to {resized[path].shape[1]} tokens"
        for path, old in given.items()
        if old.shape != resized[path].shape
    ]
    return resized, lines


def position_embedding(pos_embed_1SD: np.ndarray, grid_size: int) -> np.ndarray:
    """Resizes a [1, 1 + h * w, D] position embedding to `grid_size` x `grid_size` patches, bicubic; CLS is kept.

    It equals torch's `interpolate(mode="bicubic", align_corners=False)`, which DINOv2 and Hugging Face's ViT use. The
    same grid returns the same values.

    Raises:
        PretrainedError: the embedding is not of a square grid and CLS.
    """
    old_size = math.isqrt(pos_embed_1SD.shape[1] - 1)
    if old_size**2 + 1 != pos_embed_1SD.shape[1]:
        raise PretrainedError(f"position embedding {pos_embed_1SD.shape} is not CLS and a square grid")
    if old_size == grid_size:
        return pos_embed_1SD
    weights = cubic_weights(old_size, grid_size)
    grid_HWD = rearrange(pos_embed_1SD[0, 1:], "(h w) d -> h w d", h=old_size)
    resized_HWD = np.einsum("yh,xw,hwd->yxd", weights, weights, grid_HWD, optimize=True)
    patches_1ND = rearrange(resized_HWD, "h w d -> 1 (h w) d")
    return np.concatenate([pos_embed_1SD[:, :1], patches_1ND], axis=1, dtype=np.float32)


def cubic_weights(old_size: int, new_size: int) -> np.ndarray:
    """Matrix [new_size, old_size] that samples a line of values at new centres. Beyond the ends, values repeat."""
    centres = (np.arange(new_size) + 0.5) * old_size / new_size - 0.5
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    weights = np.zeros((new_size, old_size))
    rows = np.arange(new_size)[:, None]
    np.add.at(weights, (rows, taps.clip(0, old_size - 1)), _cubic(np.abs(centres[:, None] - taps)))
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel (Keys, 1981), at distances from 0 to 2."""
    near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
    far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    weights: np.ndarray = np.where(distance <= 1, near, far)
    return weights
