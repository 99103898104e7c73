"""Record batches of an Arrow IPC file, which Feather is too, of some of its columns, --> arrays by name.

record batches, of one column --blocks_of--> which rows each has; the file's footer does not tell
"""

from __future__ import annotations

from typing import Any, BinaryIO

from tasks.datasets.arrow import batches_of
from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.input_limit import input_limit
from tasks.datasets.rows import Batches
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.foreign_errors import import_optional


class IpcRows(FormatReader):
    """Columns of one file; fields of structs have names with dots."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        self._where, self._columns, self._limit = where, ref.columns, input_limit()
        schema = _open(file).schema
        heads = [name for name in schema.names if any(f"{one}.".startswith(f"{name}.") for one in self._columns)]
        self._opened = _open(file, [schema.get_field_index(name) for name in heads])

    def anchor(self, span: FileSpan) -> int:
        """The first row of the span's record batch."""
        return span.block[0] if span.block else 0

    def batches(self, span: FileSpan) -> Batches:
        """The rows of the span's record batch, some MiB at a time."""
        row, number, _ = span.block or (0, 0, 0)
        batch = self._opened.get_batch(number)
        self._limit.check(batch.nbytes, self._where, f"record batch {number}")
        yield from batches_of(batch, self._columns, self._where, row)


def schema_of(file: BinaryIO) -> Any:
    """The columns of a file, in Arrow's types."""
    return _open(file).schema


def blocks_of(file: BinaryIO, where: str) -> list[tuple[int, int, int]]:
    """Of each record batch its first row, its number and the next one; at the end how many rows there are."""
    opened = _open(file, [0])
    row, blocks = 0, []
    for number in range(opened.num_record_batches):
        blocks.append((row, number, number + 1))
        row += opened.get_batch(number).num_rows
    return [*blocks, (row, opened.num_record_batches, opened.num_record_batches)]


def _open(file: BinaryIO, columns: list[int] | None = None) -> Any:
    ipc = import_optional("pyarrow.ipc", "parquet")
    file.seek(0)
    return ipc.open_file(file, options=ipc.IpcReadOptions(included_fields=columns, use_threads=False))
