"""Tensors of a file that `torch.save` wrote (torch 1.6 or newer), without torch and without running what is in it.

Such a file is a zip archive: a pickle that describes the object, and beside it the bytes of each storage. A pickle may
name any function for its reader to call, so this one knows six names by heart and refuses all others. The format is
that of torch/serialization.py and torch/_utils.py of pytorch/pytorch.
"""

import collections
import dataclasses
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

from cover_jax.models.pretrained.errors import PretrainedError

# What Python raises at an archive's broken or impossible member.
BROKEN = (
    ValueError, KeyError, EOFError, MemoryError, OverflowError, RuntimeError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
_STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where the values of one tensor are: `offset` and `strides` count elements of the storage called `key`."""

    dtype: type
    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_archive(archive: zipfile.ZipFile) -> bool:
    """Whether `torch.save` wrote it."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def load(archive: zipfile.ZipFile) -> tuple[Any, Callable[[Tensor], np.ndarray]]:
    """The saved object with a `Tensor` for each of its tensors, and a function that reads one.

    Raises:
        PretrainedError: the pickle asks for anything but tensors and plain containers, or is broken; the function
            raises it where a tensor's bytes are not all there.
    """
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
    byteorder = f"{root}/byteorder"
    if byteorder in archive.namelist() and _member(archive, byteorder) != b"little":
        raise PretrainedError("its numbers are big-endian, which is not supported")
    pickled = _member(archive, f"{root}/data.pkl")
    try:
        saved = _Unpickler(io.BytesIO(pickled)).load()
    except PretrainedError:
        raise
    except (pickle.UnpicklingError, TypeError, AttributeError, IndexError, *BROKEN) as error:
        raise PretrainedError(f"its pickle is broken: {error}") from error
    return saved, lambda tensor: read(archive, f"{root}/data/{tensor.key}", tensor)


class _Unpickler(pickle._Unpickler):
    """Builds containers and `Tensor`s only; whatever else a pickle names is refused, not imported.

    Of Python's two unpicklers the one in Python: that in C takes memory for whatever length a pickle claims.
    """

    def find_class(self, module: str, name: str) -> Any:
        # New objects each time: what a pickle does to one ends with it.
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("torch", "Size"):
            return lambda sizes: tuple(sizes)
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        raise PretrainedError(
            f"its pickle wants to run {module}.{name}; only tensors in plain containers are read. If you trust it, "
            "torch writes one: torch.save(torch.load(FILE, weights_only=False)['model_state'], NEW)"
        )

    def persistent_load(self, pid: tuple[Any, ...]) -> tuple[type, str]:
        kind, storage_type, key, *_ = pid
        if kind != "storage" or storage_type not in _STORAGE_DTYPES:
            raise PretrainedError(f"its pickle has a {kind} of {storage_type}, which is not a tensor's storage")
        return _STORAGE_DTYPES[storage_type], str(key)


def _rebuild_tensor(
    storage: tuple[type, str], offset: int, shape: Iterable[int], strides: Iterable[int], *_: object
) -> Tensor:
    """What torch's function of this name is called with. A pickle may give anything: `read` checks it."""
    return Tensor(*storage, offset, tuple(shape), tuple(strides))


def read(archive: zipfile.ZipFile, member: str, tensor: Tensor) -> np.ndarray:
    """One tensor's values, from the `member` that holds its storage.

    Raises:
        PretrainedError: the storage is not there, or the tensor is not all within it.
    """
    needed = _needed_length(tensor, member)
    try:
        storage: np.ndarray = np.frombuffer(_member(archive, member), tensor.dtype)
    except ValueError as error:
        raise PretrainedError(f"{member}: {error}") from error
    if needed > len(storage):
        raise PretrainedError(f"{member}: {len(storage)} numbers, too few for the tensor {tensor.shape}")
    byte_strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, byte_strides, writeable=False)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """What torch has stored under a name; it compresses nothing, and what is compressed might have any size."""
    compressed = any(info.filename == name and info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
    if compressed:
        raise PretrainedError(f"{name}: is compressed, which torch's files are not")
    try:
        return archive.read(name)
    except BROKEN as error:
        raise PretrainedError(f"{name}: {error}") from error


def _needed_length(tensor: Tensor, member: str) -> int:
    """How many numbers a tensor's storage must have; checked, because strides reach any address."""
    sizes = (*tensor.shape, *tensor.strides, tensor.offset)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise PretrainedError(f"{member}: impossible shape {tensor.shape}, strides {tensor.strides} or offset")
    if len(tensor.shape) != len(tensor.strides) or tensor.dtype not in _STORAGE_DTYPES.values():
        raise PretrainedError(f"{member}: impossible strides {tensor.strides} or type {tensor.dtype}")
    if 0 in tensor.shape:
        return tensor.offset
    reached = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.offset + max(reached, math.prod(tensor.shape))  # a stride of 0 would make much out of nothing
