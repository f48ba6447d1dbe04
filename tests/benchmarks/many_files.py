"""What many small files cost: their listing, and a preparation that is killed at 90 % and started again.

    python -m tests.benchmarks.many_files list --count=1000000 --folder=DIR
    python -m tests.benchmarks.many_files prepare --modality=video --count=200000 --folder=DIR

One file per class is encoded. The others are copies of it with a number in a part that decoders skip, so that no two
files are equal. `list` needs no content: its files are hard links. Linux only: figures of processes come from /proc.
"""

import argparse
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import av
import numpy as np
from PIL import Image

SIDE_PX, FRAMES, FPS = 64, 5, 5
CLASS_FILES = 1000  # per class
VALIDATION_SHARE = 0.1
KILLED_AT = 0.9  # of the chunks
WORKERS = 2
LOOKS_EVERY_S = 0.2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CHUNK_FILES = {"video": 32, "image": 1024}


def clip(seed: int) -> bytes:
    """An mp4 file of 1 s."""
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", FPS, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt = SIDE_PX, SIDE_PX, "yuv420p"
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(rng), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def numbered_clip(data: bytes, number: int) -> bytes:
    """The clip with a box of free space behind it, which holds the number."""
    return data + struct.pack(">I4sQ", 16, b"free", number)


def image(seed: int) -> bytes:
    """A JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(_picture(np.random.default_rng(seed))).save(buffer, "JPEG")
    return buffer.getvalue()


def numbered_image(data: bytes, number: int) -> bytes:
    """The JPEG with the number as a comment, behind its first marker."""
    return data[:2] + struct.pack(">HHQ", 0xFFFE, 10, number) + data[2:]


def _picture(rng: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return np.asarray(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


MEDIA = {"video": (clip, numbered_clip, "mp4"), "image": (image, numbered_image, "jpg")}


def make(folder: pathlib.Path, count: int, modality: str, linked: bool) -> pathlib.Path:
    """The source folder of `count` files; one that is complete is kept."""
    encode, with_number, ending = MEDIA[modality]
    source = folder / f"{modality}_{count}{'_linked' if linked else ''}"
    complete = source.with_suffix(".complete")
    if complete.exists():
        return source
    for number in range(count):
        of_class = source / f"class_{number // CLASS_FILES:04d}"
        if number % CLASS_FILES == 0:
            of_class.mkdir(parents=True, exist_ok=True)
            data = encode(number)
            first = of_class / f"{number:07d}.{ending}"
            first.unlink(missing_ok=True)
            first.write_bytes(with_number(data, number))
        elif linked:
            os.link(first, of_class / f"{number:07d}.{ending}")
        else:
            (of_class / f"{number:07d}.{ending}").write_bytes(with_number(data, number))
    complete.touch()
    return source


@dataclasses.dataclass
class Usage:
    """What a command has used so far: seconds, CPU seconds and the most memory, of its main process and its workers."""

    wall_s: float = 0.0
    main_cpu_s: float = 0.0
    workers_cpu_s: float = 0.0
    main_bytes: int = 0
    worker_bytes: int = 0

    def __str__(self):
        return (
            f"{self.wall_s:.0f} s | {self.main_cpu_s:.0f} s, workers {self.workers_cpu_s:.0f} s | "
            f"{self.main_bytes / 1e9:.2f} GB, each worker {self.worker_bytes / 1e9:.2f} GB"
        )


def _figures_of(pid: int) -> tuple[float, int]:
    """CPU seconds and most memory in bytes of a process that runs."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0")
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S, int(peak) * 1024


def _children(pid: int) -> list[int]:
    return [int(child) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text().split()]  # fmt: skip


