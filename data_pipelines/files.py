"""Files on a disk, in a bucket or in a tar: lists them, makes them readable by any library; guards small ones.

A small file is read with a limit on its size, and compared with the form that it must have. What this project writes
has a checksum, so that each flipped bit is noticed; files of earlier versions have none, and are read. All small files,
with what happens if one is damaged: cover_jax/fault_tolerance/README.md.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from data_pipelines import archives, cells, escaping
from data_pipelines.command_line import CONFIG

COPY_BYTES = 1 << 20
MAX_SMALL_BYTES = 1 << 28  # more than any small file of this project; a manifest names each unusable file
MAX_ARRAYS_BYTES = 1 << 31  # of all arrays of a file together, uncompressed
_SEAL = "sha256"  # the key of a JSON object's checksum: over all other keys
_ARRAYS_SEAL = b"sha256:"
_NO_COMMENT = b"\0\0"  # the end of a ZIP archive: the length of its comment


def is_remote(path: os.PathLike | str) -> bool:
    """Whether a path is a URL such as gs://..., which only epath can open."""
    return "://" in os.fspath(path)


def public_name(path: os.PathLike | str) -> str:
    """What files that are passed on may say of a folder: a URL as it is, of a local path its last name.

    The folders around it may name a person or a machine.
    """
    return os.fspath(path) if is_remote(path) else pathlib.Path(path).resolve().name


def walk(root: epath.Path) -> Iterator[str]:
    """Relative paths of all files under a folder, except hidden ones. Follows links to folders, but no cyclic links."""
    top = os.fspath(root)
    for folder, folders, names in root.walk() if is_remote(root) else os.walk(top, followlinks=True):
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or _leads_back(folder, name)))
        inside = os.fspath(folder).removeprefix(top).strip("/")
        yield from (f"{inside}/{name}".lstrip("/") for name in sorted(names) if not name.startswith("."))


def _leads_back(folder: os.PathLike | str, name: str) -> bool:
    """Whether a link in a local folder points to that folder or to a parent of it, which would be an endless cycle."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")


@contextlib.contextmanager
def local(path: epath.Path, name: str = "", span: tuple[int, int] | None = None, column: str = "") -> Iterator[str]:
    """A local path at which any library can open a file: its own path, or a copy that exists only inside the context.

    Args:
        path: the file.
        name: name of the copy; decoders recognise the format by its ending.
        span: for a member of an archive: its first byte in the uncompressed archive, and its size; for a cell of a
            table: its row, and about how many bytes it has.
        column: for a cell of a table: its column.
    """
    if span is None and not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(name or path.name))
        with open(copy, "wb") as target:
            if span is None:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, target, COPY_BYTES)
            else:
                target.write(cells.read(path, column, span[0]) if column else archives.read(path, *span))
        yield copy


def write_whole(path: epath.Path, data: bytes) -> None:
    """Writes a file atomically: it appears under its name only when it is complete, even after a power failure.

    Raises:
        OSError: it cannot be written; the error names it, which Python's own error for a full disk does not.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if not is_remote(path):
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        with contextlib.suppress(Exception):  # the storage may not answer
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)
        raise


def checked_json(value: Any) -> bytes:
    """A value as JSON with its checksum, for `parse_checked_json`."""
    content = json.dumps(value, sort_keys=True)
    return json.dumps({"sha256": _sha256(content), "content": content}).encode()


def parse_checked_json(data: bytes) -> Any:
    """The value that `checked_json` was given; None if a single bit has changed since."""
    try:
        stored = json.loads(data)
        content: str = stored["content"]
        return json.loads(content) if stored["sha256"] == _sha256(content) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # ValueError: no UTF-8, or no JSON
        return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class DamagedFileError(ValueError):
    """A file is not what was written. The message names it."""

    exit_code = CONFIG


def read_small(path: epath.Path, most_bytes: int | None = None) -> bytes:
    """The bytes of a small file.

    Args:
        path: local or in a bucket.
        most_bytes: its limit; None: MAX_SMALL_BYTES.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is too large; it is not read then.
    """
    most_bytes = MAX_SMALL_BYTES if most_bytes is None else most_bytes
    if path.stat().length > most_bytes:
        raise DamagedFileError(f"{path} is damaged: larger than {most_bytes >> 20} MiB")
    return path.read_bytes()


