"""The facts about each record that the doctor and the leak search use, measured once and stored beside the shards.

`<dataset>/facts/<shard>.npz` has, for each record of a shard: its offset, label, size, frames, rate and origin, the
reason if it cannot be read, and the perceptual hashes of a few frames per second. Shards are measured one after
another, and the records of a shard in parallel. An interrupted measurement continues with the first shard that has no
file. Stored facts are read in parallel.

# T stored frames, M side of a grey frame, S side of a thumbnail, R regions, N hashed frames.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
from absl import logging
from etils import epath

from data_pipelines import files
from data_pipelines.leaks import perceptual, regions
from data_pipelines.leaks.progress import Tell, tell_nobody, track
from data_pipelines.media import frames_of_video, media_file
from data_pipelines.sources import label_features
from data_pipelines.stream import records
from data_pipelines.stream.host_tf import plain, tf

FOLDER = "facts"
VERSION = 2  # of the format of the facts; files of another version are measured again. 1: one region, and its bars
HASHES_PER_S = 4
MAX_HASHED = 64  # frames per clip
DECODED_PX = 64  # shorter side of a decoded frame, or more
MIN_SIDE_PX = 32  # smaller frames all look alike, so they are not compared by content
QUICK_BYTES = 256 << 20  # total size of shards that are measured immediately, even if `measure` is False
BATCH = 64
READERS = 32  # threads that read facts; they wait for storage, not for the CPU
# A wrong checksum; an undecodable frame; any other error in Python that a video file causes.
DAMAGE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.UnknownError)

# Name -> type. Texts are UTF-8; "S" is as long as the longest text.
COLUMNS: dict[str, type | str] = {
    "offset": np.int64, "bytes": np.int64, "label": np.int32, "num_frames": np.int32, "num_source_frames": np.int64,
    "fps": np.float32, "height_px": np.int32, "width_px": np.int32, "source": "S", "source_sha256": "S",
    "source_id": "S", "source_start_s": np.float32, "source_end_s": np.float32, "reason": "S", "num_hashes": np.int32,
}  # fmt: skip
_STORED = {  # features that are stored as facts without change -> the default for a record without the feature
    "label": tf.io.FixedLenFeature((), tf.int64, -1),
    "fps": tf.io.FixedLenFeature((), tf.float32, 0.0),
    "num_source_frames": tf.io.FixedLenFeature((), tf.int64, 0),
    "source": tf.io.FixedLenFeature((), tf.string, ""),
    "source_sha256": tf.io.FixedLenFeature((), tf.string, ""),
    "source_id": tf.io.FixedLenFeature((), tf.string, ""),
    "source_start_s": tf.io.FixedLenFeature((), tf.float32, 0.0),
    "source_end_s": tf.io.FixedLenFeature((), tf.float32, 0.0),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """Facts of a split's records, in the order of the split.

    Attributes:
        columns: name (see COLUMNS) -> array [N].
        labels: int32 [L], all labels of all records, record after record; the label of those that have one.
        labelled: int64 [L], the index of their record.
        hashes: uint64 [N, R], hashes of the regions of some frames of all records.
        clips: int64 [N], the index of their record.
    """

    columns: dict[str, np.ndarray]
    hashes: np.ndarray
    clips: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def hashes_of(self, region: int) -> perceptual.Hashes:
        """The hashes of one of `regions.INSETS`, without flat frames."""
        known = self.hashes[:, region] != perceptual.NO_HASH
        return perceptual.Hashes(self.hashes[known, region], self.clips[known])

    def text(self, name: str, i: int) -> str:
        """A text of one record."""
        return self.columns[name][i].decode()


@overload
def load_facts(
    split: records.Split, frames_feature: str = "frames", measure: Literal[True] = True, tell: Tell = tell_nobody
) -> Facts: ...
@overload
def load_facts(split: records.Split, frames_feature: str, measure: bool, tell: Tell = tell_nobody) -> Facts | None: ...
def load_facts(
    split: records.Split, frames_feature: str = "frames", measure: bool = True, tell: Tell = tell_nobody
) -> Facts | None:
    """The facts of a split. Shards that are not measured yet are measured, and the result is stored.

    Args:
        split: the split.
        frames_feature: the feature that holds its JPEG bytes.
        measure: whether to measure however long it takes. If False, it measures only what takes seconds; otherwise it
            returns None.
        tell: called with a line of progress now and then.
    """
    frames_feature = records.media_feature(split, frames_feature)
    name = f"{split.builder} {split.split}"
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        loaded = track(pool.map(_load, split.paths), f"reading facts of {name}", len(split.paths), "shard", tell)
        parts = list(loaded)
        missing = [i for i, part in enumerate(parts) if part is None]
        if not measure and sum(pool.map(_size, (split.paths[i] for i in missing))) > QUICK_BYTES:
            return None
    for i in track(missing, f"looking at {name}", len(missing), "shard", tell):
        parts[i] = measured = _measure_shard(split.paths[i], frames_feature, split.several_labels)
        _save(split.paths[i], measured)
    return _of_records(split, [part for part in parts if part is not None])


def pictures_feature(features: Sequence[str]) -> str | None:
    """The feature that holds a record's pictures, found by its usual names; None if there is no such feature."""
    return next((name for name in ("frames", "image", records.VIDEO_FEATURE) if name in features), None)


