"""Text files with one entry per line, as people and publishers write them: decoded and split, faults named by line."""

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterable
from typing import Any

from etils import epath

from data_pipelines.escaping import escape, one_line, quote

DELIMITERS = ("\t", ",", ";")  # and, if none of them fits, spaces
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "UTF-8",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

Line = tuple[int, str]  # its number, from 1, and its text
Row = tuple[int, list[str]]  # the number of its line, and its cells


def at(path: object, line: int) -> str:
    """Where in a file: the begin of an error message."""
    return f"{escape(path)}, line {line}"


def read_text(path: epath.Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8; the message has the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {escape(path)}")
    data = path.read_bytes()
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    encoding = _BYTE_ORDER_MARKS.get(mark, "UTF-8")
    if encoding != "UTF-8":
        raise ValueError(f"{at(path, 1)}: the file is {encoding}. {_how_to_convert(path, encoding)}")
    try:
        text = data[len(mark) :].decode()
    except UnicodeDecodeError as error:
        line = _count_lines(error.object[: error.start])
        raise ValueError(
            f"{at(path, line)}: byte 0x{error.object[error.start]:02x} is not UTF-8. {_how_to_convert(path, 'LATIN1')}"
        ) from error
    if "\0" in text:
        raise ValueError(f"{at(path, _count_lines(text[: text.index(chr(0))]))}: it has a NUL byte; is it a text file?")
    return text


def read_lines(path: epath.Path) -> list[Line]:
    """The lines of a file that are not blank, without the blanks around them; see `read_text`."""
    lines = enumerate(io.StringIO(read_text(path), newline=None), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_table(path: epath.Path, num_columns: int = 0, inside: str = "") -> list[Row]:
    """The cells of each line that is not blank.

    Cells are separated by the first of tab, comma and semicolon that fits all lines, else by spaces; they may stand in
    double quotes. A cell does not go over several lines.

    Args:
        path: the file.
        num_columns: how many cells are expected. If it is 1 a line is one cell, whatever is in it. If it is more, a
            separator is chosen that gives so many, if there is one.
        inside: what separates the parts of a cell. It is taken for the separator of cells only if every line has
            `num_columns` of them by it, and by no other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, or a quoted cell does not end; the message has the line.
    """
    lines = read_lines(path)
    if num_columns == 1:
        return [(number, [_unquoted(line)]) for number, line in lines]
    delimiter = _delimiter([line for _, line in lines], num_columns, inside)
    return [(number, _split_or_fail(path, number, line, delimiter)) for number, line in lines]


def read_csv(path: epath.Path, delimiter: str = ",") -> list[Row]:
    """The cells of each line that is not blank; see `read_table` for what is raised."""
    return [(number, _split_or_fail(path, number, line, delimiter)) for number, line in read_lines(path)]


def read_json(path: epath.Path) -> object:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 or not JSON; the message has the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{at(path, error.lineno)}: it is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{escape(path)}: it is nested too deeply") from error


def read_json_lines(path: epath.Path) -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with one per line, with the numbers of their lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, or a line is no JSON object.
    """
    found = []
    for line, text in read_lines(path):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{at(path, line)}: it is not JSON: {one_line(error, 100)}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{at(path, line)}: {quote(text[:80])} is no JSON object")
        found.append((line, row))
    return found


def read_records(
    path: epath.Path, columns: Iterable[str], wanted: str, filled: Collection[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a csv file whose first line names its columns, with the numbers of their lines.

    Args:
        path: the file.
        columns: those that it must have.
        wanted: what the file should be, for messages.
        filled: those of which no cell may be empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, lacks a column, or a row has more cells than there are columns, or none where it
            must have one.
    """
    rows = read_csv(path)
    header = rows[0][1] if rows else []
    lacking = sorted(set(columns) - set(header))
    if lacking:
        missing = ", ".join(lacking)
        raise ValueError(f"{escape(path)} has no column {missing} in its first line; it must be {wanted}")
    for number, cells in rows[1:]:
        if len(cells) > len(header):
            raise ValueError(f"{at(path, number)}: {len(cells)} cells instead of {len(header)}, {','.join(header)}")
    found = [(number, dict(itertools.zip_longest(header, cells, fillvalue=""))) for number, cells in rows[1:]]
    for number, row in found:
        for column in filled:
            if not row[column]:
                raise ValueError(f"{at(path, number)}: the {column} is empty; the file must be {wanted}")
    return found


def _how_to_convert(path: epath.Path, encoding: str) -> str:
    file = escape(path)
    return f"Save it as UTF-8, for example by: iconv -f {encoding} -t UTF-8 '{file}' > NEW (if it is {encoding})"


def _count_lines(before: bytes | str) -> int:
    """The number of the line that follows this part of a file."""
    text = before.decode("latin1") if isinstance(before, bytes) else before
    return text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _delimiter(lines: list[str], num_columns: int, inside: str) -> str:
    """The first separator by which all lines have the expected number of cells, or else the same number above 1."""
    fitting = {}
    for delimiter in DELIMITERS:
        if all(delimiter in line for line in lines):
            counts = {len(_split(line, delimiter)) for line in lines}
            if len(counts) == 1 and 1 not in counts:
                fitting[delimiter] = counts.pop()
    exact = [delimiter for delimiter, count in fitting.items() if count == num_columns]
    if inside in DELIMITERS:
        by_blanks = [" "] if all(len(_split(line, " ")) == num_columns for line in lines) else []
        exact = [*(delimiter for delimiter in exact if delimiter != inside), *by_blanks, *({inside} & {*exact})]
        fitting.pop(inside, None)
    others = [delimiter for delimiter in DELIMITERS if delimiter != inside]
    some = [delimiter for delimiter in others if 2 * sum(delimiter in line for line in lines) >= len(lines)]
    return next(iter([*exact, *fitting, *some, " "]))


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line; [] if a quoted one does not end."""
    try:
        (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _split_or_fail(path: epath.Path, number: int, line: str, delimiter: str) -> list[str]:
    cells = _split(line, delimiter)
    if not cells:
        raise ValueError(
            f"{at(path, number)}: the double quotes of {quote(line)} do not match. A cell in quotes must begin "
            'and end with ", and a " inside it is written twice'
        )
    return cells
