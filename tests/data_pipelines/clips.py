"""Small encoded clips for tests."""

import pathlib

import av
import numpy as np

CODECS = {".mp4": "mpeg4", ".avi": "mpeg4", ".webm": "libvpx"}


def write_clip(path, level=100, step=0, num_frames=6, rate=12) -> str:
    """A clip of 32 x 48 px, frame i grey of `level` + i `step`, in the format of its ending; returns the path."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 32, 48, "yuv420p", 1_000_000
        for i in range(num_frames):
            frame = np.full((32, 48, 3), level + i * step, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)