def read_frames(split: records.Split, index: int, frames_feature: str = "frames") -> tuple[np.ndarray, float]:
    """All frames of one record in grey, uint8 [T, M, M], and their rate.

    Raises:
        One of DAMAGE: it cannot be read.
    """
    frames_at = _frames_function(records.media_feature(split, frames_feature))
    frames, fps = frames_at(split.paths[split.shards[index]], split.offsets[index])
    return frames.numpy(), float(fps) or 1.0


def some_frames(split: records.Split, index: int, frames_feature: str, count: int) -> tuple[list[bytes], str]:
    """Some frames of a record, and the path of its source ("" if it is not known).

    The frames are JPEGs: the record is divided into `count` equal parts, and the middle frame of each is taken. A
    record with fewer frames gives all of them.

    Raises:
        One of DAMAGE: it cannot be read.
    """
    record = _read(split.paths[split.shards[index]], split.offsets[index])
    jpegs, source = _some_function(records.media_feature(split, frames_feature), count)(record)
    return list(jpegs.numpy()), source.numpy().decode()


def keep(path: epath.Path, data: bytes) -> None:
    """Writes a file of results beside the shards. If that cannot be done, each start computes them again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, data)
    except (OSError, tf.errors.OpError) as error:  # no permission, no space, read-only
        logging.warning("%s cannot be stored, so each start computes it again: %s", path, error)


def read_kept(path: epath.Path) -> bytes | None:
    """The bytes that `keep` has written; None if there is no such file, or one that is far too large."""
    try:
        return files.read_small(path)
    except (FileNotFoundError, tf.errors.NotFoundError, files.DamagedFileError):
        return None


def _facts_path(shard: str) -> epath.Path:
    path = epath.Path(shard)
    return path.parent / FOLDER / f"{path.name}.npz"


def _measure_shard(path: str, media_feature: str, several_labels: bool) -> dict[str, np.ndarray]:
    """Facts of all records of a shard, and their hashes under the key `hashes`."""
    offsets = records.scan(epath.Path(path)).offsets
    look = _look_function(media_feature, several_labels)
    try:
        rows = list(_rows(path, look, len(offsets) - 1))
    except DAMAGE:  # read one by one to find out which record is damaged, and why
        rows = [_row_or_reason(path, offset, look) for offset in offsets[:-1]]
    for row, offset, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
        row |= {"offset": offset, "bytes": end - offset, "hashes": _hashes(row.pop("frames"))}
        row["num_hashes"] = len(row["hashes"])
    several = [row.pop("labels") for row in rows]
    columns = {name: np.array([row[name] for row in rows], dtype) for name, dtype in COLUMNS.items()}
    columns |= {"num_labels": np.array([len(labels) for labels in several]), "labels": np.concatenate(several)}
    return columns | {"hashes": np.concatenate([row["hashes"] for row in rows])}


def _hashes(frames_TMM: np.ndarray) -> np.ndarray:
    """The hashes of all regions of the frames that are not flat: uint64 [at most T, R]."""
    if not len(frames_TMM):
        return np.zeros((0, len(regions.INSETS)), np.uint64)
    box = regions.content_box(frames_TMM)
    hashes = [perceptual.frame_hashes(regions.thumbs(frames_TMM, box, inset)) for inset in regions.INSETS]
    hashes_TR = np.stack(hashes, axis=1)
    return hashes_TR[(hashes_TR != perceptual.NO_HASH).any(axis=1)]


def _rows(path: str, look: Callable, num_records: int) -> Iterator[dict]:
    """Facts of a shard's records in order; the records are read in parallel."""
    looked_at = tf.data.TFRecordDataset(path).map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    for batch in looked_at.padded_batch(min(BATCH, num_records)).prefetch(2).as_numpy_iterator():
        frames, sizes = batch.pop("frames"), batch.pop("num_hashed")
        labels, counts = batch.pop("labels"), batch.pop("num_labels")
        for i, size in enumerate(sizes):
            ragged = {"frames": frames[i, :size], "labels": labels[i, : counts[i]]}
            yield {name: column[i] for name, column in batch.items()} | ragged | {"reason": b""}


