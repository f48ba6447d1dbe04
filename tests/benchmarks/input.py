"""What a clip costs on the host, against other ways of reading it: one table of ratios.

    pip install -r tests/benchmarks/requirements.txt
    python -m tests.benchmarks.input

All paths take turns in one process, on the same clips, with the same 16 frames of each, on one thread; ratios are
medians of each round's own. A comparison whose package is missing is left out, by name.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

with contextlib.suppress(ImportError, OSError, RuntimeError):  # told below, where it would be used
    import torchcodec.decoders  # noqa: F401 - loaded after TensorFlow it crashes

import av
import numpy as np
import tensorflow as tf

from data_pipelines.media import frames_of_video
from data_pipelines.stream import pipeline
from tests.benchmarks import clips, measure, scenic, stored

NUM_FRAMES, SAMPLE_FPS = 16, 1.875
STORED_FPS = 10
CLIPS, IMAGES = 4, 8  # of a batch
SIZES_PX = (224, 448)
CANVAS_PX = (clips.HEIGHT, clips.WIDTH)
INDICES = [5 + round(i * clips.FPS / SAMPLE_FPS) for i in range(NUM_FRAMES)]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: how many times cheaper, or what share, and how much was hoped for."""

    what: str
    found: float
    target: float | None = None
    at_most: bool = False

    def __str__(self):
        if self.target is None:
            return f"| {self.what} | | {self.found:.2f} | |"
        met = self.found <= self.target if self.at_most else self.found >= self.target
        sign = "<=" if self.at_most else ">="
        return f"| {self.what} | {sign} {self.target:.2f} | {self.found:.2f} | {'yes' if met else 'no'} |"


