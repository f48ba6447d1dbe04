"""One split of a prepared dataset, opened for random access: the offset of each record, and a read that checks it.

Each TFRecord shard has an offset index beside it, `<shard>.index.npy`: int64 [n + 1], the first byte of each record
and the size of the file. The CRC-32 of the array follows it. The index is made when the dataset is prepared, and again
when it is missing, damaged, or of another size.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import struct
import uuid
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import catalog
from data_pipelines.stream.host_tf import tf

# TFRecord framing: length (8 bytes), its checksum (4), data, the data's checksum (4).
HEADER_BYTES, FOOTER_BYTES = 12, 4
VIDEO_FEATURE = "video"  # holds a whole video file
INDEX_SUFFIX = ".index.npy"
READ_BUFFER_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset.

    Attributes:
        builder: "name" or "name/config".
        split: its name, or a TFDS expression such as "train[:10%]".
        paths: its shards.
        shards: int32 [N], for each record the position of its shard in `paths`.
        offsets: int64 [N], for each record its first byte in its shard.
        class_names: in the order of the labels; () if the dataset has no class names.
        features: names of the features that a record has.
        modality: "video" or "image".
        fingerprint: sha256 of features, class names, and names, sizes and record offsets of the shards, and of the
            excluded records.
        num_excluded: number of excluded records.
    """

    builder: str
    split: str
    paths: tuple[str, ...]
    shards: np.ndarray
    offsets: np.ndarray
    class_names: tuple[str, ...]
    features: tuple[str, ...]
    modality: str
    fingerprint: str
    num_excluded: int = 0

    @property
    def num_examples(self) -> int:
        """N, the number of records in the split."""
        return len(self.offsets)


def open_split(builder: str, split: str, data_dir: str) -> Split:
    """Opens a split and checks that all of its shards exist and are complete.

    Args:
        builder: "name" or "name/config".
        split: a split, or a TFDS expression such as "train[:10%]".
        data_dir: the folder of prepared datasets; "": TFDS's default.

    Raises:
        DatasetNotPreparedError: it is not prepared; the message has the command that prepares it.
        ValueError: no such split, no examples in it, or a format other than TFRecord.
        FileNotFoundError: a shard is missing.
        IOError: a shard is shorter than it was, or its framing is broken.
    """
    info = tfds.builder_from_directory(catalog.dataset_dir(builder, data_dir)).info
    pieces = _pieces(builder, split, info)
    paths = tuple(piece.filename for piece in pieces)
    indices = _load_indices(paths, [piece.examples_in_shard for piece in pieces])
    offsets = [index[:-1][piece.skip : piece.skip + piece.take] for index, piece in zip(indices, pieces, strict=True)]
    class_names = _class_names(info)
    return Split(
        builder=builder,
        split=split,
        paths=paths,
        shards=np.repeat(np.arange(len(paths), dtype=np.int32), [len(part) for part in offsets]),
        offsets=np.concatenate(offsets),
        class_names=class_names,
        features=tuple(info.features),
        modality=_modality(info),
        fingerprint=_fingerprint(info, class_names, pieces, indices),
    )


def media_feature(split: Split, frames_feature: str) -> str:
    """The feature that holds a record's pictures: `frames_feature`, or VIDEO_FEATURE in a dataset of video files."""
    holds_files = frames_feature not in split.features and VIDEO_FEATURE in split.features
    return VIDEO_FEATURE if holds_files else frames_feature


def exclude(split: Split, indices: Sequence[int] | np.ndarray) -> Split:
    """The split without the records at `indices`, with a fingerprint of its own; the same split if `indices` is empty.

    Raises:
        ValueError: `indices` are all records of the split.
    """
    excluded = np.unique(np.asarray(indices, np.int64))
    if not len(excluded):
        return split
    if len(excluded) == split.num_examples:
        raise ValueError(f"all {len(excluded)} examples of {split.builder!r} {split.split!r} would be left out")
    digest = hashlib.sha256(split.fingerprint.encode() + excluded.astype("<i8").tobytes())
    return dataclasses.replace(
        split,
        shards=np.delete(split.shards, excluded),
        offsets=np.delete(split.offsets, excluded),
        fingerprint=digest.hexdigest(),
        num_excluded=split.num_excluded + len(excluded),
    )


def locator(split: Split) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A TF function: index of an example (int64 scalar) -> (path of its shard, its byte offset there)."""
    # Tensors that are made here are passed to tf.data once. NumPy arrays would be copied into each of its graphs.
    paths, shards, offsets = tf.constant(split.paths), tf.constant(split.shards), tf.constant(split.offsets)
    return lambda index: (paths[shards[index]], offsets[index])


def read_from(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """The records of a shard, starting at a byte offset (scalar tensors): a dataset of strings.

    TensorFlow verifies both checksums of each record in C++. Its iterator raises
      tf.errors.DataLossError: a checksum is wrong;
      tf.errors.NotFoundError: the shard is missing.
    """
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=READ_BUFFER_BYTES, byte_offsets=offset[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string))


def write_indices(folder: epath.Path) -> None:
    """Writes the offset index of each TFRecord shard in a dataset's folder."""
    for path in sorted(folder.glob("*.tfrecord*")):
        if not path.name.endswith(INDEX_SUFFIX):
            _save_index(path, scan(path))


