"""The batches that a stream yields, and the config keys that a stream reads.

# B examples of this host, T frames (clips * frames per clip in evaluation), H, W canvas.
"""

from typing import NotRequired, Protocol, TypedDict

import numpy as np


class Batch(TypedDict):
    """Examples of one dataset, as NumPy arrays. They are read-only: do not write to them."""

    frames: np.ndarray  # uint8 [B, T, H, W, 3]; each picture is at the top left of the canvas, the rest is zeros
    size_px: np.ndarray  # int32 [B, 2]: height and width of the picture in its canvas
    label: np.ndarray  # int32 [B]; of several labels the first one, -1 if there is none
    targets: NotRequired[np.ndarray]  # float32 [B, classes] of 0 and 1; only if the dataset has several labels
    weight: np.ndarray  # float32 [B]: 0 for padding and for undecodable examples, else 1
    index: np.ndarray  # int64 [B]: index of the example in the split; -1: padding
    seed: np.ndarray  # uint32 [B]: for all randomness of the example


class DatasetConfig(Protocol):
    """The keys of a dataset's config entry that streams read. `dataset` in configs/common.py explains each key."""

    frames_feature: str
    canvas_px: tuple[int, int]
    num_frames: int
    sample_fps: float
    shuffle_frames: bool
    batch_size: int
    repeats: int
    eval_batch_size: int
    eval_clips: int


def eval_batch_rows(dataset: DatasetConfig, multiple: int) -> int:
    """Rows of a dataset's global evaluation batch: `eval_batch_size`, rounded up to a multiple of `multiple`.

    The rows that are added hold further examples of the split. Where none is left, they are padding of weight 0.

    Args:
        dataset: its entry in the config.
        multiple: parts that must be equal: the devices that share a batch, or the hosts.
    """
    return -(-dataset.eval_batch_size // multiple) * multiple


class InputConfig(Protocol):
    """The keys of the host's input settings that streams read: `input_pipeline` in configs/common.py."""

    threads: int
    prefetch_batches: int
