"""Reads media that are cells of tables: Parquet files, and Arrow streams as `datasets.save_to_disk` writes them.

The library `datasets` of Hugging Face keeps an image or a video as a struct of `bytes` and `path`, and describes the
columns as JSON under the key "huggingface" of the schema's metadata (huggingface/datasets,
src/datasets/features/image.py, video.py and arrow_writer.py).

A thread keeps the table open that it read last, at the position where it stopped: cells in the order of their rows need
one pass. pyarrow is imported late, because few datasets need it.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

from etils import epath

from data_pipelines.escaping import escape, one_line

DESCRIPTION = b"huggingface"  # the key of the description of the columns
BATCH_ROWS = 16  # cells that are in memory at a time; a video may have megabytes
LABEL_ROWS = 65_536  # the same for columns without media


class DamagedTableError(OSError):
    """A table is incomplete or damaged. The message names it."""


def is_table(name: str) -> bool:
    """Whether a file name is that of a table."""
    return name.lower().endswith((".parquet", ".arrow"))


class Table:
    """An open table.

    Attributes:
        names: of its columns.
        num_rows: how many rows it has.
        described: column -> what `datasets` says of it, such as {"_type": "ClassLabel", "names": [...]}.
    """

    def __init__(self, path: epath.Path):
        """Opens a table.

        Raises:
            DamagedTableError: it cannot be read.
        """
        self._path = path
        with _named(path):
            self._parquet, self._arrow = _open(path)
            schema = self._parquet.schema_arrow if self._parquet else self._arrow.schema
            self.num_rows: int = self._parquet.metadata.num_rows if self._parquet else self._arrow.num_rows
        self.names: list[str] = schema.names
        self.types: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))
        self.described = _description(schema.metadata or {})

    def close(self) -> None:
        """Closes its file."""
        if self._parquet:
            self._parquet.close()

    def media_columns(self) -> list[str]:
        """The columns of structs of bytes and path."""
        import pyarrow.types as types

        def is_media(kind: Any) -> bool:
            return types.is_struct(kind) and {kind.field(i).name for i in range(kind.num_fields)} == {"bytes", "path"}

        return [name for name in self.names if is_media(self.types[name])]

    def rows(self, columns: list[str], first: int = 0, batch_rows: int = LABEL_ROWS) -> Iterator[dict[str, Any]]:
        """The values of some columns, row by row. A part of a struct is named STRUCT.PART, and is the struct's value.

        Raises:
            DamagedTableError: the table is damaged.
        """
        with _named(self._path):
            for batch in self._batches(columns, first, batch_rows):
                yield from batch.to_pylist()

    def num_without_bytes(self, column: str) -> int:
        """How many cells of a column of structs have no bytes, as far as that is known without reading them."""
        if self._arrow is not None:
            return sum(chunk.field("bytes").null_count for chunk in self._arrow[column].chunks)
        counts = [
            chunk.statistics.null_count
            for chunk in self._chunks()
            if chunk.path_in_schema == f"{column}.bytes" and chunk.statistics and chunk.statistics.has_null_count
        ]
        return sum(counts)

    def _chunks(self) -> Iterator[Any]:
        """What a Parquet file says of the parts of its columns."""
        metadata = self._parquet.metadata
        for i in range(metadata.num_row_groups):
            yield from (metadata.row_group(i).column(j) for j in range(metadata.num_columns))

    def cell_bytes(self, column: str) -> int:
        """About how many bytes a cell has, without reading any: the mean over the table; 0 if that is not known."""
        if self._arrow is not None:
            return self._arrow[column].nbytes // max(self.num_rows, 1)
        of_column = (chunk for chunk in self._chunks() if chunk.path_in_schema.partition(".")[0] == column)
        return sum(chunk.total_uncompressed_size for chunk in of_column) // max(self.num_rows, 1)

    def _batches(self, columns: list[str], first: int, batch_rows: int) -> Iterator[Any]:
        if self._arrow is not None:
            yield from _select(self._arrow, columns).slice(first).to_batches(batch_rows)
            return
        group, skipped, metadata = 0, 0, self._parquet.metadata
        while group < metadata.num_row_groups and skipped + metadata.row_group(group).num_rows <= first:
            skipped += metadata.row_group(group).num_rows
            group += 1
        groups, passed = list(range(group, metadata.num_row_groups)), first - skipped
        for batch in self._parquet.iter_batches(batch_rows, groups, columns, use_threads=False):
            if passed < batch.num_rows:
                yield batch.slice(passed)
            passed = max(0, passed - batch.num_rows)


def _select(table: Any, columns: list[str]) -> Any:
    """Columns and parts of structs of an Arrow table, in the form in which Parquet gives them; nothing is copied."""
    import pyarrow

    chosen = {}
    for column in columns:
        name, _, part = column.partition(".")
        chunks = table[name].chunks
        if part and column not in table.column_names:
            parts = [pyarrow.StructArray.from_arrays([chunk.field(part)], [part]) for chunk in chunks]
            chosen[name] = pyarrow.chunked_array(parts, pyarrow.struct([table[name].type.field(part)]))
        else:
            chosen[name] = table[name]
    return pyarrow.table(chosen)


_last = threading.local()  # the table that this thread keeps open, and its cells from the last one on


def read(path: epath.Path, column: str, row: int) -> bytes:
    """The bytes of a cell: of a struct of bytes and path, its bytes.

    Raises:
        DamagedTableError: the table is damaged, or the cell has no bytes.
    """
    status = path.stat()
    key = (str(path), status.length, status.mtime, column)
    if getattr(_last, "key", None) != key or row < _last.next_row:
        close_kept()
        _last.table = Table(path)
        part = f"{column}.bytes" if column in _last.table.media_columns() else column
        _last.rows, _last.key, _last.next_row = _last.table.rows([part], row, BATCH_ROWS), key, row
    values: dict[str, Any] = {}
    while _last.next_row <= row:
        values = next(_last.rows, {})
        _last.next_row += 1
    value = values.get(column)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DamagedTableError(f"{escape(path)}, row {row}: column {escape(column)} has no bytes")
    return data


def close_kept() -> None:
    """Closes the table that this thread keeps open."""
    if getattr(_last, "key", None) is not None:
        _last.rows.close()
        _last.table.close()
        _last.key = _last.rows = _last.table = None


# What pyarrow raises for damaged bytes, beside exceptions of its own.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, RuntimeError, MemoryError)


class _named:
    """A context manager that adds the table's name to errors about damage."""

    def __init__(self, path: epath.Path):
        self._path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        passed = (FileNotFoundError, PermissionError, DamagedTableError)
        damage = isinstance(error, _DAMAGE) or (kind is not None and kind.__module__ == "pyarrow.lib")
        if damage and not isinstance(error, passed):
            raise DamagedTableError(
                f"{escape(self._path)} is cut off or damaged: {one_line(error, 200)}. Download or copy it again"
            ) from error


def _open(path: epath.Path) -> tuple[Any, Any]:
    """(the Parquet file, None) or (None, the Arrow table, which is mapped into memory if it is a local file)."""
    import pyarrow
    import pyarrow.parquet

    local = "://" not in str(path)
    if path.name.lower().endswith(".parquet"):
        source = str(path) if local else path.open("rb")
        return pyarrow.parquet.ParquetFile(source, page_checksum_verification=True), None
    source = pyarrow.memory_map(str(path)) if local else path.open("rb")
    with pyarrow.ipc.open_stream(source) as stream:
        table = stream.read_all()
    table.validate(full=True)  # or an offset that leads out of the file ends the process
    return None, table


def _description(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Column -> what `datasets` says of it; {} if the table does not come from `datasets`."""
    try:
        found = json.loads(metadata.get(DESCRIPTION, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, dict)} if isinstance(found, dict) else {}