def sealed_json(value: dict[str, Any]) -> bytes:
    """A JSON object with its checksum under `_SEAL`, for `read_json`. Other programs see one key more."""
    value = json.loads(json.dumps(value))
    return (json.dumps({**value, _SEAL: _sha256(_canonical(value))}, indent=1) + "\n").encode()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def parse_json(data: bytes | str, *, finite: bool = True) -> Any:
    """The value that JSON holds; None if it is no JSON.

    Args:
        data: of a file, in UTF-8.
        finite: NaN and Infinity are no JSON.
    """
    try:
        return _parse(data, finite)
    except ValueError:
        return None


def _parse(data: bytes | str, finite: bool) -> Any:
    try:
        return json.loads(data, parse_constant=_refuse if finite else None)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or nested too deeply
        raise ValueError(f"no JSON: {escaping.one_line(error, 200)}") from error


def read_json(path: epath.Path, form: Any, *, finite: bool = True) -> Any:
    """The content of a JSON file, without the checksum of `sealed_json`. A file without one is read, too.

    Args:
        path: local or in a bucket.
        form: what it must hold: a type; a dict of the forms of its keys, to which a file may have more keys; a list
            with the form of all items; or a dict {str: form} with the form of all values.
        finite: refuse NaN and Infinity, which are no JSON.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is too large, no JSON, of another form, or not what was written.
    """
    data = read_small(path)
    try:
        value = _parse(data, finite)
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if where := mismatch(value, form):
        raise DamagedFileError(f"{path} is damaged: {where}")
    if isinstance(value, dict) and _SEAL in value and value.pop(_SEAL) != _sha256(_canonical(value)):
        raise DamagedFileError(f"{path} is damaged: not what was written")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def sealed_arrays(arrays: Mapping[str, Any], *, compressed: bool = False) -> bytes:
    """Arrays as .npz, with a checksum over the whole file in the comment of the archive, for `parse_arrays`."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    data = buffer.getvalue()[: -len(_NO_COMMENT)]
    comment = _ARRAYS_SEAL + hashlib.sha256(data).hexdigest().encode()
    return data + len(comment).to_bytes(len(_NO_COMMENT), "little") + comment


def parse_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that `sealed_arrays` was given, or those of an .npz file without its checksum.

    Raises:
        ValueError: these are no such bytes, or not what was written; the arrays are too large; or they are pickles.
    """
    at = len(data) - len(_ARRAYS_SEAL) - 2 * hashlib.sha256().digest_size
    if at > 0 and data[at:].startswith(_ARRAYS_SEAL):
        digest = hashlib.sha256(data[: at - len(_NO_COMMENT)]).hexdigest()
        if data[at + len(_ARRAYS_SEAL) :] != digest.encode():
            raise ValueError("not what was written")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        if sum(member.file_size for member in archive.infolist()) > MAX_ARRAYS_BYTES:
            raise ValueError(f"its arrays have more than {MAX_ARRAYS_BYTES >> 20} MiB")
        return dict(np.load(io.BytesIO(data), allow_pickle=False))
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged bytes
        raise ValueError(f"no archive of arrays: {escaping.one_line(error, 200)}") from error


def mismatch(value: Any, form: Any, where: str = "its content") -> str:
    """Where a value is not of a form, in words; "" if it is."""
    if isinstance(form, type):
        return "" if _is_of(value, form) else f"{where} is not of type {form.__name__}"
    if not isinstance(value, type(form)):
        return f"{where} is not of type {type(form).__name__}"
    if isinstance(form, list):
        parts = [(f"item {i} of {where}", item, form[0]) for i, item in enumerate(value)]
    elif str in form:
        parts = [(f"{key!r} of {where}", item, form[str]) for key, item in value.items()]
    else:
        if missing := [key for key in form if key not in value]:
            return f"{where} has no {missing[0]!r}"
        parts = [(f"{key!r} of {where}", value[key], of_key) for key, of_key in form.items()]
    return next((wrong for name, item, part in parts if (wrong := mismatch(item, part, name))), "")


def _is_of(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)
