"""Files and arrays -> the frames that evaluation would see, sampled and put into batches."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError

from data_pipelines import catalog
from data_pipelines.media import media_file, opening, source_file
from data_pipelines.stream import decode, sampling

# B clips in a batch, K temporal views, T frames per view, H, W canvas, C colours or classes; N frames per clip,
# h, w height and width of a clip

MOVING_IMAGES = ("GIF", "PNG", "WEBP")  # Pillow's names of formats where several pictures in one file are a clip
SHOWN_SIDE_PX = 1080  # the longest shorter side of a picture that is shown
# Of a checkpoint of version 0.2.0 or earlier, which does not say how its frames were stored: the defaults of then.
EARLIER_STORAGE = {"short_side_px": 256, "fps": 10.0}
_NO_LIMIT = (1 << 20, 1 << 20)  # of a view without a canvas: a published model's
# Threads read clips, and processes crashed in TensorFlow 2.21 while two threads were in `sampling.eval_indices`.
_ONE_AT_A_TIME = threading.Lock()


class View(NamedTuple):
    """How a dataset's clips are stored and evaluated. Heads with equal views see the same frames.

    Attributes:
        short_side_px: of the stored frames.
        fps: stored frames per second.
        num_frames, sample_fps, canvas_px, standardize, clips, crops, crop_share: num_frames to eval_crop_share of
            `dataset()` in configs/common.py. A canvas of (0, 0) is as large as the stored frames.
    """

    short_side_px: int
    fps: float
    num_frames: int
    sample_fps: float
    canvas_px: tuple[int, int]
    standardize: bool
    clips: int
    crops: int
    crop_share: float

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """Which of a clip's frames all temporal views have, clip after clip: int [K * T]."""
        with _ONE_AT_A_TIME:
            return np.asarray(
                sampling.eval_indices(num_frames, fps, self.num_frames, self.sample_fps, self.clips), np.int64
            )


Frames = dict[View, np.ndarray]  # view -> uint8 [K * T, h, w, 3], clip after clip, each at most as large as the canvas


def to_batch(clips: Sequence[np.ndarray], view: View, batch_size: int) -> dict[str, np.ndarray]:
    """Sampled frames as `model_input.evaluate` needs them: in the top left corner of the canvas, padded with zeros.

    If the largest clip does not fit the view's canvas, the canvas has the size of that clip. The batch is padded with
    zeros too.
    """
    height, width = np.max([view.canvas_px, *(clip.shape[1:3] for clip in clips)], axis=0)
    frames = np.zeros((batch_size, view.clips * view.num_frames, height, width, 3), np.uint8)
    size_px = np.zeros((batch_size, 2), np.int32)
    for i, clip in enumerate(clips):
        size_px[i] = clip.shape[1:3]
        frames[i, :, : clip.shape[1], : clip.shape[2]] = clip
    return {"frames": frames, "size_px": size_px}


def view_of_dataset(dataset: ConfigDict, storage: dict) -> View:
    """The view of a dataset. What `storage` lacks is as in EARLIER_STORAGE, at the builder's own rate."""
    builder = catalog.builder_class(dataset.builder)
    own = getattr(builder, "OPTIONS", {})
    options = {"fps": own["fps"][0]} if "fps" in own else {}
    if builder is None:  # a builder of TFDS, which stores pictures unchanged
        options["short_side_px"] = source_file.MAX_PIXELS
    return View(
        **EARLIER_STORAGE | options | storage,
        num_frames=dataset.num_frames,
        sample_fps=dataset.sample_fps,
        canvas_px=tuple(dataset.canvas_px),
        standardize=dataset.standardize,
        clips=dataset.eval_clips,
        crops=dataset.eval_crops,
        crop_share=dataset.eval_crop_share,
    )


class ShownFrames(NamedTuple):
    """The frames of a view at a clip's own size, for pictures.

    Attributes:
        frames: uint8 [K * T, H, W, 3].
        times_s: of each frame in the clip; None if the clip has no frame rate.
    """

    frames: np.ndarray
    times_s: np.ndarray | None


def read_shown_frames(path: str, view: View) -> ShownFrames:
    """The frames of a file that a view has, at their own size, at most SHOWN_SIDE_PX at their shorter side."""
    media = read_file(path, SHOWN_SIDE_PX, view.fps)
    indices = view.indices(len(media.frames), media.fps)
    jpegs = [media.frames[index] for index in indices]
    no_limit = (source_file.MAX_PIXELS,) * 2
    return ShownFrames(np.asarray(decode.decode_frames(jpegs, no_limit)), _times_s(indices, media.fps))


def shown_frames(frames: np.ndarray, fps: float, view: View) -> ShownFrames:
    """The same of an array [N, h, w, 3], which stays as it is."""
    indices = view.indices(len(frames), fps)
    return ShownFrames(frames[indices], _times_s(indices, fps))


def _times_s(indices: np.ndarray, fps: float) -> np.ndarray | None:
    return indices / fps if fps else None


def read_file(path: str, short_side_px: int, fps: float) -> media_file.Media:
    """Reads a video or an image as its dataset would store it. The content decides which of the two it is."""
    return (
        media_file.read_image(path, short_side_px)
        if _is_still(path)
        else media_file.read_video(path, short_side_px, fps)
    )


def _is_still(path: str) -> bool:
    """Whether the content of a file is an image, not a clip."""
    try:
        with source_file.open_regular(path) as file, opening.open_image(file) as image:
            is_image = Image.MIME.get(image.format or "", "").startswith(
                "image/"
            )  # Pillow lists MPEG, but cannot decode it
            return is_image and not (image.format in MOVING_IMAGES and getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        return False


def sample_frames(frames: Sequence[bytes] | np.ndarray, fps: float, view: View) -> np.ndarray:
    """The frames of all temporal views, uint8 [K * T, h, w, 3], of JPEGs or of an array [N, h, w, 3]."""
    return frames_at(frames, view.indices(len(frames), fps), view)


def frames_at(frames: Sequence[bytes] | np.ndarray, indices: np.ndarray, view: View) -> np.ndarray:
    """The same, of the frames at these indices [K * T]."""
    if isinstance(frames, np.ndarray):
        return frames[indices]
    canvas_px = view.canvas_px if any(view.canvas_px) else _NO_LIMIT
    return np.asarray(decode.decode_frames([frames[index] for index in indices], canvas_px))
