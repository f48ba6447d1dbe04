"""A video file -> its frames and the times at which they are shown. Any damage is an error, never just fewer frames.

FFmpeg continues after most damage. It reports damage in four ways, and each of them alone is enough to refuse the file:
exceptions, flags of packets and frames, its log (many faults are reported only there), and fewer frames than packets.
"""

import collections
import contextlib
import re
import threading
from collections.abc import Iterator
from fractions import Fraction

import av
from av.container.core import Flags
from av.stream import Disposition

from data_pipelines.media import opening, shown_frames, source_file, truncation
from data_pipelines.media.source_file import MediaError

IVF = "ivf"
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
NOT_VIDEO = ("tty", "image2")  # FFmpeg plays text as in a terminal, and reads pictures with numbered names
PICTURE_ENDING = "_pipe"  # the end of the names of FFmpeg's formats for single pictures
# Messages about damage that are not logged as errors. The flag of a damaged packet is lost when the packet is split.
CORRUPT_PACKET = "Packet corrupt (stream = {},"
INCOMPLETE_FRAME = "freeing incomplete packet"  # in ASF
FALLBACK_RATE = Fraction(25)  # FFmpeg's own default for streams that state no rate
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the alpha of WebM
# In these codecs a packet has no long run of zeros, except before a start code (00 00 01) or at its end. A decoder
# would treat other zeros as data and show a wrong picture.
CODECS_WITHOUT_ZEROS = ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4")
ZEROED = re.compile(rb"\0{16}\0*[^\0\1]")
STILL_S = Fraction(1, 2000)  # no frame is shown for a shorter time
ANIMATIONS = ("apng", "gif")
# In animated pictures a shorter delay counts as no delay: the rule of Chromium and Firefox.
SHORT_DELAY, SHORT_DELAY_LASTS = Fraction(1, 100), Fraction(1, 10)
MAX_STILL_FRAMES = 3  # consecutive frames with one time stamp; if there are more, the time stamps are damaged
LATE_END_S = 1.0  # a listed part may end so much later than its video: this project's choice

_listeners_lock = threading.Lock()
_num_listeners = 0


