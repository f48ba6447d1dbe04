"""The file of features, and the parts that it is made of, so that a killed command continues.

OUT.parts/ has one .npz per finished part, written whole or not at all. The parts depend only on the list of clips and
on the batch size, not on the hosts: any host may write any of them, and more or fewer hosts may continue.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data_pipelines import escaping, files
from data_pipelines.command_line import UsageError

# N rows, D width

BATCHES_PER_PART = 16
_SHOWN = 3
# The notes of a file, as JSON: what its features depend on; path and error of each clip that could not be read.
_ABOUT, _LEFT_OUT = "about", "left_out"
_CONTENTS = "contents"  # in the first of them: what the files hold. Of earlier versions it is not known
COLUMNS = ("path", "label", "class_name", "start_s", "end_s", "features")


class Row(NamedTuple):
    """Features [D] of one clip; None, with the error, if it cannot be read."""

    path: str
    label: int
    class_name: str
    start_s: float
    end_s: float
    features: np.ndarray | None
    error: str


class Job:
    """One file of features.

    Args:
        out: the file.
        kind: "npz" or "parquet".
        about: what the features depend on, as JSON.
        contents: what is read -> a short text that differs if it differs (`clips.Source.contents`).
        num_clips: length of the list.
        part_size: clips per part.
    """

    def __init__(
        self, out: str, kind: str, about: dict[str, Any], contents: dict[str, str], num_clips: int, part_size: int
    ):
        self._out, self._kind = epath.Path(out), kind
        self._about = json.loads(json.dumps(about | {_CONTENTS: _hash(contents)}))
        self._parts = [range(start, min(start + part_size, num_clips)) for start in range(0, num_clips, part_size)]
        self._folder = self._out.with_name(f"{self._out.name}.parts")
        if not self.is_done():
            self._check(self._folder / "about.json", self._about | {"part_size": part_size, _CONTENTS: contents})

    def is_done(self) -> bool:
        """Whether the file is complete.

        Raises:
            UsageError: it is there, with other features.
        """
        if not self._out.exists():
            return False
        found = _read_note(self._out, self._kind, _ABOUT)
        found = found if isinstance(found, dict) else {}
        if not _agree(found, self._about):
            raise UsageError(
                f"--out={self._out}: exists, {_difference(found, self._about)}; move it, or name another file"
            )
        return True

    def _check(self, path: epath.Path, now: dict[str, Any]) -> None:
        if path.exists():
            try:
                before = files.read_json(path, dict)
            except files.DamagedFileError as error:
                raise UsageError(f"{error}; delete {self._folder}, or name another --out") from error
            if not _agree(before, now):
                raise UsageError(
                    f"{self._folder}: has parts of other features, {_difference(before, now)}; delete it, or name "
                    "another --out"
                )
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, files.sealed_json(now))

    def _path(self, part: range) -> epath.Path:
        return self._folder / f"{part.start:010d}.npz"

    def missing(self, host: int, num_hosts: int) -> list[range]:
        """The parts of a host that are not written yet."""
        return [part for part in self._parts[host::num_hosts] if not self._path(part).exists()]

    def write(self, part: range, rows: Iterable[Row]) -> None:
        """Writes a part."""
        rows = list(rows)
        good = [row for row in rows if row.features is not None]
        columns = {name: np.array([getattr(row, name) for row in good]) for name in COLUMNS}
        bad = {
            name: np.array([getattr(row, name) for row in rows if row.features is None], str)
            for name in ("path", "error")
        }
        arrays = columns | {f"bad_{name}": array for name, array in bad.items()}
        files.write_whole(self._path(part), files.sealed_arrays(arrays))

    def finish(self) -> int:
        """Writes the file, if all parts are there, and reports what could not be read. Returns how many clips.

        A file that is complete already is reported on in the same way.
        """
        if self._out.exists():
            self._folder.rmtree(missing_ok=True)  # if a command was killed between the two
            return _report(_read_note(self._out, self._kind, _LEFT_OUT))
        done = [part for part in self._parts if self._path(part).exists()]
        if len(done) < len(self._parts):
            print(f"{len(done)} of {len(self._parts)} parts are written; the host that is last writes {self._out}")
            return 0
        try:
            found = [_load(self._path(part)) for part in self._parts]
        except FileNotFoundError:
            if self._out.exists():  # another host was last, too
                return _report(_read_note(self._out, self._kind, _LEFT_OUT))
            raise
        columns = {name: _join([part[name] for part in found if len(part["path"])]) for name in COLUMNS}
        left_out = [
            [str(path), str(error)]
            for part in found
            for path, error in zip(part["bad_path"], part["bad_error"], strict=True)
        ]
        write = {"npz": _npz, "parquet": _parquet}[self._kind]
        files.write_whole(self._out, write(columns, {_ABOUT: self._about, _LEFT_OUT: left_out}))
        self._folder.rmtree(missing_ok=True)
        shape = " x ".join(map(str, columns["features"].shape))
        print(f"{self._out}: {len(columns['path'])} rows, features {shape}")
        return _report(left_out)


def _report(left_out: Sequence[Sequence[str]]) -> int:
    """Names the clips that could not be read, with the error of each. Returns how many they are."""
    for path, error in left_out:
        print(f"{path}: {error}", file=sys.stderr)
    return len(left_out)


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _load(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        return files.parse_arrays(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}; delete it, and the same command makes it anew") from error


def _npz(columns: dict[str, np.ndarray], notes: dict[str, Any]) -> bytes:
    return files.sealed_arrays(columns | {name: np.array(json.dumps(note)) for name, note in notes.items()})


def _parquet(columns: dict[str, np.ndarray], notes: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features_ND = columns["features"]
    width = features_ND.shape[1] if features_ND.ndim == 2 else 1  # pyarrow has no lists of length 0
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features_ND.ravel(), pa.float32()), width)
    table = pa.table({name: pa.array(columns[name]) for name in COLUMNS[:-1]} | {"features": lists})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({name: json.dumps(note) for name, note in notes.items()}), buffer)
    return buffer.getvalue()


def _read_note(path: epath.Path, kind: str, name: str) -> Any:
    """One of the notes beside the features in a file; empty if it has none."""
    try:
        if kind == "npz":
            with path.open("rb") as file, np.load(file) as arrays:  # the features themselves are not read
                return files.parse_json(str(arrays[name]))
        import pyarrow.parquet as pq

        with path.open("rb") as file:
            return files.parse_json((pq.read_schema(file).metadata or {})[name.encode()])
    except Exception:  # another file: NumPy and pyarrow raise many types
        return {}


def _hash(contents: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(contents.items())).encode()).hexdigest()[:16] if contents else ""


def _agree(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether features of before are those of now, as far as both say what they depend on."""
    same = before | {_CONTENTS: now[_CONTENTS]} == now
    known = before.get(_CONTENTS) and now[_CONTENTS]
    return same and not (known and known != before[_CONTENTS])


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in now if before.get(key) != now[key]]
    if keys == [_CONTENTS]:
        return f"of other content: {_changed(before[_CONTENTS], now[_CONTENTS])}"
    return "; ".join(f"{key} {before.get(key)!r} there, {now[key]!r} here" for key in keys if key != _CONTENTS)


def _changed(before: dict[str, str] | str, now: dict[str, str] | str) -> str:
    """Which of the files are others than before: a file of features has only a hash of them all."""
    if isinstance(before, str) or isinstance(now, str):
        return "some of what is read has changed since"
    names = [name for name in now if before.get(name) != now[name]]
    return f"{escaping.first(names, _SHOWN)} changed since"
