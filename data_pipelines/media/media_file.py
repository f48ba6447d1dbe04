"""One media file -> JPEG frames, or a video file. No TensorFlow here: worker processes import this and little else."""

import dataclasses
import io
import itertools
import pathlib
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageOps

from data_pipelines.media import frames_of_video, opening, picture, source_file, video
from data_pipelines.media.source_file import MediaError

FORMS = ("frames", "video")  # JPEG frames, fast to read; or a video file, several times smaller
JPEG_QUALITY = 95  # about 40 dB, like ffmpeg's -q:v 2
EXIF_ORIENTATION = 0x0112  # the tag; 1 is upright
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # 16-bit grey
H264_OPTIONS = {"crf": "18"}  # of re-encoded files; hardly distinguishable from their source
STEADY = Fraction(3, 2)  # longest gap between frames over the shortest: at 29.97 fps, stamps in ms differ by 33 or 34
MAX_STORED_BYTES = 1 << 28  # 256 MiB, about 20 minutes at 10 frames per second: a record is read as a whole


@dataclasses.dataclass(frozen=True)
class Media:
    """What is stored of a file.

    Attributes:
        frames: JPEG bytes, in order of time; one for an image. In the form "video", the bytes of one video file.
        fps: average rate of these frames; 0 for an image.
        num_source_frames: number of frames in the file; in the form "video", in the stored file.
        sha256: hash of the file.
        form: one of FORMS.
    """

    frames: tuple[bytes, ...]
    fps: float
    num_source_frames: int
    sha256: str
    form: str = "frames"


def read_video(
    path: str, short_side_px: int, fps: float, form: str = "frames", cut: tuple[float, float] | None = None
) -> Media:
    """Decodes a video, keeps `fps` of its frames per second, and shrinks them. README.md explains each kind of file.

    Args:
        path: the file.
        short_side_px: shorter side of the stored frames; smaller frames are not enlarged.
        fps: frames per second to keep, by time stamp. If the file has fewer, all are kept; no frame is stored twice.
        form: one of FORMS. With "video" a file is stored unchanged if its frame rate is steady and its frames are no
            larger than `short_side_px`. Otherwise it is re-encoded as H.264, with `fps` and `short_side_px`. In both
            cases it is decoded to its end, and a damaged file is refused.
        cut: start and end of the part to read, in seconds; None: all. A part is always encoded again.

    Raises:
        MediaError: no video, no frames, too few frames, damaged frames, or a video that is too large.
        Exception: any other error of FFmpeg for a file that it cannot open.
    """
    if form == "video":
        return _read_as_file(path, short_side_px, fps) if cut is None else _cut_as_file(path, short_side_px, fps, cut)
    jpegs, stored_bytes, size_px = [], 0, None
    ticks, converter = _Ticks(fps), picture.Converter()
    with video.open_video(path) as clip:
        for time, frame in clip.frames() if cut is None else clip.frames_between(*cut):
            if not ticks.take(time):
                continue
            size_px = size_px or picture.shrunk(*picture.displayed_size(frame, clip.pixel_aspect), short_side_px)
            jpegs.append(encode_jpeg(converter.to_rgb(frame, *size_px), subsampling="4:2:0"))  # as in videos
            stored_bytes += len(jpegs[-1])
            if stored_bytes > MAX_STORED_BYTES:
                raise MediaError(
                    f"its first {float(ticks.seconds):.0f} s take more than {MAX_STORED_BYTES} bytes: cut it into clips"
                )
    if not jpegs:
        raise MediaError("it has no frames" if cut is None else "the part has no frames")
    return Media(tuple(jpegs), ticks.rate(), clip.num_decoded, source_file.sha256(path, cut))


def _read_as_file(path: str, short_side_px: int, fps: float) -> Media:
    """`read_video` for the form "video"."""
    times, sizes_px = [], set()
    with video.open_video(path) as clip:
        for time, frame in clip.frames():
            times.append(time)
            sizes_px.add(picture.displayed_size(frame, clip.pixel_aspect))
    if not times:
        raise MediaError("it has no frames")
    data = pathlib.Path(path).read_bytes()
    rate, num_frames = _steady_rate(times), len(times)
    fits = all(size_px == picture.shrunk(*size_px, short_side_px) for size_px in sizes_px)
    if not (rate and fits and len(sizes_px) == 1 and _has_frames(data, num_frames)):
        data, rate, num_frames = _encode_h264(path, min(sizes_px), short_side_px, fps)
    if len(data) > MAX_STORED_BYTES:
        raise MediaError(f"{times[-1] - times[0]:.0f} s take more than {MAX_STORED_BYTES} bytes: cut it into clips")
    return Media((data,), rate, num_frames, source_file.sha256(path), "video")


def _cut_as_file(path: str, short_side_px: int, fps: float, cut: tuple[float, float]) -> Media:
    """A part of a video, for the form "video"."""
    with video.open_video(path) as clip:
        sizes_px = [picture.displayed_size(frame, clip.pixel_aspect) for _, frame in clip.frames_between(*cut)]
    if not sizes_px:
        raise MediaError("the part has no frames")
    data, rate, num_frames = _encode_h264(path, min(sizes_px), short_side_px, fps, cut)
    return Media((data,), rate, num_frames, source_file.sha256(path, cut), "video")


