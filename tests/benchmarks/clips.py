"""The clips that every benchmark reads: made on the spot, always the same, 10 s of 340 x 256 in h264.

A textured scene under a moving camera, with a few things that move by themselves and a little noise: about as many
bytes as a real clip of this size has, 0.4 MB as mp4 and 20 kB as one JPEG frame of quality 95.
"""

import io
import pathlib
from fractions import Fraction

import av
import numpy as np

from data_pipelines.media import media_file

HEIGHT, WIDTH, FPS, SECONDS = 256, 340, 25, 10


def make(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """`count` mp4 files in `folder`; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip_{i}.mp4" for i in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(encode(scene(seed)))
    return paths


def scene(seed: int):
    """The frames of a clip, one by one: uint8 [256, 340, 3]."""
    rng = np.random.default_rng(seed)
    world = _texture(rng, 512, 768)
    things = [(_texture(rng, 48, 48), rng.uniform(20, 180, 2), rng.uniform(-2, 2, 2)) for _ in range(12)]
    grain = rng.normal(0, 2.0, (8, HEIGHT, WIDTH, 3))
    for i in range(FPS * SECONDS):
        top, left = (int(span * (0.5 + 0.4 * np.sin(i / pace))) for span, pace in ((256, 47.0), (428, 61.0)))
        frame = world[top : top + HEIGHT, left : left + WIDTH].copy()
        for picture, start, speed in things:
            y, x = ((start + speed * i) % (HEIGHT - 48, WIDTH - 48)).astype(int)
            frame[y : y + 48, x : x + 48] = picture
        yield np.clip(frame + grain[i % 8], 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A coloured picture whose detail falls off as it does in photographs: amplitude as 1 / frequency."""
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width)) ** 2.6
    waves = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1)) * amplitude
    picture = np.real(np.fft.ifft2(waves, axes=(0, 1))) @ np.array([[1, 0.8, 0.6], [0.2, 0.5, -0.2], [0, 0.1, 0.6]])
    return 128 + 50 * (picture - picture.mean()) / picture.std()


def encode(frames) -> bytes:
    """Frames as an mp4 file, by x264's defaults."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", FPS, options={"crf": "18", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def jpegs(path: pathlib.Path, fps: float) -> media_file.Media:
    """A clip as the project stores it, at `fps` frames a second."""
    return media_file.read_video(str(path), HEIGHT, fps)
