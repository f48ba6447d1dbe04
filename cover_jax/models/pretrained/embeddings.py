"""Reads a family's CLS token, position and time embeddings and registers as this model has them."""

# S tokens of a frame with CLS, T frames or tubelets, N patches, R registers, D width

import math
from typing import Any

import numpy as np

from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.tensor_names import Arrays, Family, Reader

TUBELET_AXES = 5  # of the convolution that embeds tubelets
_USUAL_FRAMES, _USUAL_PX = 16, 224  # of VideoMAE, if its file does not say: MCG-NJU/VideoMAE, run_mae_pretraining.py
_SINUSOID_BASE = 10_000


def num_registers(family: Family, read: Reader) -> int:
    """How many register tokens a file has."""
    return int(read(family.registers).shape[-2]) if family.registers and family.registers in read else 0


def read_embeddings(
    family: Family, read: Reader, config: dict[str, Any], num_patches: int = 0
) -> tuple[Arrays, list[str]]:
    """`cls_token` [1, 1, D], `pos_embed` [1, S, D], and those of `time_embed` and `register_tokens` that the file has.

    Args:
        config: of the source.
        num_patches: of this model's frames: those of the source's, if its config does not say its number of frames.

    Returns:
        The arrays, of the source's own grid; and a line per array that is not as in the file.

    Raises:
        PretrainedError: the position embedding is not of a square grid.
    """
    arrays = {path: read(name) for path, name in family.embeddings.items()}
    arrays = {path: array.reshape(1, -1, array.shape[-1]) for path, array in arrays.items()}
    if family.patch_axes == TUBELET_AXES:
        return _of_tubelets(family, read, config, num_patches, arrays)
    if num_registers(family, read):
        arrays["register_tokens"] = read(family.registers)
    return _split_positions(arrays), []


def _split_positions(arrays: Arrays) -> Arrays:
    """The same with `pos_embed` for CLS and the patches only.

    In timm, a model with registers may have positions for the patches alone, or for CLS, registers and patches
    (`no_embed_class` in timm/models/vision_transformer.py).
    """
    registers_1RD, pos_1SD = arrays.get("register_tokens"), arrays["pos_embed"]
    length = pos_1SD.shape[1]
    if registers_1RD is None or _is_square(length - 1):
        return arrays
    if _is_square(length):
        return arrays | {"pos_embed": np.pad(pos_1SD, ((0, 0), (1, 0), (0, 0)))}
    count = registers_1RD.shape[1]
    if not _is_square(length - 1 - count):
        raise PretrainedError(f"position embedding {pos_1SD.shape} is of no square grid with {count} registers")
    return arrays | {
        "pos_embed": np.concatenate([pos_1SD[:, :1], pos_1SD[:, 1 + count :]], axis=1),
        "register_tokens": registers_1RD + pos_1SD[:, 1 : 1 + count],
    }


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _of_tubelets(
    family: Family, read: Reader, config: dict[str, Any], num_patches: int, arrays: Arrays
) -> tuple[Arrays, list[str]]:
    """The embeddings of one frame, of a model with tubelets: the positions in the middle of its clip."""
    kernel_shape = read(f"{family.patch_embed}.weight").shape
    width, tubelet_frames, patch_px = kernel_shape[0], kernel_shape[2], kernel_shape[-1]
    lines = [f"patch_embed: summed over the {tubelet_frames} frames of a tubelet, which is exact for a still clip"]
    if "pos_embed" in arrays:
        pos_1SD = arrays["pos_embed"]
        num_times = config.get("num_frames", 0) // tubelet_frames
        num_times = num_times or (pos_1SD.shape[1] - 1) // (num_patches or pos_1SD.shape[1] - 1)
        cls_11D, patches_1MD = pos_1SD[:, :1], pos_1SD[:, 1:]
    else:
        num_times = config.get("num_frames", _USUAL_FRAMES) // tubelet_frames
        patches_1MD = sinusoids(num_times * (config.get("image_size", _USUAL_PX) // patch_px) ** 2, width)
        cls_11D = np.zeros((1, 1, width), np.float32)
        lines.append("cls_token: starts anew, because the source has none and averages its patches")
    num_patches, left = divmod(patches_1MD.shape[1], num_times)
    if left or not _is_square(num_patches):
        raise PretrainedError(f"{patches_1MD.shape[1]} positions are not {num_times} times those of a square grid")
    start = num_times // 2 * num_patches
    arrays = arrays | {"pos_embed": np.concatenate([cls_11D, patches_1MD[:, start : start + num_patches]], axis=1)}
    return arrays, [*lines, f"pos_embed: that of the middle one of {num_times} tubelets in time"]


def sinusoids(length: int, width: int) -> np.ndarray:
    """VideoMAE's position embedding [1, length, width], which its files do not have.

    As `get_sinusoid_encoding_table` in transformers/models/videomae/modeling_videomae.py.
    """
    angles = np.arange(length)[:, None] / _SINUSOID_BASE ** (2 * (np.arange(width) // 2) / width)
    table = np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles))
    return table[None].astype(np.float32)