def _steady_rate(times: list[Fraction]) -> float | None:
    """Frames per second; None if the rate is not steady, or if there is only one frame."""
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if not gaps or max(gaps) > STEADY * min(gaps):
        return None
    return float(len(gaps) / (times[-1] - times[0]))


def _has_frames(data: bytes, num_frames: int) -> bool:
    """Whether a file, read the way training reads it, has exactly `num_frames` frames."""
    try:
        frames_of_video.frames_at(data, [0, num_frames - 1])
        frames_of_video.frames_at(data, [num_frames])
    except (IndexError, av.error.FFmpegError, MediaError) as error:
        return str(error).endswith(f" {num_frames}")
    return False


def _encode_h264(
    path: str, size_px: tuple[int, int], short_side_px: int, fps: float, cut: tuple[float, float] | None = None
) -> tuple[bytes, float, int]:
    """Encodes a video as an mp4 file that can be read from any second: its bytes, rate and number of frames."""
    height_px, width_px = (max(2, side_px // 2 * 2) for side_px in picture.shrunk(*size_px, short_side_px))
    buffer, ticks, converter, num_frames = io.BytesIO(), _Ticks(fps), picture.Converter(), 0
    with av.open(buffer, "w", format="mp4") as container, video.open_video(path) as clip:
        stream = container.add_stream("libx264", Fraction(fps), options=H264_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.gop_size = max(1, round(fps))
        for time, frame in clip.frames() if cut is None else clip.frames_between(*cut):
            if ticks.take(time):
                rgb = av.VideoFrame.from_ndarray(converter.to_rgb(frame, height_px, width_px), format="rgb24")
                container.mux(stream.encode(rgb))
                num_frames += 1
        container.mux(stream.encode())
    return buffer.getvalue(), ticks.rate(), num_frames


def read_image(path: str, short_side_px: int) -> Media:
    """Decodes an image and shrinks it. A JPEG that needs no change is stored unchanged.

    Arguments as in `read_video`. If a file has several pictures, the first is taken.

    Raises:
        MediaError: the image is empty, not a file, or too large.
        Exception: any error of Pillow for a file that it cannot decode.
    """
    with source_file.open_regular(path) as file, opening.open_image(file) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        height_px, width_px = picture.shrunk(upright.height, upright.width, short_side_px)
        changed = upright.size != (width_px, height_px) or image.getexif().get(EXIF_ORIENTATION, 1) != 1
        if image.format == "JPEG" and image.mode in ("RGB", "L") and not changed:
            file.seek(0)
            jpeg = file.read()
        else:
            resized = _image_to_rgb(upright).resize((width_px, height_px), Image.Resampling.LANCZOS)
            jpeg = encode_jpeg(np.asarray(resized))
    return Media((jpeg,), 0.0, 1, source_file.sha256(path))


def encode_jpeg(frame: np.ndarray, subsampling: str = "4:4:4") -> bytes:
    """Encodes a frame, uint8 [H, W, 3], as JPEG with the given chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
    return buffer.getvalue()


class _Ticks:
    """Chooses frames by their time: a clock ticks `fps` times per second, and each tick takes the nearest frame.

    In a longer gap no frame is taken twice: the clock waits, and the next frame sets it again.
    """

    def __init__(self, fps: float):
        self._tick_lasts = 1 / Fraction(fps)
        self._next_tick = self._first = self._last = Fraction(0)
        self._num_seen = self._num_taken = 0
        self._waited = Fraction(0)

    def take(self, time: Fraction) -> bool:
        """Whether to keep the frame at `time`, in seconds. Must be called in order of time."""
        if not self._num_seen:
            self._next_tick = self._first = self._last = time
        # The next frame is expected at the same distance as the previous one. Then this frame is nearer to the tick.
        gap, self._last = min(time - self._last, self._tick_lasts), time
        self._num_seen += 1
        if time + gap / 2 < self._next_tick:
            return False
        late = time - self._next_tick
        if late > self._tick_lasts / 2:
            self._waited += late
            self._next_tick = time
        self._next_tick += self._tick_lasts
        self._num_taken += 1
        return True

    @property
    def seconds(self) -> float:
        """Seconds from the first frame to the last."""
        return float(self._last - self._first)

    def rate(self) -> float:
        """Frames taken per second: the clock's rate, or less if the clock waited or the frames are further apart."""
        intervals = self._num_taken - 1
        rates: list[Fraction | float] = [1 / self._tick_lasts]
        if intervals:
            rates.append(intervals / (intervals * self._tick_lasts + self._waited))
        if self.seconds:
            rates.append((self._num_seen - 1) / self.seconds)
        return float(min(rates))


def _image_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        levels = np.clip(np.round(np.asarray(image) / 257), 0, 255)  # 65535 becomes 255
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        return Image.fromarray(picture.over_background(np.asarray(image.convert("RGBA"))))
    return image.convert("RGB")
