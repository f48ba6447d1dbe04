"""One media file -> JPEG frames. No TensorFlow here: worker processes import this and little else."""

import dataclasses
import hashlib
import io
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageOps

JPEG_QUALITY = 95  # about 40 dB, like ffmpeg's -q:v 2
EXIF_ORIENTATION = 0x0112  # the tag; 1 is upright
TOLERATED_MISSING_FRAMES = 2  # AVI's counts include frames that are left out as repeats of the one before


class MediaError(Exception):
    """A file that decodes without an exception, but not well."""


@dataclasses.dataclass(frozen=True)
class Media:
    """What is stored of a file.

    Attributes:
      frames: JPEG bytes, in order of time; one for an image.
      fps: of these frames; 0 for an image.
      num_source_frames: that the file has.
      sha256: of the file.
    """

    frames: tuple[bytes, ...]
    fps: float
    num_source_frames: int
    sha256: str


def read_video(path: str, short_side_px: int, fps: float) -> Media:
    """Decodes a video, keeps `fps` of its frames a second, and shrinks them.

    Args:
      path: the file.
      short_side_px: of the stored frames; smaller ones are not enlarged.
      fps: frames a second to keep, by time stamp; all are kept if the file has fewer.

    Raises:
      MediaError: no video, no frames, fewer frames than the file says, or damaged ones.
      Exception: whatever else FFmpeg makes of the file.
    """
    with av.open(path) as container:
        if not container.streams.video:
            raise MediaError("it has no video")
        times, jpegs, size_px = [], [], None
        ticks = _Ticks(fps)
        for frame in _decode(container, container.streams.video[0]):
            times.append(frame.pts * frame.time_base)
            if ticks.take(times[-1]):
                size_px = size_px or _shrunk(frame.height, frame.width, short_side_px)  # of the first for all
                jpegs.append(encode_jpeg(_to_rgb(frame, *size_px), subsampling="4:2:0"))  # as videos have it
    if not jpegs:
        raise MediaError("it has no frames")
    return Media(tuple(jpegs), min(float(fps), _rate(times, fps)), len(times), _sha256(path))


def read_image(path: str, short_side_px: int) -> Media:
    """Decodes an image and shrinks it; a JPEG that needs no change is stored as it is.

    Arguments as in `read_video`.

    Raises:
      Exception: whatever Pillow makes of a file that it cannot decode.
    """
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        height_px, width_px = _shrunk(upright.height, upright.width, short_side_px)
        changed = upright.size != (width_px, height_px) or image.getexif().get(EXIF_ORIENTATION, 1) != 1
        if image.format == "JPEG" and image.mode in ("RGB", "L") and not changed:
            with open(path, "rb") as file:
                jpeg = file.read()
        else:
            resized = upright.convert("RGB").resize((width_px, height_px), Image.Resampling.LANCZOS)
            jpeg = encode_jpeg(np.asarray(resized))
    return Media((jpeg,), 0.0, 1, _sha256(path))


def encode_jpeg(frame: np.ndarray, subsampling: str = "4:4:4") -> bytes:
    """A frame, uint8 [H, W, 3], as JPEG with the given resolution of colour."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
    return buffer.getvalue()


class _Ticks:
    """Chooses frames by their time: for each tick of a clock, the first that is nearer to it than the one before."""

    def __init__(self, fps: float):
        self._fps = Fraction(fps)
        self._first = self._previous = None
        self._next_tick = 0

    def take(self, time: Fraction) -> bool:
        """Whether to keep the frame at `time`, in seconds; frames come in order."""
        if self._first is None:
            self._first = self._previous = time
        gap, self._previous = min(time - self._previous, 1 / self._fps), time
        reached = math.floor((time - self._first + gap / 2) * self._fps)
        if reached < self._next_tick:
            return False
        self._next_tick = reached + 1
        return True


def _decode(container, stream) -> Iterator[av.VideoFrame]:
    """All frames of a stream, in order of time, checked.

    Raises:
      MediaError: a frame is damaged or without a time, or the stream ends early.
    """
    stream.thread_type = "NONE"  # files are decoded side by side instead
    decoded = discarded = 0
    for packet in container.demux(stream):
        discarded += packet.is_discard  # outside the part that an edit list shows
        for frame in packet.decode():
            decoded += 1
            if frame.is_corrupt:
                raise MediaError(f"frame {decoded} is damaged")
            if frame.pts is None:
                raise MediaError(f"frame {decoded} has no time stamp")
            yield frame
    if decoded + discarded + TOLERATED_MISSING_FRAMES < stream.frames:
        raise MediaError(f"it stops after {decoded} of {stream.frames} frames")


def _to_rgb(frame: av.VideoFrame, height_px: int, width_px: int) -> np.ndarray:
    return frame.reformat(width_px, height_px, "rgb24", interpolation="AREA").to_ndarray()


def _shrunk(height_px: int, width_px: int, short_side_px: int) -> tuple[int, int]:
    """The size of the same shape whose shorter side is at most `short_side_px`."""
    scale = min(1, short_side_px / min(height_px, width_px))
    return max(1, round(height_px * scale)), max(1, round(width_px * scale))


def _rate(times: list[Fraction], fps: float) -> float:
    """Frames a second, by their time stamps; `fps` if there is only one."""
    lasting = times[-1] - times[0]
    return float((len(times) - 1) / lasting) if lasting else float(fps)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