def scan(path: epath.Path) -> np.ndarray:
    """The offset index of a shard, from its framing: int64 [n + 1].

    Raises:
        IOError: the framing is broken or the last record is incomplete.
    """
    offsets, end, size = [], 0, path.stat().length
    with path.open("rb") as file:
        while end < size:
            offsets.append(end)
            file.seek(end)
            end += HEADER_BYTES + _record_bytes(file.read(HEADER_BYTES), path, end) + FOOTER_BYTES
    if end != size:
        raise OSError(f"shard {path} is cut off: its last record ends at byte {end}, the file at {size}")
    return np.array([*offsets, end], np.int64)


def _pieces(builder: str, split: str, info: tfds.core.DatasetInfo) -> list[Any]:
    """Which records to read from which shard, as TFDS's FileInstructions."""
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(f"dataset {builder!r} is stored as {info.file_format.value}; prepare it as tfrecord")
    try:
        pieces: list[Any] = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:  # TFDS raises one of them for an expression that it cannot resolve
        names = ", ".join(sorted(info.splits))
        raise ValueError(f"dataset {builder!r} has no split {split!r}; it has {names}") from error
    if not sum(piece.take for piece in pieces):
        raise ValueError(f"split {split!r} of dataset {builder!r} has no examples")
    return pieces


def _load_indices(paths: Sequence[str], expected_records: Sequence[int]) -> list[np.ndarray]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:  # they wait for storage, not for the CPU
        return list(pool.map(_load_index, paths, expected_records))


def _load_index(shard: str, expected_records: int) -> np.ndarray:
    """The offset index of a shard, checked against its size and number of records."""
    path = epath.Path(shard)
    if not path.exists():
        raise FileNotFoundError(f"shard {path} is missing; restore it, or delete its folder and prepare it again")
    index_path = path.with_name(path.name + INDEX_SUFFIX)
    index = _parse_index(index_path.read_bytes(), path.stat().length) if index_path.exists() else None
    if index is None:
        index = scan(path)
        _save_index(path, index)
    if len(index) - 1 != expected_records:
        raise OSError(f"shard {path} has {len(index) - 1} records instead of {expected_records}; restore it")
    return index


def _parse_index(data: bytes, shard_bytes: int) -> np.ndarray | None:
    """The offset index in a file's bytes; None if it is damaged or belongs to another shard."""
    stream = io.BytesIO(data)
    try:
        index = np.load(stream)
    except Exception:  # NumPy raises many types for damaged bytes
        return None
    checksum = data[stream.tell() :]  # indices written by earlier versions have no checksum
    if checksum not in (b"", _checksum(data[: stream.tell()])):
        return None
    if not isinstance(index, np.ndarray) or index.dtype != np.int64 or index.ndim != 1 or not len(index):
        return None
    apart = (np.diff(index) >= HEADER_BYTES + FOOTER_BYTES).all()
    return index if apart and index[0] == 0 and index[-1] == shard_bytes else None


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _save_index(path: epath.Path, index: np.ndarray) -> None:
    """Writes the index beside its shard, atomically: several hosts may write it at the same time."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue() + _checksum(buffer.getvalue()))
    except (PermissionError, tf.errors.PermissionDeniedError) as error:
        logging.warning("The offset index of %s cannot be stored, so each start computes it again: %s", path, error)
    else:
        temporary.replace(path.with_name(path.name + INDEX_SUFFIX))


def _record_bytes(header: bytes, path: epath.Path, at: int) -> int:
    """Length of a record's data, from its header."""
    if len(header) < HEADER_BYTES:
        raise OSError(f"shard {path} is cut off in the record at byte {at}")
    length: int
    length, checksum = struct.unpack("<QI", header)
    if _masked_crc32c(header[:8]) != checksum:
        raise OSError(f"shard {path} is corrupt: wrong checksum of the length at byte {at}")
    return length


def _crc32c_table() -> list[int]:
    """Remainders of all bytes by the Castagnoli polynomial, bits reversed."""
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


_CRC32C = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _class_names(info: tfds.core.DatasetInfo) -> tuple[str, ...]:
    label = dict(info.features).get("label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def _modality(info: tfds.core.DatasetInfo) -> str:
    """The modality in the dataset's metadata. Without it: "image" if a feature is a single image, else "video"."""
    if info.metadata is not None and "modality" in info.metadata:
        return str(info.metadata["modality"])
    single = any(isinstance(feature, tfds.features.Image) for feature in info.features.values())
    return "image" if single else "video"


def _fingerprint(
    info: tfds.core.DatasetInfo, class_names: tuple[str, ...], pieces: list[Any], indices: list[np.ndarray]
) -> str:
    described = {
        "features": info.features.to_json(),
        "class_names": class_names,
        "pieces": [(epath.Path(piece.filename).name, piece.skip, piece.take) for piece in pieces],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for index in indices:
        digest.update(index.astype("<i8").tobytes())
    return digest.hexdigest()
