"""Reads a weight file as names and arrays: .npz, .safetensors or `torch.save`, recognised by its first bytes."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from cover_jax.models.pretrained import torch_file
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.torch_file import BROKEN

_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# Keys of the model in training checkpoints, the first one wanted most: SlowFast and TimeSformer, MMAction2 and
# Lightning, DeiT and MAE, DeepSpeed, I-JEPA, DINO, timm. One may be inside of another.
_STATE_KEYS = (
    "model_state", "model_state_dict", "state_dict", "model", "module", "net", "network", "params", "weights",
    "target_encoder", "teacher", "ema", "model_ema", "state_dict_ema", "ema_state_dict", "encoder", "backbone",
)  # fmt: skip
_DEEPEST = 5  # dictionaries inside of each other
_SHOWN_KEYS = 8
# First bytes of files that users give by mistake -> what the file is.
_NOT_WEIGHTS = {
    b"": "an empty file",
    b"\x93NUMPY": "a single array; np.savez writes several, with names",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<": "a web page, not weights: the download failed",
    b"\x89HDF": "a Keras or HDF5 file",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9": "of torch older than 1.6; torch.save(torch.load(FILE), NEW) renews it",
    b"\x80": "a Python pickle, which is not read: loading a pickle runs the code in it",
    b"{": "a JSON file; the weights are in another file next to it",
}


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The arrays of one file.

    Attributes:
        names: names of all its tensors.
        read: name -> array; reads from the file when called.
        set_aside: other contents of the file, for example an optimizer's state.
    """

    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    set_aside: tuple[str, ...] = ()


_ZIP = b"PK\x03\x04"
START_LENGTH = 32  # bytes by which the type of a file is recognised


def check_start(start: bytes) -> None:
    """Refuses a file by its first START_LENGTH bytes, so that a large file need not be read.

    Raises:
        PretrainedError: `parse` cannot read this type of file. The message names the type.
    """
    if start.startswith(_ZIP) or start[8:9] == b"{":
        return
    for beginning, what in _NOT_WEIGHTS.items():
        if start.startswith(beginning) and (beginning or not start):
            raise PretrainedError(f"it is {what}")
    raise PretrainedError(f"it begins with {start[:8]!r}, so it is neither .npz nor .safetensors nor a torch file")


def parse(data: bytes) -> Tensors:
    """The tensors in a file's bytes.

    Raises:
        PretrainedError: the file has another type, or is broken. The message says which.
    """
    check_start(data[:START_LENGTH])
    return _parse_zip(data) if data.startswith(_ZIP) else _parse_safetensors(data)


def _parse_zip(data: bytes) -> Tensors:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except BROKEN as error:
        raise PretrainedError(f"it is a broken or cut-off archive: {error}") from error
    if torch_file.is_torch_archive(archive):
        return _of_torch(*torch_file.load(archive))
    strange = [name for name in archive.namelist() if not name.endswith(".npy")]
    if strange:
        raise PretrainedError(f"it is a zip archive with {strange[0]!r} in it, neither .npz nor a torch file")
    arrays = np.load(io.BytesIO(data), allow_pickle=False)  # no object arrays: reading them would run code in the file
    return Tensors(tuple(arrays.files), lambda name: _npz_array(arrays, name))


def _npz_array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        array = arrays[name]
    except BROKEN as error:
        raise PretrainedError(f"{name}: {error}") from error
    # numpy writes bfloat16 as two bytes without a type, and no other type of two bytes so.
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _of_torch(saved: object, read: Callable[[torch_file.Tensor], np.ndarray]) -> Tensors:
    """The state dict in a saved object.

    Raises:
        PretrainedError: there is none, or it is not clear which one is meant. The message names the top-level keys.
    """
    if not isinstance(saved, dict):
        raise PretrainedError(f"it holds a {type(saved).__name__}, not a state dict")
    state: dict[Any, Any] = saved
    set_aside: list[str] = []
    for _ in range(_DEEPEST):
        if (key := _state_key(state)) is None:
            break
        set_aside = [str(name) for name in state if name != key] + set_aside
        state = state[key]
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch_file.Tensor)}
    if not tensors:
        names = ", ".join([str(name) for name in saved][:_SHOWN_KEYS]) + (", ..." if len(saved) > _SHOWN_KEYS else "")
        raise PretrainedError(
            f"it has no tensors under a key that is known ({', '.join(_STATE_KEYS)}); its top-level keys are "
            f"{names or 'none'}; save one of them: torch.save(torch.load(FILE)[KEY], NEW)"
        )
    set_aside = [str(name) for name in state if str(name) not in tensors] + set_aside
    return Tensors(tuple(tensors), lambda name: read(tensors[name]), tuple(set_aside))


def _state_key(state: dict[Any, Any]) -> Any:
    """The key under which the model is; None if it is not deeper, or not clear."""
    deeper = [name for name, value in state.items() if isinstance(value, dict) and _has_tensors(value)]
    known = next((key for key in _STATE_KEYS if key in deeper), None)
    if known is not None or any(isinstance(value, torch_file.Tensor) for value in state.values()):
        return known
    return deeper[0] if len(deeper) == 1 else None


def _has_tensors(state: dict[Any, Any], depth: int = _DEEPEST) -> bool:
    """Whether a dictionary has tensors under names, or such a dictionary in it."""
    named = any(isinstance(name, str) and isinstance(value, torch_file.Tensor) for name, value in state.items())
    deeper = (value for value in state.values() if isinstance(value, dict) and depth)
    return named or any(_has_tensors(value, depth - 1) for value in deeper)


def _parse_safetensors(data: bytes) -> Tensors:
    try:
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise PretrainedError(f"it is a broken or cut-off safetensors file: {error}") from error

    def read(name: str) -> np.ndarray:
        entry = entries[name]
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise PretrainedError(f"{name}: unknown type {entry['dtype']}; known: {', '.join(_SAFETENSORS_DTYPES)}")
        # safetensors has checked that the shape matches the length of the data.
        return np.frombuffer(entry["data"], _SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    return Tensors(tuple(entries), read)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A model's config.json, or another JSON file: `name` is its name in error messages.

    Raises:
        PretrainedError: it is not a JSON object.
    """
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"its {name} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise PretrainedError(f"its {name} is not an object")
    return parsed
