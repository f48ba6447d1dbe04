r"""Names of files and classes wherever they are written: in records, tables, pages and on a terminal.

A file system allows any bytes in a name except "/" and NUL. Python reads those that are not UTF-8 as lone surrogates,
which no UTF-8 file can hold. Control characters can end a line of a table, or give orders to a terminal. `escape`
replaces both kinds by readable text, and `unescape` is its inverse: no two names become one.
"""

import re
from collections.abc import Sequence

# Controls, ends of lines, marks that reverse the direction of text, lone surrogates, and the escape character itself.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\\\\]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
_UNDECODED = range(0xDC80, 0xDD00)  # how Python's surrogateescape holds the bytes 0x80 to 0xff
# A spreadsheet runs such a cell as a formula. YouTube ids begin with "-" as well: only with an operator it is one.
_FORMULA = re.compile(r"[=@]|[+-](?=.*[^\w./ -])", re.DOTALL)


def escape(name: object) -> str:
    r"""A name as printable UTF-8 text on one line: `caf\xe9.mp4` for a Latin-1 name, `a\x0ab` for a line feed.

    A backslash becomes two.
    """
    return _UNSAFE.sub(lambda found: _escape_one(found[0]), str(name))


def unescape(text: str) -> str:
    """The name that `escape` or `csv_cell` made this text of; any other text nearly as it is."""
    return _ESCAPED.sub(lambda found: _unescape_one(found[1]), text)


def quote(name: object) -> str:
    """A name in an error message: escaped, in quotes."""
    return f"'{escape(name)}'"


def escape_text(text: object) -> str:
    """Text for people as printable UTF-8: as `escape`, but line feeds and backslashes stay."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\n\\" else _escape_one(found[0]), str(text))


def one_line(text: object, longest: int | None = None) -> str:
    """Text on one line, with single spaces, cut after `longest` characters."""
    return " ".join(str(text).split())[:longest]


def csv_cell(text: object) -> str:
    """A name as a cell of a table that a spreadsheet may open: escaped, and never a formula."""
    escaped = escape(text)
    return f"\\x{ord(escaped[0]):02x}{escaped[1:]}" if _FORMULA.match(escaped) else escaped


def first(names: Sequence[object], most: int) -> str:
    """The first names, escaped, and how many more there are: "a, b, ... and 3 more"."""
    shown = ", ".join(map(escape, names[:most]))
    return f"{shown}, ... and {len(names) - most:,} more" if len(names) > most else shown


def _escape_one(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if code in _UNDECODED:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _unescape_one(code: str) -> str:
    if code == "\\":
        return code
    value = int(code[1:], 16)
    return chr(value + 0xDC00 if code[0] == "x" and value >= 0x80 else value)