class Watched:
    """A command that runs, and what it and each of its workers used."""

    def __init__(self, command: list[str]):
        self._start = time.monotonic()
        self.process = subprocess.Popen(command)
        self._of_worker: dict[int, tuple[float, int]] = {}
        self.usage = Usage()

    def look(self) -> Usage:
        """Updates the figures."""
        try:
            self.usage.main_cpu_s, self.usage.main_bytes = _figures_of(self.process.pid)
            for worker in _children(self.process.pid):
                self._of_worker[worker] = _figures_of(worker)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
        self.usage.wall_s = time.monotonic() - self._start
        self.usage.workers_cpu_s = sum(cpu_s for cpu_s, _ in self._of_worker.values())
        self.usage.worker_bytes = max((peak for _, peak in self._of_worker.values()), default=0)
        return self.usage


def _chunks(work: pathlib.Path) -> dict[str, int]:
    """Name -> time of its last change, of each stored chunk."""
    try:
        with os.scandir(work) as entries:
            return {entry.name: entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(".chunk")}
    except FileNotFoundError:
        return {}


def prepare(folder: pathlib.Path, count: int, modality: str) -> None:
    """Prepares, kills at KILLED_AT of the chunks, prepares again, and prints a row of both."""
    source, data_dir = make(folder, count, modality, linked=False), folder / f"prepared_{modality}_{count}"
    shutil.rmtree(data_dir, ignore_errors=True)
    command = [sys.executable, "-m", "data_pipelines.prepare", f"{modality}_folder", "--name=many",
               f"--source={source}", f"--validation_share={VALIDATION_SHARE}", f"--workers={WORKERS}",
               f"--data_dir={data_dir}"]  # fmt: skip
    work = data_dir / f"{modality}_folder" / "many" / "work.1.0.0"
    parts = [round(count * share) for share in (1 - VALIDATION_SHARE, VALIDATION_SHARE)]
    total = sum(-(-part // CHUNK_FILES[modality]) for part in parts)
    first = Watched(command)
    while len(_chunks(work)) < KILLED_AT * total:
        if first.process.poll() is not None:
            raise SystemExit(f"it ended with {first.process.returncode} before it was killed")
        first.look()
        time.sleep(LOOKS_EVERY_S)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    time.sleep(1)  # its workers end with it
    kept = _chunks(work)
    print(
        f"| preparing {count:,} {modality}s until a `kill -9` at {len(kept) / total:.1%} | {first.usage} |", flush=True
    )
    again = Watched(command)
    read_again: set[str] = set()
    while again.process.poll() is None:
        now = _chunks(work)
        read_again |= {name for name, changed in kept.items() if now and now.get(name, changed) != changed}
        again.look()
        time.sleep(LOOKS_EVERY_S)
    print(f"| the same command again, to its end | {again.usage} |")
    print(f"chunks: {total} in all, {len(kept)} at the kill, {len(read_again)} of these read again; "
          f"exit code {again.process.returncode}")  # fmt: skip
    info = json.loads((data_dir / f"{modality}_folder" / "many" / "1.0.0" / "dataset_info.json").read_text())
    print("; ".join(f"{split['name']} {sum(map(int, split['shardLengths']))}" for split in info["splits"]))


def list_files(folder: pathlib.Path, count: int) -> None:
    """Lists, and prints a row."""
    source = make(folder, count, "image", linked=True)
    from data_pipelines.prepare import listing

    before_s, start = time.process_time(), time.monotonic()
    found = listing.find(str(source), listing.Layout(validation_share=VALIDATION_SHARE))
    wall_s, cpu_s = time.monotonic() - start, time.process_time() - before_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    num_files = sum(map(len, found.splits.values()))
    print(f"| listing {num_files:,} files in {len(found.class_names):,} classes | {wall_s:.0f} s | {cpu_s:.0f} s | "
          f"{peak / 1e9:.2f} GB |")  # fmt: skip


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "prepare"))
    parser.add_argument("--count", type=int, required=True, help="number of files")
    parser.add_argument("--modality", choices=tuple(MEDIA), default="video")
    parser.add_argument(
        "--folder", type=pathlib.Path, required=True, help="for the files, which are kept, and the data"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "list":
        list_files(args.folder, args.count)
    else:
        prepare(args.folder, args.count, args.modality)


if __name__ == "__main__":
    main()