class Video:
    """An open video.

    Attributes:
        pixel_aspect: width over height of a pixel.
        num_decoded: number of frames decoded so far.
    """

    def __init__(self, file, container, deadline: opening.Deadline, log: list, at_opening: list):
        self._file, self._container, self._log, self._at_opening = file, container, log, at_opening
        self._deadline = deadline
        self._stream = _choose_stream(container)
        self._index_at_start = len(self._stream.index_entries)
        self.pixel_aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self.num_decoded = 0

    def frames(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """All frames with their times in seconds, in order. Times never decrease.

        Raises:
            MediaError: something is damaged or missing.
        """
        packets, clock = _Packets(self._stream), _clock(self._container, self._stream)
        decoder = _decoder(self._stream)
        for packet in self._checked(self._container.demux(self._stream)):
            num_shown = packets.count(packet)
            if num_shown is None:
                continue
            clock.note(packet, num_shown)
            for frame in self._checked(_decoded(decoder, packet)):
                self.num_decoded += 1
                packets.seen += 1 + frame.interlaced_frame  # its two fields may have been two packets
                if frame.is_corrupt:
                    raise MediaError(f"frame {self.num_decoded} is damaged")
                yield clock.time(frame), frame
        self._check_complete(packets)

    def frames_between(self, start_s: float, end_s: float) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """The frames whose time stamps are from `start_s` to before `end_s`, with their times in seconds.

        It reads from the key frame before the start, so a part of a long video costs what the part is long. What is
        before the start, and whether the file is whole, is not checked.

        Raises:
            MediaError: a frame is damaged, has no time stamp, or the video ends before `end_s` by a second or more.
        """
        time_base, first, last = self._stream.time_base or Fraction(0), self._stream.start_time or 0, Fraction(0)
        if start_s > 0 and time_base:
            self._container.seek(first + int(start_s / time_base), stream=self._stream)
        decoder = _decoder(self._stream)
        for packet in self._checked(self._container.demux(self._stream)):
            for frame in self._of_packet(decoder, packet):
                if frame.pts is None or not time_base:
                    raise MediaError("its frames have no time stamps, so no part of it can be cut out")
                time = (frame.pts - first) * time_base
                if time >= end_s:
                    return
                if time >= start_s:
                    self._raise_logged()
                    self.num_decoded += 1
                    if frame.is_corrupt:
                        raise MediaError(f"the frame at {float(time):.2f} s is damaged")
                    yield time, frame
                last = max(last, time)
            if not self.num_decoded:
                self._log.clear()
        if last < end_s - LATE_END_S:
            raise MediaError(f"it ends at {float(last):.2f} s, before the end of the part, {end_s:g} s")

    def _of_packet(self, decoder, packet) -> list[av.VideoFrame]:
        """The frames of a packet of a part. Before the first wanted one, frames may refer to what was not read."""
        try:
            return list(_decoded(decoder, packet))
        except av.error.FFmpegError as error:
            if self.num_decoded:
                raise MediaError(f"frame {self.num_decoded + 1} of the part is damaged: {error.strerror}") from error
            return []

    def _checked(self, steps) -> Iterator:
        """Passes on the frames from FFmpeg, and raises the damage that it logs. Enforces the time limit."""
        try:
            for step in steps:
                self._raise_logged()
                self._deadline.check(f"its first {self.num_decoded} frames")
                yield step
            self._raise_logged()
        except av.error.FFmpegError as error:
            self._raise_logged()
            raise MediaError(f"frame {self.num_decoded + 1} is damaged: {error.strerror}") from error

    def _raise_logged(self) -> None:
        self._raise_damage(self._log, f"frame {self.num_decoded + 1}")
        self._log.clear()

    def _raise_damage(self, log: list, what: str) -> None:
        damage = (CORRUPT_PACKET.format(self._stream.index), INCOMPLETE_FRAME)
        for level, source, message in log:
            if level <= av.logging.ERROR or message.startswith(damage):
                raise MediaError(f"{what} is damaged: {source}: {message.strip()}")

    def _check_complete(self, packets: "_Packets") -> None:
        listed = len(self._stream.index_entries)
        if self._container.format.name == IVF:  # its header states the number or the duration of its frames
            listed = 0
        elif not self._index_at_start:  # the index grew while packets were read, so only the header states the number
            listed = max(listed, self._stream.frames)
        elif listed < self._stream.frames and self._container.format.name == MP4:
            listed += max(0, self._stream.frames - _num_indexed(self._file, self._stream.index))
        if packets.total < listed:
            raise MediaError(f"it stops after {packets.total} of {listed} frames")
        if packets.seen < packets.due:
            raise MediaError(f"{packets.due - packets.seen} of its {packets.due} frames are missing")
        self._raise_damage(self._at_opening, "a part of it")
        truncation.check(self._file, self._container.format.name)


@contextlib.contextmanager
def open_video(path: str) -> Iterator[Video]:
    """Opens a video file, whatever its name is. No other file is read and nothing is downloaded.

    Raises:
        MediaError: it is not a video, is larger than `source_file` allows, or takes longer than `opening` allows.
        av.error.FFmpegError: FFmpeg does not recognise the file.
    """
    with source_file.open_regular(path) as file, _logged() as log:
        deadline = opening.Deadline()
        with _opened(file, deadline, path, log) as container:
            # The decoders repeat what they logged while FFmpeg probed the streams. The demuxer does not repeat it.
            at_opening = [entry for entry in log if entry[1] == container.format.name]
            log.clear()
            # FFmpeg's guesses for missing time stamps are not in order.
            container.flags &= ~Flags.gen_pts.value  # type: ignore[operator]  # PyAV's stub takes a value for a member
            yield Video(file, container, deadline, log, at_opening)


def _num_indexed(file, stream_index: int) -> int:
    """Number of frames in the tables of an mp4 file, including those that an edit list hides."""
    file.seek(0)
    with opening.open_container(file, opening.Deadline(), ignore_editlist="1") as container:
        return len(container.streams[stream_index].index_entries)


def _opened(file, deadline: opening.Deadline, path: str, log: list) -> av.container.InputContainer:
    """Opens a file under a neutral name: FFmpeg interprets "%03d" and "concat:". It keeps the ending, for guessing."""
    try:
        return opening.open_container(file, deadline, re.sub(r"[^\w./ -]", "_", path))
    except av.error.ArgumentError as error:
        if any(message.startswith(opening.NOT_LISTED) for _, _, message in log):
            raise MediaError("it is of none of the formats that are read as videos") from error
        raise


@contextlib.contextmanager
def _logged() -> Iterator[list]:
    """A list that collects FFmpeg's messages in this thread, as (level, source, message)."""
    _count_listeners(1)
    try:
        with av.logging.Capture() as log:
            yield log
    finally:
        _count_listeners(-1)


def _count_listeners(change: int) -> None:
    """Turns PyAV's log on for the first listener and off after the last. All threads share one log."""
    global _num_listeners
    with _listeners_lock:
        _num_listeners += change
        av.logging.set_level(av.logging.INFO if _num_listeners else None)
        av.logging.set_skip_repeated(not _num_listeners)  # an equal message for the next file must not be suppressed


def _choose_stream(container) -> av.VideoStream:
    """The stream that FFmpeg considers best, except for cover pictures."""
    format_name = container.format.name
    if format_name in NOT_VIDEO or format_name.endswith(PICTURE_ENDING):
        raise MediaError(f"it is not a video but {format_name.removesuffix(PICTURE_ENDING)}")
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        raise MediaError("it has no video")
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise MediaError("FFmpeg has no decoder for its video")
    source_file.check_pixels(stream.width, stream.height)
    return stream


def _decoder(stream) -> av.VideoCodecContext:
    """The stream's decoder, or the decoder that also decodes its alpha."""
    context = stream.codec_context
    metadata = {key.lower(): value for key, value in stream.metadata.items()}
    if metadata.get("alpha_mode") == "1" and context.name in ALPHA_DECODERS:
        context = av.CodecContext.create(ALPHA_DECODERS[context.name], "r")
    context.thread_type, context.thread_count = "NONE", 1  # several files are decoded in parallel instead
    context.options = {"max_pixels": str(source_file.MAX_PIXELS)}  # a stream may grow on the way
    return context


def _decoded(decoder, packet) -> Iterator[av.VideoFrame]:
    # A separate decoder treats None as the end of the stream, while the stream's own decoder treats an empty packet so.
    yield from decoder.decode(packet if packet.size else None)


class _Packets:
    """Counts packets, to compare with the expected number of frames.

    Attributes:
        total: number of packets that hold a frame.
        due: number of frames that must be decoded from them.
        seen: number of frames that were decoded.
    """

    def __init__(self, stream):
        self._shown = shown_frames.counter(stream.codec_context)
        self._has_no_zeros = stream.codec_context.name in CODECS_WITHOUT_ZEROS
        self._first_key_pts = None
        self.total = self.due = self.seen = 0

    def count(self, packet) -> int | None:
        """Counts a packet and returns the number of frames that it shows; None if it must not be decoded."""
        if not packet.size:
            at_end = packet.dts is None
            self.total += not at_end  # an empty packet repeats the previous frame
            return 0 if at_end else None
        if packet.is_corrupt or self._has_no_zeros and ZEROED.search(packet):
            raise MediaError(f"the packet of frame {self.total + 1} is damaged")
        self.total += 1
        num_shown = self._shown.count(bytes(packet))
        if not self._is_left_out(packet):
            self.due += num_shown
        return num_shown

    def _is_left_out(self, packet) -> bool:
        if self._first_key_pts is None and packet.is_keyframe:
            self._first_key_pts = packet.pts
        # Frames that are shown before the first key frame may need frames that were cut off.
        leading = None not in (packet.pts, self._first_key_pts) and packet.pts < self._first_key_pts
        return leading or packet.is_discard  # an edit list discards what it does not show


def _clock(container, stream) -> "_Clock | _AnimationClock":
    return (_AnimationClock if container.format.name in ANIMATIONS else _Clock)(container, stream)


class _AnimationClock:
    """Display times of the frames of an animated picture: the sum of the delays of earlier frames, as in browsers."""

    def __init__(self, container, stream):
        self._time_base = stream.time_base
        self._waiting: collections.deque[Fraction] = collections.deque()
        self._next = Fraction(0)

    def note(self, packet, num_shown: int) -> None:
        """Remembers the delays of the frames that a packet shows."""
        delay = (packet.duration or 0) * self._time_base
        self._waiting.extend([SHORT_DELAY_LASTS if delay <= SHORT_DELAY else delay] * num_shown)

    def time(self, frame) -> Fraction:
        """When the next frame is shown, in seconds."""
        time = self._next
        self._next += self._waiting.popleft() if self._waiting else SHORT_DELAY_LASTS
        return time


class _Clock:
    """Display times of frames: from their time stamps, else from their packets' stamps, else from the nominal rate."""

    def __init__(self, container, stream):
        self._has_stamps = not container.format.flags & av.format.Flags.no_timestamps.value
        self._time_base = stream.time_base
        self._frame_lasts = 1 / (stream.guessed_rate or stream.average_rate or FALLBACK_RATE)
        self._waiting_dts: collections.deque[int | None] = collections.deque()
        self._dts: int | None = None
        self._time: Fraction | None = None
        self._shift = Fraction(0)
        self._num_still = 0

    def note(self, packet, num_shown: int) -> None:
        """Remembers a packet that goes into the decoder, once for each frame that it shows."""
        self._waiting_dts.extend([packet.dts] * num_shown)

    def time(self, frame) -> Fraction:
        """When the next frame is shown, in seconds.

        Raises:
            MediaError: too many frames have one time stamp.
        """
        step, stamp, before = self._step(), self._stamp(frame), self._time
        if before is None:
            now = Fraction(0) if stamp is None else stamp
        elif stamp is None:
            now = before + step
        else:
            if stamp + self._shift < before:  # the stamps start from 0 again, as in joined files
                self._shift = before + step - stamp
            now = stamp + self._shift
        self._time = now
        self._check_moving(before, now)
        return now

    def _check_moving(self, before: Fraction | None, now: Fraction) -> None:
        stands_still = before is not None and now - before < STILL_S
        self._num_still = self._num_still + 1 if stands_still else 0
        if self._num_still > MAX_STILL_FRAMES:
            raise MediaError(f"its time stamps do not advance after {float(now):.3f} s, while frames follow")

    def _stamp(self, frame) -> Fraction | None:
        return frame.pts * self._time_base if self._has_stamps and frame.pts is not None else None

    def _step(self) -> Fraction:
        """Duration of the previous frame if the stamps do not state it."""
        before, now = self._dts, self._waiting_dts.popleft() if self._waiting_dts else None
        self._dts = now
        if self._has_stamps and before is not None and now is not None and now > before:
            return (now - before) * self._time_base  # in decoding order, but the same number and the same distance
        return self._frame_lasts
