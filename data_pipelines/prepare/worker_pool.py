"""Reads source files in chunks, in parallel, and stores the results, so that an interrupted preparation can continue.

A chunk is a group of files of a split. The result of each file, or the reason why it could not be read, is stored in
one file per chunk in the dataset's work folder. The name of that file is a hash of everything that determines the
result. A stored chunk is not read again, except for its refused files: somebody may have repaired them. The work folder
is deleted when the dataset is prepared.

No TensorFlow here: worker processes import this and little else.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from etils import epath

from data_pipelines import files, processes
from data_pipelines.media.media_file import Media
from data_pipelines.prepare.listing import Item

AHEAD = 4  # chunks per worker that are read in advance
HEADER = struct.Struct("<Q")  # number of bytes of the JSON that follows

_One = TypeVar("_One")
Outcome = Media | str  # the media to store, or the reason why a file was refused


@dataclasses.dataclass(frozen=True)
class Reader:
    """How files are read.

    Attributes:
        read: (path, **options) -> Media.
        options: its arguments.
        source: the folder of the files, local or a URL.
        work_dir: the folder in which results are stored.
    """

    read: Callable[..., Media]
    options: dict
    source: str
    work_dir: str

    def outcomes(self, items: list[Item]) -> list[Outcome]:
        """Reads a chunk, except for files that an earlier run has read."""
        path = self._kept(items)
        earlier = _load(path) or [""] * len(items)
        outcomes = [
            found if isinstance(found, Media) else self.read_one(item)
            for item, found in zip(items, earlier, strict=True)
        ]
        if outcomes != earlier:
            files.write_whole(path, _pack(outcomes))
        return outcomes

    def complete(self, items: list[Item]) -> None:
        """Makes sure that the results of a chunk are stored."""
        if not _is_complete(self._kept(items)):
            self.outcomes(items)

    def kept(self, items: list[Item]) -> list[Outcome]:
        """The results of a chunk that is complete."""
        return _load(self._kept(items)) or self.outcomes(items)  # a damaged file is read again

    def read_one(self, item: Item) -> Outcome:
        """Reads one file: its media, or the reason why it is refused. Does not store the result.

        The reason is stored beside the data, so it has no folder of this machine in it.
        """
        source = epath.Path(self.source) / (item.archive or item.path)
        paths = {os.fspath(source): item.archive or item.path}
        try:
            with files.local(source, item.path, item.span, item.column) as path:
                paths[path] = item.path
                part = {} if item.cut is None else {"cut": item.cut}
                return self.read(path, **self.options, **part)
        except Exception as error:  # decoders raise many types; the error becomes the file's reason
            reason = f"{type(error).__name__}: {error}"
            return functools.reduce(lambda text, path: text.replace(path, paths[path]), paths, reason)

    def _kept(self, items: list[Item]) -> epath.Path:
        decides = [self.read.__name__, self.options, self.source, to_json(items)]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return epath.Path(self.work_dir) / f"{digest[:32]}.chunk"


def cut(items: Iterable[_One], size: int) -> Iterator[list[_One]]:
    """Divides files into chunks of `size`; the last chunk may be shorter."""
    rest = iter(items)
    return iter(lambda: list(itertools.islice(rest, size)), [])


def to_json(items: list[Item]) -> str:
    """A chunk as one line of text."""
    return json.dumps([dataclasses.astuple(item) for item in items])


def from_json(line: str) -> list[Item]:
    """The chunk that `to_json` wrote."""
    rows = json.loads(line)
    return [Item(*_with_tuples(row)) for row in rows]


def _with_tuples(row: list[Any]) -> list[Any]:
    """Converts lists from JSON back to tuples."""
    return [tuple(value) if isinstance(value, list) else value for value in row]


def read_all(reader: Reader, chunks: Iterable[list[Item]], workers: int) -> Iterator[list[tuple[Item, Outcome]]]:
    """Each chunk's files with their outcomes, in order; `workers` processes read in advance.

    Raises:
        RuntimeError: a worker process died.
    """
    to_read, to_load = itertools.tee(chunks)
    for items, _ in zip(to_load, _parallel_map(reader.complete, to_read, workers), strict=True):
        yield list(zip(items, reader.kept(items), strict=True))


@contextlib.contextmanager
def work_folder(path: epath.Path) -> Iterator[None]:
    """Locks a dataset's work folder for this process.

    Raises:
        RuntimeError: another process on this machine has locked it.
    """
    path.mkdir(parents=True, exist_ok=True)
    if files.is_remote(path):  # buckets have no locks; the process that finishes first wins
        yield
        return
    with open(path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another process is preparing this dataset: it holds {path / 'lock'}") from error
        yield


def _parallel_map(function: Callable, jobs: Iterable, workers: int) -> Iterator:
    """Parallel `map` over processes, in order, with a limited number of waiting results."""
    upcoming = iter(jobs)
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    with processes.pool(workers) as pool:
        while True:
            room = AHEAD * workers - len(waiting)
            waiting.extend(pool.submit(function, job) for job in itertools.islice(upcoming, room))
            if not waiting:
                return
            try:
                result = waiting.popleft().result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise RuntimeError(
                    "a process that decodes died: memory ran out, or a decoder crashed on a file. Run the same command "
                    "again: it continues where it stopped; with --workers=1 the last file that is opened is the cause"
                ) from error
            yield result


def _pack(outcomes: list[Outcome]) -> bytes:
    """Serialises outcomes: JSON of everything except the frames, with a checksum over all; then the frames."""
    described: list[dict[str, Any] | str] = []
    frames: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, Media):
            frames.extend(outcome.frames)
            described.append({**vars(outcome), "frames": [len(frame) for frame in outcome.frames]})
        else:
            described.append(outcome)
    header = json.dumps({"outcomes": described, "sha256": _sha256(described, b"".join(frames))}).encode()
    return b"".join([HEADER.pack(len(header)), header, *frames])


def _sha256(described: list, frames: bytes) -> str:
    return hashlib.sha256(json.dumps(described).encode() + frames).hexdigest()


def _describe(path: epath.Path) -> tuple[list, int, str] | None:
    """(the JSON of the outcomes, the first byte of the frames, the checksum) of a file.

    None if the file is missing or incomplete. The checksum of a file of an earlier version is "".
    """
    if not path.exists():
        return None
    size = path.stat().length
    with path.open("rb") as file:
        header_bytes = HEADER.unpack(file.read(HEADER.size))[0] if size >= HEADER.size else size
        start = HEADER.size + header_bytes
        if header_bytes > files.MAX_SMALL_BYTES or start > size:  # cut off, for example by a power failure
            return None
        described = files.parse_json(file.read(header_bytes))
    checksum = ""
    if not files.mismatch(described, {"outcomes": list, "sha256": str}):
        described, checksum = described["outcomes"], described["sha256"]
    if files.mismatch(described, list) or any(map(_is_no_outcome, described)):
        return None
    frames = sum(sum(entry["frames"]) for entry in described if isinstance(entry, dict))
    return (described, start, checksum) if start + frames == size else None


def _is_no_outcome(entry: Any) -> bool:
    if isinstance(entry, str):
        return False
    if files.mismatch(entry, {"frames": [int]}) or min(entry["frames"], default=0) < 0:
        return True
    return entry.keys() != {field.name for field in dataclasses.fields(Media)}


def _load(path: epath.Path) -> list[Outcome] | None:
    """The outcomes in a file; None if the file is missing, incomplete or damaged."""
    found = _describe(path)
    if found is None:
        return None
    described, start, checksum = found
    data, outcomes = path.read_bytes(), []
    if checksum and checksum != _sha256(described, data[start:]):
        return None
    for entry in described:
        if isinstance(entry, dict):
            ends = list(itertools.accumulate(entry["frames"], initial=start))
            entry = Media(**{**entry, "frames": tuple(data[i:j] for i, j in itertools.pairwise(ends))})
            start = ends[-1]
        outcomes.append(entry)
    return outcomes


def _is_complete(path: epath.Path) -> bool:
    """Whether a chunk's file exists and is complete, and none of the chunk's files were refused."""
    found = _describe(path)
    return found is not None and all(isinstance(entry, dict) for entry in found[0])