def _row_or_reason(path: str, offset: int, look: Callable) -> dict:
    """Facts of one record, or the reason why it cannot be read."""
    try:
        found = {name: value.numpy() for name, value in look(_read(path, offset)).items()}
    except DAMAGE as error:
        nothing = {name: np.zeros((), dtype)[()] for name, dtype in COLUMNS.items()}
        frames = np.zeros((0, regions.FRAME_PX, regions.FRAME_PX), np.uint8)
        labels = np.zeros(0, np.int64)
        return nothing | {"label": -1, "labels": labels, "frames": frames, "reason": _reason(error).encode()}
    del found["num_hashed"], found["num_labels"]
    return found | {"reason": b""}


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64)], autograph=False)
def _read(path, offset):
    """The record at an offset."""
    return records.read_from(path, offset).take(1).get_single_element()


@functools.cache
def _frames_function(media_feature: str) -> Callable:
    """(shard, offset) -> all frames of a record in grey, and their rate. Traced only once."""

    @functools.partial(tf.function, input_signature=_read.input_signature, autograph=False)
    def frames_at(path, offset):
        parsed = _parse(_read(path, offset), media_feature)
        return _grey_frames(parsed["jpegs"]), parsed["fps"]

    return frames_at


@functools.cache
def _some_function(media_feature: str, count: int) -> Callable:
    """A record -> the JPEGs in the middle of each of `count` equal parts, and its source. Traced only once."""

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def some(record):
        parsed = _parse(record, media_feature)
        num_frames = tf.size(parsed["jpegs"])
        return tf.gather(parsed["jpegs"], _middles(num_frames, tf.minimum(count, num_frames))), parsed["source"]

    return some


def _middles(size, parts):
    """The index in the middle of each of `parts` equal parts, int32 [parts]."""
    return (2 * tf.range(parts) + 1) * size // (2 * tf.maximum(parts, 1))


def _reason(error: tf.errors.OpError) -> str:
    """The first line of an error, without the names of the graph's nodes."""
    return f"{type(error).__name__}: {error.message.splitlines()[0].rpartition('}} ')[2].strip()[:200]}"


def _parse(record, media_feature: str, several_labels: bool = False) -> dict:
    """The facts that a record states, and its frames as `jpegs`. The frames of a video file are decoded for this."""
    pictures = {media_feature: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)}
    labels = {label_features.SEVERAL: tf.io.FixedLenSequenceFeature((), tf.int64, allow_missing=True)}
    parsed = tf.io.parse_single_example(record, _STORED | pictures | (labels if several_labels else {}))
    stored = parsed.pop(media_feature)
    if media_feature == records.VIDEO_FEATURE:
        stored = tf.ensure_shape(tf.numpy_function(_jpegs_of_file, [stored[0]], tf.string, stateful=False), (None,))
    return parsed | {"jpegs": stored}


def _jpegs_of_file(data: bytes) -> np.ndarray:
    return np.array([media_file.encode_jpeg(frame) for frame in frames_of_video.all_frames(data)], object)