class Data:
    """The clips in every form, in a folder; the mp4 files in one that may be kept."""

    def __init__(self, kept: pathlib.Path, folder: pathlib.Path, count: int):
        folder.mkdir()
        paths = clips.make(kept, count)
        self.videos = [path.read_bytes() for path in paths]
        self.ten = [clips.jpegs(path, STORED_FPS) for path in paths]
        full = [clips.jpegs(path, clips.FPS) for path in paths]
        self.jpeg = stored.write(str(folder), "clips", [_record(media.frames, media.fps) for media in self.ten] * 4)
        self.image = stored.write(str(folder), "images", [_record(media.frames[:1], 0.0) for media in self.ten] * 16)
        self.scenic = str(folder / "scenic.tfrecord")
        self.scenic_images = str(folder / "scenic_images.tfrecord")
        scenic.write(self.scenic, [media.frames for media in full])
        scenic.write(self.scenic_images, [media.frames[:1] for media in full] * 16)
        sizes = [self.videos, *([b"".join(media.frames) for media in clip_set] for clip_set in (self.ten, full))]
        mp4_mb, ten_mb, full_mb = (np.mean([len(file) for file in files]) / 1e6 for files in sizes)
        print(
            f"{count} clips of {clips.SECONDS} s, {clips.WIDTH} x {clips.HEIGHT}: {mp4_mb:.2f} MB as mp4, "
            f"{ten_mb:.2f} as JPEGs at {STORED_FPS} fps, {full_mb:.2f} at {clips.FPS}"
        )

    def ours(self, threads: int = 1) -> pipeline.Stream:
        config = stored.config(NUM_FRAMES, SAMPLE_FPS, CANVAS_PX, CLIPS)
        options = pipeline.ReadOptions(threads=threads)
        return pipeline.train_stream(self.jpeg, config, name="clips", seed=0, first_batch=0, options=options)

    def our_images(self) -> pipeline.Stream:
        config = stored.config(1, 0.0, CANVAS_PX, IMAGES)
        options = pipeline.ReadOptions(threads=1)
        return pipeline.train_stream(self.image, config, name="images", seed=0, first_batch=0, options=options)

    def theirs(self, size_px: int, scales: tuple[float, float] = scenic.SCALES):
        return scenic.batches(
            self.scenic, num_frames=NUM_FRAMES, stride=round(clips.FPS / SAMPLE_FPS), size_px=size_px,
            batch_size=CLIPS, threads=1, scales=scales,
        )  # fmt: skip

    def their_images(self, size_px: int):
        return scenic.image_batches(self.scenic_images, size_px=size_px, batch_size=IMAGES, threads=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the clips there, for the next run")
    parser.add_argument("--clips", type=int, default=3, help="how many different ones (default: 3)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every path (default: 9)")
    flags = parser.parse_args()
    with contextlib.ExitStack() as stack:
        fresh = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = Data(flags.folder or fresh / "clips", fresh / "data", flags.clips)
        rows = [*jpeg_rows(data, flags.rounds), *mixed_rows(data, flags.rounds), *video_rows(data, flags.rounds)]
        rows += [*thread_rows(data, flags.rounds), bytes_row(data)]
    print("\n| | target | found | met |\n| --- | --- | --- | --- |")
    print(*rows, sep="\n")


def jpeg_rows(data: Data, rounds: int) -> Iterator[Row]:
    """Clips of JPEG frames, against the Scenic replica and against libjpeg-turbo alone."""
    jobs = {}
    with data.ours() as ours:
        jobs["ours"] = _batches(ours, CLIPS)
        for size_px in SIZES_PX:
            jobs[f"Scenic {size_px}"] = _batches(data.theirs(size_px), CLIPS, 2)
            jobs[f"Scenic {size_px}, unscaled"] = _batches(data.theirs(size_px, (1.0, 1.0)), CLIPS, 2)
        if simplejpeg := _imported("simplejpeg"):
            jobs["libjpeg-turbo"] = _turbo(simplejpeg, data)
        found = measure.interleaved(jobs, rounds)
    _print(found)
    for size_px, target in zip(SIZES_PX, (1.8, 8.0), strict=True):
        yield Row(f"{size_px} px, CPU a clip, Scenic replica over ours", _ratio(found, f"Scenic {size_px}"), target)
        unscaled = _ratio(found, f"Scenic {size_px}, unscaled")
        yield Row(f"{size_px} px, CPU a clip, the replica without its random scale over ours", unscaled)
    if "libjpeg-turbo" in found:
        yield Row("share of the libjpeg-turbo ceiling", _ratio(found, "libjpeg-turbo"), 0.6)


def mixed_rows(data: Data, rounds: int) -> Iterator[Row]:
    """A step of 4 + 4 clips of two datasets and 8 images."""
    with data.ours() as one, data.ours() as two, data.our_images() as images:
        jobs = {"ours": _step(one, two, images)}
        for size_px in SIZES_PX:
            streams = (data.theirs(size_px), data.theirs(size_px), data.their_images(size_px))
            jobs[f"Scenic {size_px}"] = _step(*streams)
        found = measure.interleaved(jobs, rounds)
    _print(found, "a mixed step")
    for size_px, target in zip(SIZES_PX, (2.0, 6.0), strict=True):
        yield Row(f"{size_px} px, mixed step, Scenic replica over ours", _ratio(found, f"Scenic {size_px}"), target)


def video_rows(data: Data, rounds: int) -> Iterator[Row]:
    """The same frames of mp4 files."""
    ways = {"ours": lambda video: frames_of_video.frames_at(video, INDICES), "PyAV": _pyav, **dict(_packages())}
    found = measure.interleaved({name: _each(way, data.videos) for name, way in ways.items()}, rounds)
    _print(found)
    expected = _pyav(data.videos[0])
    for name, way in ways.items():
        difference = np.abs(way(data.videos[0]).astype(int) - expected)
        print(f"  {name}: {np.mean(difference > 0):.1%} of values differ from PyAV's, by {difference.max()} at most")
        if name != "ours":
            yield Row(f"mp4, CPU a clip, {name} over ours", _ratio(found, name), 1.4)


def thread_rows(data: Data, rounds: int) -> Iterator[Row]:
    """What a second thread gives: wall time, so only of meaning on an idle machine of two cores or more."""
    walls, cpus = {1: [], 2: []}, {1: [], 2: []}
    with data.ours(1) as one, data.ours(2) as two:
        for _ in range(rounds):
            for threads, stream in ((1, one), (2, two)):
                wall, cpu = _timed(stream, 10)
                walls[threads].append(wall)
                cpus[threads].append(cpu)
    busy = os.getloadavg()[0]
    yield Row(f"1 to 2 threads, clips/s (load of the machine: {busy:.1f})", _median_ratio(walls[1], walls[2]), 1.7)
    yield Row("1 to 2 threads, CPU a clip", _median_ratio(cpus[2], cpus[1]), 1.1, at_most=True)


def bytes_row(data: Data) -> Row:
    with data.ours() as ours:
        ours_bytes = stored.num_bytes(next(ours))
    theirs_bytes = stored.num_bytes(next(data.theirs(448)))
    return Row("448 px, bytes to the device, Scenic replica over ours", theirs_bytes / ours_bytes, 7.0)


def _record(frames, fps: float) -> dict:
    return {"frames": frames, "fps": fps, "num_source_frames": len(frames)}


def _batches(stream: Iterator, clips_a_batch: int, batches: int = 4) -> Callable[[], int]:
    def job():
        for _ in range(batches):
            next(stream)
        return batches * clips_a_batch

    return job


def _step(*streams: Iterator, steps: int = 2) -> Callable[[], int]:
    def job():
        for _ in range(steps):
            for stream in streams:
                next(stream)
        return steps

    return job


def _each(way: Callable, videos: list[bytes]) -> Callable[[], int]:
    def job():
        for video in videos:
            way(video)
        return len(videos)

    return job


def _turbo(simplejpeg, data: Data) -> Callable[[], int]:
    """libjpeg-turbo alone, as exact as ours, on frames that are in memory."""
    clips_of_jpegs = [media.frames[::6][:NUM_FRAMES] for media in data.ten]

    def job():
        for jpegs in clips_of_jpegs:
            for jpeg in jpegs:
                simplejpeg.decode_jpeg(jpeg)
        return len(clips_of_jpegs)

    return job


def _pyav(video: bytes) -> np.ndarray:
    """Every frame up to the last one, as most readers on PyAV do."""
    found = {}
    with av.open(io.BytesIO(video)) as container:
        container.streams.video[0].thread_type = "NONE"
        for index, frame in enumerate(container.decode(video=0)):
            if index in INDICES:
                found[index] = frame.to_ndarray(format="rgb24")
            if index == INDICES[-1]:
                break
    return np.stack([found[index] for index in INDICES])


def _packages() -> Iterator[tuple[str, Callable[[bytes], np.ndarray]]]:
    """The readers that are installed, each on one thread."""
    if decoders := _imported("torchcodec.decoders"):

        def torchcodec(video: bytes) -> np.ndarray:
            decoder = decoders.VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1)
            return decoder.get_frames_at(INDICES).data.numpy()

        yield "torchcodec", torchcodec
    if package := _imported("decord"):

        def decord(video: bytes) -> np.ndarray:
            return package.VideoReader(io.BytesIO(video), num_threads=1).get_batch(INDICES).asnumpy()

        yield "decord", decord


def _imported(name: str):
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec without FFmpeg raises either of the last two
        print(f"left out, {name} cannot be imported: {str(error).splitlines()[0]}")
        return None


def _timed(stream: pipeline.Stream, batches: int) -> tuple[float, float]:
    """Wall and CPU seconds of some batches, from a standstill: what was read ahead before is thrown away."""
    for _ in range(3):
        next(stream)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    found = time.perf_counter() - wall, time.process_time() - cpu
    measure.until_idle()
    return found


def _ratio(found: dict, over: str) -> float:
    return measure.ratio(found, over, "ours")


def _median_ratio(over: list[float], under: list[float]) -> float:
    return float(np.median(np.divide(over, under)))


def _print(found: dict, unit: str = "a clip") -> None:
    parts = [f"{name} {measure.milliseconds(found, name):.1f}" for name in found]
    print(f"CPU ms {unit}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
