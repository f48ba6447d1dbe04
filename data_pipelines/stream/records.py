"""One split of a prepared dataset, opened for random access: the offset of each record, and a read that checks it.

Each TFRecord shard has an index beside it, `<shard>.index.npy`: int64 [n + 1], the first byte of each record and the
size of the file; then uint32 [n], the checksum that the shard stores with each record; then the CRC-32 of both. The
index is made when the dataset is prepared, and again when it is missing, damaged, or of another shard. Indices of
earlier versions have no checksums of records. Where the shard is local, they are read from it once, and the index is
written with them.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import catalog, files
from data_pipelines.sources import label_features
from data_pipelines.stream import contents
from data_pipelines.stream.host_tf import tf

# TFRecord framing: length (8 bytes), its checksum (4), data, the data's checksum (4).
HEADER_BYTES, FOOTER_BYTES = 12, 4
VIDEO_FEATURE = "video"  # holds a whole video file
INDEX_SUFFIX = ".index.npy"
READ_BUFFER_BYTES = 1 << 18
_COMPARED_RECORDS = 4  # of each shard, to notice that it was replaced
_CHECKSUM_BYTES = 4  # of the CRC-32 at the end of an index


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the records of one shard are, and their stored checksums.

    Attributes:
        offsets: int64 [n + 1], the first byte of each record, and the size of the shard.
        checksums: uint32 [n], the masked CRC-32C of each record's data; None: not known.
    """

    offsets: np.ndarray
    checksums: np.ndarray | None


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
        content: of all its records, with those that are excluded.
        excluded: int64 [n], ascending: which records are excluded, as indices of the split before any was.
        origin: the settings with which this project prepared it (`prepare.base.MediaBuilder.origin`); {} for others.
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
    content: contents.Content = contents.UNKNOWN
    excluded: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """N, the number of records in the split."""
        return len(self.offsets)

    @property
    def num_excluded(self) -> int:
        """Number of excluded records."""
        return len(self.excluded)

    @property
    def several_labels(self) -> bool:
        """Whether a record may have any number of labels."""
        return label_features.are_several(self.features)


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
    info = catalog.read_info(catalog.dataset_dir(builder, data_dir))
    pieces = _pieces(builder, split, info)
    paths = tuple(piece.filename for piece in pieces)
    indices = _load_indices(paths, [piece.examples_in_shard for piece in pieces])
    spans = [slice(piece.skip, piece.skip + piece.take) for piece in pieces]
    offsets = [index.offsets[:-1][span] for index, span in zip(indices, spans, strict=True)]
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
        content=contents.of_records(
            split,
            [None if i.checksums is None else i.checksums[span] for i, span in zip(indices, spans, strict=True)],
            sum(map(len, offsets)),
            (info.metadata or {}).get("origin", {}),
        ),
        origin=(info.metadata or {}).get("origin", {}),
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
    left = np.delete(np.arange(split.num_examples + split.num_excluded), split.excluded)
    return dataclasses.replace(
        split,
        shards=np.delete(split.shards, excluded),
        offsets=np.delete(split.offsets, excluded),
        fingerprint=digest.hexdigest(),
        excluded=np.union1d(split.excluded, left[excluded]),
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


def scan(path: epath.Path) -> ShardIndex:
    """The index of a shard, from its framing.

    Raises:
        IOError: the framing is broken or the last record is incomplete.
    """
    offsets, end, size, checksums = [], 0, path.stat().length, bytearray()
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        while end < size:
            offsets.append(end)
            end += HEADER_BYTES + _record_bytes(header, path, end) + FOOTER_BYTES
            file.seek(end - FOOTER_BYTES)
            checksums += file.read(FOOTER_BYTES)
            header = file.read(HEADER_BYTES)
    if end != size:
        raise OSError(f"shard {path} is cut off: its last record ends at byte {end}, the file at {size}")
    return ShardIndex(np.array([*offsets, end], np.int64), np.frombuffer(bytes(checksums), "<u4").astype(np.uint32))


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


def _load_indices(paths: Sequence[str], expected_records: Sequence[int]) -> list[ShardIndex]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:  # they wait for storage, not for the CPU
        return list(pool.map(_load_index, paths, expected_records))


def _load_index(shard: str, expected_records: int) -> ShardIndex:
    """The index of a shard, checked against its size and number of records."""
    path = epath.Path(shard)
    if not path.exists():
        raise FileNotFoundError(f"shard {path} is missing; restore it, or delete its folder and prepare it again")
    index_path = path.with_name(path.name + INDEX_SUFFIX)
    index = _stored_index(index_path, path.stat().length) if index_path.exists() else None
    if index is None or not _may_belong_to(path, index):
        index = scan(path)
        _save_index(path, index)
    num_records = len(index.offsets) - 1
    if num_records != expected_records:
        raise OSError(f"shard {path} has {num_records} records instead of {expected_records}; restore it")
    if index.checksums is None and not files.is_remote(path):
        index = ShardIndex(index.offsets, _stored_checksums(path, index.offsets[1:]))
        _save_index(path, index)
    return index


def _may_belong_to(path: epath.Path, index: ShardIndex) -> bool:
    """Whether the index has the checksums of a local shard, for a few records: a shard may have been replaced.

    One wrong checksum is damage of that record, which reading it will show.
    """
    if index.checksums is None or not len(index.checksums) or files.is_remote(path):
        return True
    some = np.unique(np.linspace(0, len(index.checksums) - 1, _COMPARED_RECORDS).astype(int))
    differs = _stored_checksums(path, index.offsets[some + 1]) != index.checksums[some]
    return int(differs.sum()) <= 1


def _stored_checksums(path: epath.Path, ends: np.ndarray) -> np.ndarray:
    """The checksums of the records that end at these bytes of a local shard: reads four bytes per record."""
    with open(path, "rb", buffering=0) as file:
        found = b"".join(os.pread(file.fileno(), FOOTER_BYTES, int(end) - FOOTER_BYTES) for end in ends)
    return np.frombuffer(found, "<u4").astype(np.uint32)


def _stored_index(path: epath.Path, shard_bytes: int) -> ShardIndex | None:
    with contextlib.suppress(files.DamagedFileError):
        return _parse_index(files.read_small(path), shard_bytes)
    return None


def _parse_index(data: bytes, shard_bytes: int) -> ShardIndex | None:
    """The index in a file's bytes; None if it is damaged or belongs to another shard."""
    stream, checksums = io.BytesIO(data), None
    try:
        offsets = np.load(stream)
        if len(data) - stream.tell() > _CHECKSUM_BYTES:  # indices of earlier versions end here
            checksums = np.load(stream)
    except Exception:  # NumPy raises many types for damaged bytes
        return None
    checksum = data[stream.tell() :]  # the first indices have none
    if checksum != _checksum(data[: stream.tell()]) and (checksum or checksums is not None):
        return None
    if not isinstance(offsets, np.ndarray) or offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        return None
    if checksums is not None and (checksums.dtype, checksums.shape) != (np.uint32, (len(offsets) - 1,)):
        return None
    apart = (np.diff(offsets) >= HEADER_BYTES + FOOTER_BYTES).all()
    return ShardIndex(offsets, checksums) if apart and offsets[0] == 0 and offsets[-1] == shard_bytes else None


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _save_index(path: epath.Path, index: ShardIndex) -> None:
    """Writes the index beside its shard, atomically: several hosts may write it at the same time."""
    buffer = io.BytesIO()
    np.save(buffer, index.offsets)
    if index.checksums is not None:
        np.save(buffer, index.checksums)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue() + _checksum(buffer.getvalue()))
        temporary.replace(path.with_name(path.name + INDEX_SUFFIX))
    except (OSError, tf.errors.OpError) as error:  # no permission, no space
        with contextlib.suppress(OSError, tf.errors.OpError):
            temporary.unlink(missing_ok=True)
        text = "The offset index of %s cannot be stored, so each start computes it again (other shards: not named): %s"
        logging.log_first_n(logging.WARNING, text, 1, path, error)


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
    found = label_features.find(dict(info.features))
    return tuple(name for label in found.values() for name in label.names)


def _modality(info: tfds.core.DatasetInfo) -> str:
    """The modality in the dataset's metadata. Without it: "image" if a feature is a single image, else "video"."""
    if info.metadata is not None and "modality" in info.metadata:
        return str(info.metadata["modality"])
    single = any(isinstance(feature, tfds.features.Image) for feature in info.features.values())
    return "image" if single else "video"


def _fingerprint(
    info: tfds.core.DatasetInfo, class_names: tuple[str, ...], pieces: list[Any], indices: list[ShardIndex]
) -> str:
    described = {
        "features": info.features.to_json(),
        "class_names": class_names,
        "pieces": [(epath.Path(piece.filename).name, piece.skip, piece.take) for piece in pieces],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for index in indices:
        digest.update(index.offsets.astype("<i8").tobytes())
    return digest.hexdigest()
