"""Chosen frames of a video file in memory, decoding as little as they need. No TensorFlow here.

The packets are looked at first, which costs next to nothing. Frames between two key frames (a group) need none of
another group, and none that are decoded after them; and frames that no other refers to are left out unless wanted.
Where this cannot be known to be so, everything up to the last wanted frame is decoded.

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

# Formats whose packets tell when their frame is shown; those of AVI do not.
STAMPED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
MAX_READ_S = 300  # of one clip: a record that is made to take longer must not stop a run; this project's choice


def frames_at(data: bytes, indices: Sequence[int]) -> np.ndarray:
    """Decodes frames by their place in the order in which they are shown, as `media_file.read_video` would show them.

    Args:
        data: the file.
        indices: T places, in any order; one may come several times.

    Returns:
        uint8 [T, h, w, 3].

    Raises:
        IndexError: the video has no such frame.
        av.error.FFmpegError: it cannot be opened or decoded.
        MediaError: it takes longer than MAX_READ_S.
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
        av.error.FFmpegError: it cannot be opened or decoded.
        MediaError: it takes longer than `opening` allows.
    """
    deadline = opening.Deadline()
    with _opened(data, deadline) as (container, stream):
        frames = _timed(container.decode(stream), deadline)
        yield from (frame for _, frame in _shown(stream, enumerate(frames)))


@contextlib.contextmanager
def _opened(data: bytes, deadline: opening.Deadline) -> Iterator[tuple]:
    """The container and its first video, to be decoded in this thread alone."""
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
    """Index -> picture; None if the packets do not say enough, or a wanted frame did not come out."""
    if container.format.name not in STAMPED:
        return None
    packets = [packet for packet in container.demux(stream) if packet.size]
    counter = shown_frames.counter(stream.codec_context)
    num_shown = {packet: counter.count(bytes(packet)) for packet in packets}
    groups = list(_groups(packets))
    if not _can_plan(num_shown, groups):
        return None
    # An edit list discards what it hides.
    shown = sorted(packet.pts for packet in packets if num_shown[packet] and not packet.is_discard)
    if wanted[-1] >= len(shown):
        return None
    index_of = {shown[index]: index for index in wanted}
    prefixes = (_prefix(stream.codec_context, group, index_of) for group in groups)
    frames = _timed(itertools.chain.from_iterable(prefixes), deadline)
    pictures = dict(_shown(stream, ((index_of[frame.pts], frame) for frame in frames if frame.pts in index_of)))
    return pictures if len(pictures) == len(wanted) else None


def _groups(packets: list) -> Iterator[list]:
    """The packets, in order of decoding, cut before each key frame."""
    starts = [i for i, packet in enumerate(packets) if packet.is_keyframe and i] + [len(packets)]
    return (packets[start:end] for start, end in itertools.pairwise([0, *starts]))


def _can_plan(num_shown: dict, groups: list[list]) -> bool:
    """Whether each packet that shows a frame has a time of its own, and no frame is shown before its group's key frame.

    Such a frame may need the group before: the group is open.

    Args:
        num_shown: packet -> frames that it shows.
        groups: the packets, of one group each.
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
    """Decodes a group up to its last packet whose time is in `wanted`; nothing if it has none."""
    last = max((i for i, packet in enumerate(group) if packet.pts in wanted), default=None)
    if last is None:
        return
    for packet in group[: last + 1]:
        decoder.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)  # those that wait for their turn to be shown
    decoder.flush_buffers()


def _plain(container, stream, wanted: list[int], deadline: opening.Deadline) -> dict[int, np.ndarray] | None:
    """Index -> picture, of everything decoded in order; None if there are not as many frames."""
    frames = enumerate(itertools.islice(_timed(container.decode(stream), deadline), wanted[-1] + 1))
    places = set(wanted)
    pictures = dict(_shown(stream, (numbered for numbered in frames if numbered[0] in places)))
    return pictures if len(pictures) == len(wanted) else None


def _shown(stream, numbered: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, np.ndarray]]:
    """Each frame as its player shows it, at the size of the first."""
    converter, size_px = picture.Converter(), None
    for index, frame in numbered:
        size_px = size_px or picture.displayed_size(frame, stream.sample_aspect_ratio or Fraction(1))
        yield index, converter.to_rgb(frame, *size_px)
