"""Reads tensors from a file of `torch.save` (torch 1.6 or newer), without torch and without running code in the file.

Such a file is a zip archive with a pickle that describes the object, and the bytes of each storage. A pickle may name
any function for its reader to call. So this reader accepts few names and refuses all others. The format is defined in
torch/serialization.py and torch/_utils.py of pytorch/pytorch.
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

_DEEPEST_MODULE = 12  # modules inside of each other in a TorchScript program
# What training checkpoints keep beside the tensors, such as the flags of the command. Nothing of it is imported or
# read: an empty object stands in its place.
_SET_ASIDE = {
    ("argparse", "Namespace"), ("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"), ("torch", "device"),
    ("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("collections", "defaultdict"), ("collections", "Counter"), ("_codecs", "encode"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"), ("lightning.fabric.utilities.data", "AttributeDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"), ("omegaconf.dictconfig", "DictConfig"),
}  # fmt: skip
# Python's errors for a broken or invalid member of an archive.
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
    """The place of one tensor's values: `offset` and `strides` count elements of the storage `key`."""

    dtype: type
    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_archive(archive: zipfile.ZipFile) -> bool:
    """Whether the file was written by `torch.save`."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def load(archive: zipfile.ZipFile) -> tuple[Any, Callable[[Tensor], np.ndarray]]:
    """The saved object with a `Tensor` in place of each tensor, and a function that reads a `Tensor`.

    Raises:
        PretrainedError: the pickle needs more than tensors and plain containers, or is broken. The function raises
            it if bytes of a tensor are missing.
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
    saved = saved.state_dict() if isinstance(saved, _Scripted) else saved
    return saved, lambda tensor: read(archive, f"{root}/data/{tensor.key}", tensor)


class _SetAside:
    """Stands for an object that is not read. It takes whatever a pickle does with such an object, and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> "_SetAside":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass


class _Scripted:
    """Stands for a module of a TorchScript program: its attributes by name."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def state_dict(self, prefix: str = "", depth: int = _DEEPEST_MODULE) -> dict[str, Tensor]:
        """The tensors in it and in the modules in it, under the names that `state_dict` of torch gives them."""
        found: dict[str, Tensor] = {}
        for name, value in self.attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Scripted) and depth:
                found |= value.state_dict(f"{prefix}{name}.", depth - 1)
        return found


class _Unpickler(pickle._Unpickler):
    """Builds only containers and `Tensor`s. Anything else that a pickle names is refused, not imported.

    It uses the unpickler in Python: the one in C allocates memory for any length that a pickle claims.
    """

    def find_class(self, module: str, name: str) -> Any:
        # New objects each time, so that a pickle's changes to one do not remain.
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
        if module.startswith("__torch__"):  # a class of a TorchScript program, in which OpenAI's CLIP is published
            return type(name, (_Scripted,), {})
        if (module, name) in _SET_ASIDE:
            return type(name, (_SetAside,), {})
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
    """Takes the arguments of torch's function of this name. A pickle may give any values, so `read` checks them."""
    return Tensor(*storage, offset, tuple(shape), tuple(strides))


def read(archive: zipfile.ZipFile, member: str, tensor: Tensor) -> np.ndarray:
    """One tensor's values, read from the `member` with its storage.

    Raises:
        PretrainedError: the storage is missing, or does not contain the whole tensor.
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
    """The bytes of a member. Compressed members are refused: torch writes none, and they may expand to any size."""
    compressed = any(info.filename == name and info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
    if compressed:
        raise PretrainedError(f"{name}: is compressed; torch does not compress its files")
    try:
        return archive.read(name)
    except BROKEN as error:
        raise PretrainedError(f"{name}: {error}") from error


def _needed_length(tensor: Tensor, member: str) -> int:
    """Minimum number of elements in a tensor's storage. It is checked, because strides could reach any address."""
    sizes = (*tensor.shape, *tensor.strides, tensor.offset)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise PretrainedError(f"{member}: impossible shape {tensor.shape}, strides {tensor.strides} or offset")
    if len(tensor.shape) != len(tensor.strides) or tensor.dtype not in _STORAGE_DTYPES.values():
        raise PretrainedError(f"{member}: impossible strides {tensor.strides} or type {tensor.dtype}")
    if 0 in tensor.shape:
        return tensor.offset
    reached = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.offset + max(reached, math.prod(tensor.shape))  # a stride of 0 would expand one element
