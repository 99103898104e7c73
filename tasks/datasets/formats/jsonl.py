"""JSON lines --blocks of whole lines, columns of known types--> columns by name.

bytes --newlines--> blocks_of --> where each block of some MiB begins and ends, its rows, and the types that it has
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tasks.datasets.arrow import rows_of
from tasks.datasets.columns import FLOAT_GAPS
from tasks.datasets.formats.reader import BlockReader
from tasks.datasets.input_limit import input_limit
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional

# Of the types of columns, in a ref.
SCHEMA = "schema"
# What is read to come to one of its rows is read from the beginning.
_BLOCK_BYTES = 4 * 2**20
_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{16,}\s*[,}\]]")


class JsonRows(BlockReader):
    """Columns of one file, of the types that its data set has; what a line lacks is null."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        arrow = import_optional("pyarrow", "parquet")
        super().__init__(file)
        self._where, self._columns, self._threads = where, ref.columns, threads
        self._schema = arrow.ipc.read_schema(arrow.py_buffer(base64.b64decode(ref.kinds[SCHEMA])))

    def batches(self, span: FileSpan) -> Batches:
        """The rows of the span's block."""
        row, begin, end = self._block(span)
        input_limit().check(end - begin, self._where, f"the block of lines from row {row} on")
        table = _parsed(self._file.read(end - begin), self._schema, self._threads)
        for batch in table.to_batches(MAX_BATCH_BYTES):
            yield rows_of(batch, self._columns, self._where, row)
            row += batch.num_rows


def kinds_of(schema: Any) -> dict[str, str]:
    """The types of columns, as a ref has them."""
    return {SCHEMA: base64.b64encode(schema.serialize()).decode()}


def blocks_of(file: BinaryIO, where: str) -> Iterator[tuple[tuple[int, int, int], Any]]:
    """Each block of lines, and the types of its columns; at the end how many rows there are, and None.

    Dates are text.

    Raises:
        InputError: an integer is in a column of floats that does not hold it.
        ArrowInvalid: a line is no JSON object.
    """
    row = begin = 0
    size = file.seek(0, 2)
    while begin < size:
        file.seek(begin)
        piece = file.read(_BLOCK_BYTES)
        piece += file.readline(MAX_BATCH_BYTES)
        if piece.strip():
            table = _parsed(piece, None, True)
            _check_integers(table, piece, where)
            yield (row, begin, begin + len(piece)), _without_times(table.schema)
            row += table.num_rows
        begin += len(piece)
    yield (row, size, size), None


def _parsed(lines: bytes, schema: Any, threads: bool) -> Any:
    json = import_optional("pyarrow.json", "parquet")
    behaviour = "infer" if schema is None else "ignore"
    parse = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour)
    read = json.ReadOptions(use_threads=threads, block_size=max(1, len(lines)))
    return json.read_json(io.BytesIO(lines), read_options=read, parse_options=parse).combine_chunks()


def _check_integers(table: Any, lines: bytes, where: str) -> None:
    compute, types = import_optional("pyarrow.compute", "parquet"), import_optional("pyarrow.types", "parquet")
    for name, column in zip(table.column_names, table.columns, strict=True):
        while types.is_list(column.type):
            column = compute.list_flatten(column)
        large = types.is_floating(column.type) and len(column) and compute.max(compute.abs(column)).as_py()
        if large and large >= FLOAT_GAPS and _LONG_INTEGER.search(lines):
            raise InputError(
                f"{where}: column {name!r} has integers that are too large beside floats, or for 64 bits; write them "
                "as text"
            )


def _without_times(schema: Any) -> Any:
    arrow, types = import_optional("pyarrow", "parquet"), import_optional("pyarrow.types", "parquet")
    return arrow.schema([one.with_type(arrow.string()) if types.is_temporal(one.type) else one for one in schema])
