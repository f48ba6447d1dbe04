"""Small encoded clips for tests."""

import pathlib

import av
import numpy as np

CODECS = {".mp4": "mpeg4", ".avi": "mpeg4", ".webm": "libvpx"}


def write_clip(path, level=100, num_frames=6, rate=12) -> str:
    """A clip of 32 x 48 px, grey of one level, in the format that its ending says; returns the path."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 32, 48, "yuv420p", 1_000_000
        frame = np.full((32, 48, 3), level, np.uint8)
        for _ in range(num_frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)
