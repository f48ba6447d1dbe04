"""What a stream gives, and what of a dataset's config it depends on.

# B examples of this host, T frames (clips * frames a clip in evaluation), H, W canvas.
"""

from typing import Protocol, TypedDict

import numpy as np


class Batch(TypedDict):
    """Examples of one dataset, as NumPy arrays that must not be written to."""

    frames: np.ndarray  # uint8 [B, T, H, W, 3]; a picture is in the top left corner of the canvas, zeros around it
    size_px: np.ndarray  # int32 [B, 2]: height and width of the picture in its canvas
    label: np.ndarray  # int32 [B]
    weight: np.ndarray  # float32 [B]: 0 for padding and for what cannot be decoded, else 1
    index: np.ndarray  # int64 [B]: which example of the split; -1: padding
    seed: np.ndarray  # uint32 [B]: for all randomness of the example


class DatasetConfig(Protocol):
    """A dataset's entry in the config, as far as streams read it: `dataset` in configs/common.py explains each key."""

    frames_feature: str
    canvas_px: tuple[int, int]
    num_frames: int
    sample_fps: float
    shuffle_frames: bool
    batch_size: int
    repeats: int
    eval_batch_size: int
    eval_clips: int


class InputConfig(Protocol):
    """How the host reads, as far as streams depend on it: `input_pipeline` in configs/common.py."""

    threads: int
    prefetch_batches: int
