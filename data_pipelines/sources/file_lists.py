"""Lists of a split's files: with or without a line that names the columns, with paths of any machine."""

import dataclasses
import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence

from etils import epath

from data_pipelines import files
from data_pipelines.escaping import escape, quote
from data_pipelines.sources import tables
from data_pipelines.sources.class_names import normalize

DEFAULT_COLUMNS = ("path", "label")
SAMPLED = 5  # files of a list that are looked for, to find out from where its paths count
# Names of columns, in lower case, with _ for blanks; of several that mean a path the first here is taken.
_PATH_WORDS = ("path", "file_path", "filepath", "video_path", "clip_path", "image_path", "img_path", "relative_path",
               "file", "filename", "file_name", "video", "video_name", "videoname", "clip", "clip_name", "image",
               "image_name", "img", "name")  # fmt: skip
_LABEL_WORDS = ("label", "class", "class_name", "classname", "label_name", "category", "action", "target", "class_id",
                "classid", "label_id", "class_index", "label_index")  # fmt: skip
_SUFFIX = re.compile(r"\.\w{1,5}$")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file of a list.

    Attributes:
        line: the number of its line.
        path: as it is listed, with "/" between folders.
        label: its class's name or number; None if the list has no such column.
        split: the split that a column "split" names; None if the list has no such column.
    """

    line: int
    path: str
    label: str | None
    split: str | None = None


def read_list(path: epath.Path, columns: Sequence[str], label_separator: str = "") -> list[Entry]:
    """The entries of a list.

    Args:
        path: the list.
        columns: what its columns are: one "path", at most one "label", and others, which are left out. The names in the
            list's own first line, if it has such a line, count more than DEFAULT_COLUMNS.
        label_separator: between the labels of a file, which may have none then; "": each file has one.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it does not read; the message has the line, and what would be right.
    """
    if "path" not in columns:
        raise ValueError(f"--list_columns={','.join(columns)} has no column 'path'")
    rows = tables.read_table(path, len(columns), label_separator)
    columns, rows = _without_header(path, rows, tuple(columns))
    entries = [_entry(path, number, cells, columns, bool(label_separator)) for number, cells in rows]
    if not entries:
        raise ValueError(f"{escape(path)} lists no files")
    _refuse_other_header(path, entries)
    return _with_slashes(entries)


def resolve(path: epath.Path, entries: list[Entry], root: epath.Path, folder: str) -> list[str]:
    """Where the files of a list are, relative to a root folder; those outside it as absolute paths.

    Paths count from the split's folder, if there is one, else from the root or from the list's own folder: from the
    first of these where one of a few files is found. Of absolute paths of another machine the end counts.

    Raises:
        ValueError: they are of another machine, but not all of one folder of it.
    """
    bases = [base for base in dict.fromkeys((root / folder, root, path.parent)) if base.is_dir()]
    sample = [entries[i].path for i in sorted({len(entries) * i // SAMPLED for i in range(SAMPLED)})]
    found = next((base for base in bases if any(_on_disk(base, listed) for listed in sample)), bases[0])
    strip = "" if _on_disk(found, sample[0]) else _other_machine_s(bases, sample[0])
    return [_place(found, root, _without_prefix(path, entry, strip)) for entry in entries]


def check_some_exist(path: epath.Path, first_line: int, placed: list[str], root: epath.Path) -> None:
    """Refuses a list of which no file of a few is found: its paths do not fit the folder.

    Raises:
        FileNotFoundError: with the first line, and where its file would be.
    """
    if any((root / placed[len(placed) * i // SAMPLED]).is_file() for i in range(SAMPLED)):
        return
    raise FileNotFoundError(
        f"{tables.at(path, first_line)}: there is no file {escape(root / placed[0])}, nor are others of this "
        f"list there. Paths in it count from the split's folder, from {escape(root)} or from the list's folder"
    )


def _without_header(path: epath.Path, rows: list[tables.Row], columns: tuple[str, ...]) -> tuple[tuple[str, ...], list]:
    """The columns, and the rows below a line that names them, if there is one."""
    if not rows or not _is_header(rows[0][1]):
        return columns, rows
    number, header = rows[0]
    words = [_word(cell) for cell in header]
    named = _meanings(words)
    if "path" not in named:
        return columns, rows
    if columns in (DEFAULT_COLUMNS, named):
        return named, rows[1:]
    if len(header) == len(columns) and all(a == b for a, b in zip(named, columns, strict=True) if "path" in (a, b)):
        return columns, rows[1:]
    raise ValueError(
        f"{tables.at(path, number)}: the list calls its columns {','.join(header)}, but --list_columns is "
        f"{','.join(columns)}; give one of the names path, label or another word for each of the {len(header)} columns"
    )


def _is_header(cells: list[str]) -> bool:
    return all("/" not in cell and not _SUFFIX.search(cell) for cell in cells)


def _word(cell: str) -> str:
    return re.sub(r"[\s-]", "_", cell.strip().strip('"#').strip().lower())


def _meanings(words: list[str]) -> tuple[str, ...]:
    """For each column "path", "label" or the word itself."""
    path = next((word for word in _PATH_WORDS if word in words), None)
    label = next((word for word in _LABEL_WORDS if word in words), None)
    return tuple("path" if word == path else "label" if word == label else word or "-" for word in words)


def _entry(path: epath.Path, number: int, cells: list[str], columns: tuple[str, ...], may_lack_label: bool) -> Entry:
    if len(cells) != len(columns):
        cells = _cells_with_blanks(cells, columns) or cells
    if len(cells) != len(columns):
        raise ValueError(
            f"{tables.at(path, number)}: {len(cells)} columns instead of {len(columns)}, {','.join(columns)}. Separate "
            "them by tabs or commas, put cells that have these in double quotes, and name the columns by --list_columns"
        )
    row = dict(zip(columns, cells, strict=True))
    needed = ("path",) if may_lack_label else ("path", "label")
    lacking = [column for column in needed if row.get(column) == ""]
    if lacking:
        raise ValueError(f"{tables.at(path, number)}: the {lacking[0]} is empty; each line needs {','.join(columns)}")
    return Entry(number, row["path"], normalize(row["label"]) if "label" in row else None, row.get("split"))


def _cells_with_blanks(cells: list[str], columns: tuple[str, ...]) -> list[str] | None:
    """The cells of a line that blanks separate, where a path or class has blanks itself: a path ends with a suffix."""
    if set(columns) != {"path", "label"} or len(cells) < 2:
        return None
    path_first = columns[0] == "path"
    ends = [i for i, cell in enumerate(cells, 1) if _SUFFIX.search(cell) and (path_first or i == len(cells))]
    if len(ends) != 1 or (path_first and ends[0] == len(cells)):
        return None
    if path_first:
        return [" ".join(cells[: ends[0]]), " ".join(cells[ends[0] :])]
    return [cells[0], " ".join(cells[1:])] if cells[0].isdecimal() else None


def _refuse_other_header(path: epath.Path, entries: list[Entry]) -> None:
    """Refuses a first line that is unlike all others, as one that names the columns in another language is."""
    first, *rest = entries
    if rest and not _SUFFIX.search(first.path) and all(_SUFFIX.search(entry.path) for entry in rest):
        raise ValueError(
            f"{tables.at(path, first.line)}: {quote(first.path)} does not end like a file, as all other paths "
            "do. If this line names the columns, remove it, and name them by --list_columns, such as "
            "--list_columns=path,label"
        )


def _with_slashes(entries: list[Entry]) -> list[Entry]:
    """Entries whose paths have "/" between folders: in a list of paths of Windows each backslash stands for one."""
    if any("/" in entry.path for entry in entries) or not any("\\" in entry.path for entry in entries):
        return entries
    return [dataclasses.replace(entry, path=entry.path.replace("\\", "/")) for entry in entries]


def _on_disk(base: epath.Path, listed: str) -> str:
    """A listed path in the form of Unicode in which the folder has it; "" if it has it in none."""
    forms = dict.fromkeys((listed, *(unicodedata.normalize(form, listed) for form in ("NFC", "NFD"))))
    return next((form for form in forms if (base / form).is_file()), "")


def _other_machine_s(bases: list[epath.Path], listed: str) -> str:
    """The begin of an absolute path of another machine, up to what is found here; "" if nothing is."""
    if not (listed.startswith("/") or _DRIVE.match(listed)):
        return ""
    parts = listed.split("/")
    for i in range(1, len(parts)):
        if any(_on_disk(base, "/".join(parts[i:])) for base in bases):
            return "/".join(parts[:i]) + "/"
    return ""


def _without_prefix(path: epath.Path, entry: Entry, prefix: str) -> str:
    if not entry.path.startswith(prefix):
        raise ValueError(
            f"{tables.at(path, entry.line)}: {quote(entry.path)} does not begin with {quote(prefix)}, as "
            "the first path does; let all paths of the list count from one folder"
        )
    return entry.path.removeprefix(prefix)


def _place(base: epath.Path, root: epath.Path, listed: str) -> str:
    """A listed path relative to the root, in one form of several."""
    if files.is_remote(base) or files.is_remote(listed):
        path = base / listed
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    listed = listed if listed.isascii() else _on_disk(base, listed) or listed
    path, top = posixpath.normpath(posixpath.join(os.fspath(base), listed)), posixpath.normpath(os.fspath(root))
    return path.removeprefix(f"{top}/") if path.startswith(f"{top}/") else path
