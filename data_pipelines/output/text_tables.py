"""Tables as plain text and as Markdown, and text in Markdown."""

import re
from collections.abc import Iterable, Sequence

from data_pipelines import escaping


def text_table(title: str, rows: Sequence[dict[str, str]]) -> str:
    """Rows of the same columns as plain text below a title: the first column left-aligned, the others right."""
    header, *lines = _aligned([list(rows[0]), *(list(row.values()) for row in rows)], left=1)
    table = ["  ".join(line) for line in (header, *lines)]
    rule = "-" * len(table[0])
    return "\n".join([title, rule, table[0], rule, *table[1:], rule])


def without_empty_columns(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without the columns that are empty in all of them."""
    filled = [column for column in rows[0] if any(row[column] for row in rows)]
    return [{column: row[column] for column in filled} for row in rows]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int | None = None) -> str:
    """Cells that are Markdown as a table.

    Args:
        columns: their titles.
        rows: their cells.
        left: how many of the first columns are aligned left, the others right; None: all.
    """
    left = len(columns) if left is None else left
    kinds = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in _aligned([columns, kinds, *rows], left))


def _aligned(lines: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    """The cells of each line, each as wide as its column; the first `left` columns to the left, the others right.

    A last column that is aligned left stays as it is: it may hold long sentences.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] *= left < len(widths)
    return [[_pad(cell, widths[i], i < left) for i, cell in enumerate(line)] for line in lines]


def _pad(cell: str, width: int, is_left: bool) -> str:
    return cell.ljust(width) if is_left else cell.rjust(width)


def markdown_text(value: object) -> str:
    """A value as Markdown that is nothing but its text, on one line of a table or list."""
    return re.sub(r"([\\`*\[\]<>&|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", escaping.one_line(value))


def markdown_code(text: str) -> str:
    """A text as `code` in a table."""
    return f"`{text}`".replace("|", "\\|") if text and "`" not in text else markdown_text(text)
