"""Clips whose frames are numbered in their pixels, so that a lost, repeated or reordered one is seen.

# H, W height, width.
"""

import contextlib
import io
import os
from fractions import Fraction

import av
import numpy as np
from PIL import Image

NUM_BITS = 6
SIZE_PX = (64, 96)


@contextlib.contextmanager
def own_priority():
    """Keeps the thread's priority: SVT-AV1, run by root, makes it real-time, and other test processes starve."""
    if not hasattr(os, "sched_getscheduler"):  # Linux alone
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def draw(number: int, height: int = SIZE_PX[0], width: int = SIZE_PX[1]) -> np.ndarray:
    """A picture, uint8 [H, W, 3]: above, the number as bars, white for 1; below, red and, right of it, blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(NUM_BITS):
        picture[: height // 2, bit * width // NUM_BITS : (bit + 1) * width // NUM_BITS] = 255 * (number >> bit & 1)
    picture[height // 2 :, : width // 2, 0] = picture[height // 2 :, width // 2 :, 2] = 200
    return picture


def write(path, codec, pix_fmt="yuv420p", numbers=range(30), rate=30, size=SIZE_PX, stamps_ms=None, **options) -> str:
    """A clip of the frames `draw(number)`; returns its path.

    Args:
        path: its ending decides the container.
        codec: encoder.
        pix_fmt: what it is given.
        numbers: of the frames.
        rate: frames a second.
        size: height and width.
        stamps_ms: when each is shown, instead of by the rate.
        **options: `encoder` and `container`: their options; `setup`: a function of the stream; `paint`: frame number ->
          RGB picture instead of `draw`; `edit`: a function of each frame before it is encoded.
    """
    paint = options.get("paint", lambda number: draw(number, *size))
    with own_priority(), av.open(str(path), "w", options=options.get("container")) as container:
        stream = container.add_stream(codec, rate=rate, options=options.get("encoder"))
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if codec not in ("gif", "png", "apng", "ffv1", "rawvideo"):
            stream.bit_rate = 2_000_000
        time_base = Fraction(1, 1000) if stamps_ms else 1 / Fraction(rate)
        stream.codec_context.time_base = time_base
        options.get("setup", lambda stream: None)(stream)
        for i, number in enumerate(numbers):
            picture = paint(number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            frame = options.get("edit", lambda frame: frame)(frame)
            frame.pts, frame.time_base = stamps_ms[i] if stamps_ms else i, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def copy(source, target, keep=lambda place: True, container=None, title="") -> str:
    """Copies the packets of a clip, or those at which places in the order of decoding `keep` says; returns the path."""
    with av.open(str(source)) as reading, av.open(str(target), "w", options=container) as writing:
        writing.metadata["title"] = title
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for i, packet in enumerate(reading.demux(video=0)):
            if packet.dts is not None and keep(i):
                packet.stream = stream
                writing.mux(packet)
    return str(target)


def pictures(read) -> list[np.ndarray]:
    """The stored frames, uint8 [H, W, 3]."""
    return [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in read.frames]


def numbers(read) -> list[int]:
    """The numbers of the stored frames."""
    return [number(picture) for picture in pictures(read)]


def number(picture: np.ndarray) -> int:
    """The number of one picture."""
    height, width, _ = picture.shape
    bars = [picture[height // 4, (2 * bit + 1) * width // (2 * NUM_BITS)].mean() for bit in range(NUM_BITS)]
    return sum(1 << bit for bit, level in enumerate(bars) if level > 127)


@contextlib.contextmanager
def edited(path):
    """The bytes of a file, to be changed in place."""
    with open(path, "rb+") as file:
        content = bytearray(file.read())
        yield content
        file.seek(0)
        file.write(content)
        file.truncate()
