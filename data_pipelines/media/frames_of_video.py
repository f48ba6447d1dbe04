"""Chosen frames of a video file in memory; only what they need is decoded. No TensorFlow here.

The packets are read first, which costs almost nothing. The frames between two key frames (a group) do not depend on
another group, nor on frames that are decoded later. Frames to which no other frame refers are skipped unless they are
wanted. If the packets do not prove this, everything up to the last wanted frame is decoded.

# T frames; h, w, 3 a picture's height, width and colours.
"""

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np

from data_pipelines.media import opening, picture, shown_frames, source_file

# Formats whose packets state when their frame is shown. The packets of AVI do not.
STAMPED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
MAX_READ_S = 300  # per clip, so that a hostile record cannot stop a run; this project's choice


def frames_at(data: bytes, indices: Sequence[int]) -> np.ndarray:
    """Decodes frames by their index in display order, with the same pixels as `media_file.read_video`.

    Args:
        data: the file.
        indices: T frame indices, in any order; an index may occur several times.

    Returns:
        uint8 [T, h, w, 3].

    Raises:
        IndexError: the video has no such frame.
        av.error.FFmpegError: the file cannot be opened or decoded.
        MediaError: decoding takes longer than MAX_READ_S.
    """
    deadline = opening.Deadline(MAX_READ_S)
    for decode in (_planned, _plain):
        with _opened(data, deadline) as (container, stream):
            pictures = decode(container, stream, sorted(set(indices)), deadline)
        if pictures is not None:
            return np.stack([pictures[index] for index in indices])
    raise IndexError(f"the video has no frame {max(indices)}")


def all_frames(data: bytes) -> Iterator[np.ndarray]:
    """Every frame of a file in order, each uint8 [h, w, 3].

    Raises:
        av.error.FFmpegError: the file cannot be opened or decoded.
        MediaError: decoding takes longer than `opening` allows.
    """
    deadline = opening.Deadline()
    with _opened(data, deadline) as (container, stream):
        frames = _timed(container.decode(stream), deadline)
        yield from (frame for _, frame in _shown(stream, enumerate(frames)))


@contextlib.contextmanager
def _opened(data: bytes, deadline: opening.Deadline) -> Iterator[tuple]:
    """The container and its first video stream, set up to be decoded only in this thread."""
    with opening.open_container(io.BytesIO(data), deadline) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        stream.codec_context.options = {"max_pixels": str(source_file.MAX_PIXELS)}  # a stream may grow on the way
        yield container, stream


def _timed(frames: Iterator[av.VideoFrame], deadline: opening.Deadline) -> Iterator[av.VideoFrame]:
    for frame in frames:
        deadline.check()
        yield frame


def _planned(container, stream, wanted: list[int], deadline: opening.Deadline) -> dict[int, np.ndarray] | None:
    """Index -> picture; None if the packets do not state enough, or if a wanted frame was not decoded."""
    if container.format.name not in STAMPED:
        return None
    packets = [packet for packet in container.demux(stream) if packet.size]
    counter = shown_frames.counter(stream.codec_context)
    num_shown = {packet: counter.count(bytes(packet)) for packet in packets}
    groups = list(_groups(packets))
    if not _can_plan(num_shown, groups):
        return None
    # Frames that an edit list hides are marked as discarded.
    shown = sorted(packet.pts for packet in packets if num_shown[packet] and not packet.is_discard)
    if wanted[-1] >= len(shown):
        return None
    index_of = {shown[index]: index for index in wanted}
    prefixes = (_prefix(stream.codec_context, group, index_of) for group in groups)
    frames = _timed(itertools.chain.from_iterable(prefixes), deadline)
    pictures = dict(_shown(stream, ((index_of[frame.pts], frame) for frame in frames if frame.pts in index_of)))
    return pictures if len(pictures) == len(wanted) else None


def _groups(packets: list) -> Iterator[list]:
    """The packets in decoding order, split before each key frame."""
    starts = [i for i, packet in enumerate(packets) if packet.is_keyframe and i] + [len(packets)]
    return (packets[start:end] for start, end in itertools.pairwise([0, *starts]))


def _can_plan(num_shown: dict, groups: list[list]) -> bool:
    """Whether frames can be decoded group by group.

    Each packet that shows a frame must have a time of its own, and no frame may be shown before the key frame of its
    group. Such a frame may need the previous group: its group is open.

    Args:
        num_shown: packet -> number of frames that it shows.
        groups: the packets of each group.
    """
    times = [packet.pts for packet, number in num_shown.items() if number]
    if None in times or len(set(times)) < len(times) or max(num_shown.values(), default=0) > 1:
        return False
    return all(
        group[0].is_keyframe
        and num_shown[group[0]]
        and min(packet.pts for packet in group if num_shown[packet]) == group[0].pts
        for group in groups
    )


def _prefix(decoder, group: list, wanted) -> Iterator[av.VideoFrame]:
    """Decodes a group up to its last packet whose time is in `wanted`; decodes nothing if there is no such packet."""
    last = max((i for i, packet in enumerate(group) if packet.pts in wanted), default=None)
    if last is None:
        return
    for packet in group[: last + 1]:
        decoder.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)  # the frames that the decoder still holds, because they are shown later
    decoder.flush_buffers()


def _plain(container, stream, wanted: list[int], deadline: opening.Deadline) -> dict[int, np.ndarray] | None:
    """Index -> picture, by decoding everything in order; None if the video has too few frames."""
    frames = enumerate(itertools.islice(_timed(container.decode(stream), deadline), wanted[-1] + 1))
    places = set(wanted)
    pictures = dict(_shown(stream, (numbered for numbered in frames if numbered[0] in places)))
    return pictures if len(pictures) == len(wanted) else None


def _shown(stream, numbered: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, np.ndarray]]:
    """Each frame as a player shows it, at the size of the first frame."""
    converter, size_px = picture.Converter(), None
    for index, frame in numbered:
        size_px = size_px or picture.displayed_size(frame, stream.sample_aspect_ratio or Fraction(1))
        yield index, converter.to_rgb(frame, *size_px)
