"""What features are computed of: files, or the records of a prepared split, sampled as evaluation samples them."""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.predict import read_clips
from data_pipelines import escaping, files
from data_pipelines.command_line import UsageError
from data_pipelines.stream import examples, records

# K temporal views, T frames of each, h, w height and width of a clip

UNKNOWN = -1  # label of a clip whose class is not known
SAMPLED_BYTES = 1 << 16  # of the content of a file: so many at its start and at its end
_STAT_THREADS = 32  # a bucket answers in tens of milliseconds


class Clip(NamedTuple):
    """One sampled clip.

    Attributes:
        path: what it was read from.
        frames: uint8 [K * T, h, w, 3], the temporal views one after another.
        start_s, end_s: the part of the clip that they are from, in seconds; both 0 for an image.
        label: index of its class; UNKNOWN.
        class_name: "" if it is not known.
    """

    path: str
    frames: np.ndarray
    start_s: float
    end_s: float
    label: int = UNKNOWN
    class_name: str = ""


class Source(Protocol):
    """A list of clips."""

    def __len__(self) -> int:
        """Number of clips."""

    def name(self, index: int) -> str:
        """What an error calls a clip."""

    def read(self, index: int) -> Clip:
        """A clip; raises any error of reading it."""

    @property
    def identity(self) -> str:
        """Equal for equal lists."""

    def contents(self) -> dict[str, str]:
        """Name -> a short text that differs if what is read differs; empty if that cannot be known."""


def find_view(
    trained: metadata.TrainedModel, wanted: str, storage: dict[str, Any]
) -> tuple[ConfigDict, read_clips.View]:
    """The dataset as which clips are read, and its view of a clip.

    Args:
        trained: the model.
        wanted: a head; a name that is no head, or "": what all heads have in common.
        storage: options of the preparation, in place of those that the model says.

    Raises:
        UsageError: heads see clips in different ways, and none is named.
    """
    names = [wanted] if wanted in trained.class_names else list(trained.class_names) or list(trained.config.datasets)
    views = {name: read_clips.view_of_dataset(trained.dataset(name), trained.storage(name) | storage) for name in names}
    if len(set(views.values())) > 1:
        raise UsageError(f"heads {', '.join(views)} see clips in different ways: name one of them by --head")
    return trained.dataset(names[0]), views[names[0]]


def _sample(
    path: str, stored: Sequence[bytes] | np.ndarray, fps: float, view: read_clips.View, label: int, name: str
) -> Clip:
    indices = view.indices(len(stored), fps)
    clip = read_clips.frames_at(stored, indices, view)
    if not fps or len(stored) == 1:
        return Clip(path, clip, 0.0, 0.0, label, name)
    return Clip(path, clip, float(indices.min() / fps), float((indices.max() + 1) / fps), label, name)


class Files:
    """Files, local or gs://."""

    def __init__(self, paths: Sequence[str], view: read_clips.View):
        self._paths, self._view = paths, view

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """The path as it was given, escaped (`data_pipelines.escaping`)."""
        return escaping.escape(self._paths[index])

    def read(self, index: int) -> Clip:
        """Reads a file as its dataset would store it."""
        with files.local(epath.Path(self._paths[index])) as local:
            media = read_clips.read_file(local, self._view.short_side_px, self._view.fps)
        return _sample(self.name(index), media.frames, media.fps, self._view, UNKNOWN, "")

    @property
    def identity(self) -> str:
        """Of the paths, not of the content."""
        return hashlib.sha256(os.fsencode("\0".join(self._paths))).hexdigest()

    def contents(self) -> dict[str, str]:
        """Of each file, see `describe_file`."""
        with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
            return dict(zip(self._paths, pool.map(describe_file, self._paths), strict=True))


def describe_file(path: str) -> str:
    """A short text that differs if a file was replaced; "" if it cannot be read.

    Of a local file: a hash of its size, its first and its last SAMPLED_BYTES, so that copies of it on several hosts are
    equal. Of one in a bucket: its size and the time at which it was written.
    """
    try:
        if files.is_remote(path):
            found = epath.Path(path).stat()
            return f"{found.length} {found.mtime}"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(SAMPLED_BYTES)
            file.seek(max(size - SAMPLED_BYTES, 0))
            return hashlib.sha256(b"%d " % size + start + file.read(SAMPLED_BYTES)).hexdigest()[:16]
    except Exception:  # of many types; the file is named when it is read
        return ""


class PreparedClips:
    """The records of a prepared split."""

    def __init__(self, trained: metadata.TrainedModel, name: str, split: str, data_dir: str, view: read_clips.View):
        """Opens it.

        Args:
            trained: the model.
            name: a dataset of its run, or BUILDER/NAME.
            split: for example "train".
            data_dir: folder of the prepared datasets; "": that of the run.
            view: how its clips are seen.

        Raises:
            DatasetNotPreparedError, ValueError, OSError: as in `records.open_split`.
        """
        of_run = name in trained.class_names
        builder = trained.dataset(name).builder if of_run else name
        self._feature = trained.dataset(name).frames_feature if of_run else "frames"
        self._split = records.open_split(builder, split, data_dir or trained.config.data_dir)
        self._view = view

    def __len__(self) -> int:
        return self._split.num_examples

    def name(self, index: int) -> str:
        """Its place in the split."""
        return f"{self._split.builder} {self._split.split}, record {index}"

    def read(self, index: int) -> Clip:
        """Reads a record."""
        stored = examples.read_stored(self._split, index, self._feature)
        names = self._split.class_names
        class_name = names[stored.label] if names and stored.label != UNKNOWN else ""
        path = stored.source or self.name(index)
        return _sample(path, stored.frames, stored.fps, self._view, stored.label, class_name)

    @property
    def identity(self) -> str:
        """Of the records."""
        return self._split.fingerprint

    def contents(self) -> dict[str, str]:
        """Of the checksums of all records in their order, where they are known."""
        known = self._split.content.in_order[:16]
        return {f"{self._split.builder} {self._split.split}": known} if known else {}