@functools.cache
def _look_function(media_feature: str, several_labels: bool) -> Callable:
    """`_look`, traced once for all shards."""
    look = plain(lambda record: _look(record, media_feature, several_labels))
    return tf.function(look, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _look(record, media_feature: str, several_labels: bool) -> dict:
    """One record -> its facts and some of its frames in grey, as tensors."""
    parsed = {label_features.SEVERAL: tf.zeros(0, tf.int64), **_parse(record, media_feature, several_labels)}
    jpegs = parsed.pop("jpegs")
    size_px = tf.io.extract_jpeg_shape(jpegs[0])[:2]
    chosen = tf.where(tf.reduce_min(size_px) < MIN_SIDE_PX, 0, _num_hashed(tf.size(jpegs), parsed["fps"]))
    at = _middles(tf.size(jpegs), chosen)
    facts = {
        "num_labels": tf.size(parsed[label_features.SEVERAL]),
        "num_frames": tf.size(jpegs),
        "height_px": size_px[0],
        "width_px": size_px[1],
        "num_hashed": chosen,
    }
    return parsed | facts | {"frames": _grey_frames(tf.gather(jpegs, at))}


def _num_hashed(num_frames, fps):
    """How many frames of a clip are hashed: HASHES_PER_S per second, at least one; all if the rate is not known."""
    fps = tf.where(fps > 0, fps, HASHES_PER_S)
    by_time = tf.cast(tf.math.ceil(tf.cast(num_frames, tf.float32) * HASHES_PER_S / fps), tf.int32)
    return tf.minimum(tf.minimum(by_time, num_frames), MAX_HASHED)


def _grey_frames(jpegs):
    side_px = regions.FRAME_PX
    return tf.map_fn(plain(_grey_frame), jpegs, fn_output_signature=tf.TensorSpec((side_px, side_px), tf.uint8))


def _grey_frame(jpeg):
    """A frame as grey [M, M]. Decoding a JPEG at a fraction of its size takes a fraction of the time."""
    height_px, width_px = tf.unstack(tf.io.extract_jpeg_shape(jpeg)[:2])
    side_px = tf.minimum(height_px, width_px)
    decode = [plain(lambda r=r: tf.io.decode_jpeg(jpeg, channels=1, ratio=r)) for r in (8, 4, 2, 1)]
    enough = [(side_px >= r * DECODED_PX, branch) for r, branch in zip((8, 4, 2), decode, strict=False)]
    grey = tf.case(enough, default=decode[-1])
    size_px = (regions.FRAME_PX, regions.FRAME_PX)
    return tf.cast(tf.round(tf.image.resize(grey, size_px, method="area"))[..., 0], tf.uint8)


def _size(shard: str) -> int:
    return epath.Path(shard).stat().length


def _save(shard: str, columns: dict[str, np.ndarray]) -> None:
    about: dict[str, Any] = {"version": VERSION, "shard_bytes": _size(shard)}
    keep(_facts_path(shard), files.sealed_arrays(about | columns))


def _load(shard: str) -> dict[str, np.ndarray] | None:
    """The facts of a shard; None if there is no sound file of this version for this shard."""
    data = read_kept(_facts_path(shard))
    if data is None:
        return None
    try:
        columns = files.parse_arrays(data)
    except ValueError:
        return None
    if {*COLUMNS, "hashes", "version", "shard_bytes"} - columns.keys():
        return None
    return columns if columns["version"] == VERSION and columns["shard_bytes"] == _size(shard) else None


def _of_records(split: records.Split, parts: list[dict[str, np.ndarray]]) -> Facts:
    """Selects the split's records from the facts of whole shards."""
    columns, values, clips, labels, labelled = [], [], [], [], []
    for shard, part in enumerate(parts):
        members = np.flatnonzero(split.shards == shard)
        rows = np.searchsorted(part["offset"], split.offsets[members])
        columns.append({name: part[name][rows] for name in COLUMNS})
        index_of_row = np.full(len(part["offset"]), -1)
        index_of_row[rows] = members
        owner = np.repeat(index_of_row, part["num_hashes"])
        values.append(part["hashes"][owner >= 0])
        clips.append(owner[owner >= 0])
        # Shards that an earlier version measured have only records of one label.
        owner = np.repeat(index_of_row, part.get("num_labels", np.zeros(len(index_of_row), int)))
        labels.append(part.get("labels", np.zeros(0, int))[owner >= 0])
        labelled.append(owner[owner >= 0])
    order = np.argsort(np.concatenate([np.flatnonzero(split.shards == s) for s in range(len(parts))]), kind="stable")
    in_order = {name: np.concatenate([c[name] for c in columns])[order] for name in COLUMNS}
    if split.several_labels:
        of_records = np.concatenate(labels), np.concatenate(labelled)
    else:
        of_records = in_order["label"], np.arange(len(order))
    return Facts(in_order, np.concatenate(values), np.concatenate(clips), *of_records)
