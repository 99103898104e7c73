"""Row groups of a Parquet file, of some of its columns, --> arrays by name, some thousand rows at a time.

footer --check_footer--> row groups, each held against the limit, with its pages, before it is decoded
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

from tasks.datasets.arrow import rows_of
from tasks.datasets.formats.parquet_pages import page_sizes
from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_file import fetch_ranges
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional
from worker_config.object_urls import is_url

# Measured on the first rows of each file where its footer does not tell, and bounded, since later rows may be larger.
_PROBED_ROWS = 64
_MAX_BATCH_ROWS = 65536
# Of a chunk in files here, where its bytes are known before: pieces would be copied to be one.
_MOST_AT_ONCE_BYTES = 256 * 2**20
# Where fewer are asked for, no more than these are decoded at a time.
_LEAST_ROWS = 1024

# Otherwise pyarrow keeps what it has read of the file until the end, and takes damaged pages that have checksums.
_OPTIONS = {"pre_buffer": False, "page_checksum_verification": True}
# Of a file here, in blocks that stay in the processor's cache; of an object each one may be a request.
_READ_BYTES, _REQUEST_BYTES = 2**16, 2**20

# Of values of these types in memory.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


class ParquetRows(FormatReader):
    """Columns of one file, fields of structs by names with dots, and those that the names of its folders say."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        self._file, self._where, self._threads = file, where, threads
        self._names, self._partition_kinds = ref.columns, ref.kinds
        self._columns = [name for name in ref.columns if name not in ref.kinds]
        # A child wants the rows of a span as one array; what is behind a URL comes piece by piece meanwhile.
        self._in_one_piece = not (threads or is_url(where))
        self._limit = input_limit()
        block_bytes = _REQUEST_BYTES if is_url(where) else _READ_BYTES
        opened = import_optional("pyarrow.parquet", "parquet").ParquetFile
        self._opened = opened(file, buffer_size=block_bytes, **_OPTIONS)
        self._starts = group_starts(self._opened.metadata)
        self._probed = 0

    def anchor(self, span: FileSpan) -> int:
        """The first row of the row group that has the span's first row."""
        anchor: int = self._starts[self._group(span.start)]
        return anchor

    def batches(self, span: FileSpan) -> Batches:
        """Rows from the anchor to the end of the row group with the span's last; small row groups are read together."""
        metadata, row, groups = self._opened.metadata, self.anchor(span), self._groups(span)
        at_once = self._in_one_piece and self._has_widths(groups)
        group, most_bytes = groups.start, MAX_BATCH_BYTES
        if at_once:
            most_bytes = min(_MOST_AT_ONCE_BYTES, self._limit.bytes)
        while group < groups.stop:
            last, size = group, 0
            while last < groups.stop and (last == group or size < most_bytes):
                size += sum(sizes_of([check_group(metadata, last, self._where, self._limit)], self._columns))
                last += 1
            fetch_ranges(self._file, self._ranges(range(group, last)))
            fetch_ranges(self._file, self._ranges(range(last, min(last + 1, groups.stop))), ahead=True)
            wanted = max(_LEAST_ROWS, span.stop - (row if at_once else span.start))
            if batch_rows := min(self._batch_rows(range(group, last), size, most_bytes), wanted):
                pieces, end = self._iterate(batch_rows, range(group, last)), self._starts[last]
                while row < end and (batch := next(pieces, None)) is not None:
                    made = [rows_of(self._with_partition(batch, span), self._names, self._where, row)]
                    row += batch.num_rows
                    # It may be a whole chunk, which is not kept for the next one.
                    del batch
                    if row >= end:
                        pieces.close()
                    yield made.pop()
            group = last

    def ranges(self, span: FileSpan) -> Iterator[tuple[int, int]]:
        """The bytes of the columns in the row groups of the span."""
        return self._ranges(self._groups(span))

    def close(self) -> None:
        """Let go of what pyarrow has of the file."""
        self._opened.close()

    def _with_partition(self, batch: Any, span: FileSpan) -> Any:
        arrow = import_optional("pyarrow", "parquet")
        for (name, kind), text in zip(self._partition_kinds.items(), span.partition, strict=True):
            if name in self._names:
                [value] = arrow.array([text], arrow.string()).cast(arrow.type_for_alias(kind))
                batch = batch.append_column(name, arrow.repeat(value, batch.num_rows))
        return batch

    def _ranges(self, groups: range) -> Iterator[tuple[int, int]]:
        return (_bytes_of(column) for group in groups for column in self._read_of(group))

    def _groups(self, span: FileSpan) -> range:
        """The row groups with the rows of a span, or with the first of none."""
        last = self._group(max(span.start, span.stop - 1))
        return range(self._group(span.start), min(last + 1, self._opened.metadata.num_row_groups))

    def _group(self, row: int) -> int:
        return max(0, bisect_right(self._starts, row) - 1)

    def _iterate(self, batch_rows: int, groups: range) -> Generator[Any, None, None]:
        batches: Generator[Any, None, None] = self._opened.iter_batches(
            batch_rows, list(groups), self._columns, use_threads=self._threads
        )
        return batches

    def _has_widths(self, groups: range) -> bool:
        """Whether the footer tells what the columns take in memory, whatever their pages are like."""
        return all(column.physical_type in _WIDTHS for group in groups for column in self._read_of(group))

    def _batch_rows(self, groups: range, size: int, most_bytes: int) -> int:
        """How many rows at a time, so that a batch has so many bytes, and no page more than it may; 0 for no rows."""
        metadata = self._opened.metadata
        rows: int = sum(metadata.row_group(group).num_rows for group in groups)
        largest: int = max(
            (one for group in groups for one in self._pages(group)),
            default=0,
        )
        if not rows:
            return 0
        if most_bytes > MAX_BATCH_BYTES:
            return max(1, min(rows, most_bytes * rows // max(1, size)))
        most = max(1, self._limit.bytes // largest) if largest > MAX_BATCH_BYTES else _MAX_BATCH_ROWS
        most = min(most, _MAX_BATCH_ROWS)
        if not self._probed and any(not _tells_size(column) for column in self._read_of(groups[0])):
            probe = next(self._iterate(min(_PROBED_ROWS, most), groups), None)
            self._probed = 0 if probe is None or not probe.num_rows else max(1, probe.nbytes // probe.num_rows)
        row_bytes = max(self._probed, size // rows, 1)
        return max(1, min(most, MAX_BATCH_BYTES // row_bytes))

    def _pages(self, group: int) -> Iterator[int]:
        """Bytes in memory of each page of the columns that are read, none of which is larger than it may be."""
        for column in self._read_of(group):
            if not column.num_values:
                continue  # without values there need be no pages
            for size in page_sizes(self._file, *_bytes_of(column)):
                self._limit.check(size, self._where, f"a page of column {column.path_in_schema!r}")
                yield size

    def _read_of(self, group: int) -> list[Any]:
        return _read_columns(self._opened.metadata.row_group(group), self._columns)


def group_starts(metadata: Any) -> list[int]:
    """The first row of each row group, and how many rows there are, at the end."""
    return [0, *accumulate(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))]


def sizes_of(column_bytes: Sequence[Mapping[str, int]], columns: Sequence[str]) -> list[int]:
    """What these columns of each row group have in memory, as `check_footer` tells it of each for itself."""
    heads = tuple(f"{name}." for name in columns)
    return [sum(size for path, size in group.items() if f"{path}.".startswith(heads)) for group in column_bytes]


def check_footer(metadata: Any, where: str, limit: InputLimit) -> list[dict[str, int]]:
    """Refuse numbers of rows that do not add up, and rows that are larger than they may be.

    Gives, of each row group, the bytes of its columns in memory, as far as the footer tells: dictionaries take less
    room there.
    """
    counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if sum(counts) != metadata.num_rows or any(count < 0 for count in counts):
        raise InputError(f"{where}: its numbers of rows do not add up; the file is damaged: write it again")
    return [check_group(metadata, number, where, limit) for number in range(metadata.num_row_groups)]


def check_group(metadata: Any, number: int, where: str, limit: InputLimit) -> dict[str, int]:
    """The same of one row group."""
    group = metadata.row_group(number)
    columns = [group.column(position) for position in range(group.num_columns)]
    if any(column.num_values < group.num_rows for column in columns):
        raise InputError(f"{where}: row group {number} has columns of fewer rows than it has; write it again")
    for column in columns:
        size = max(column.total_uncompressed_size, column.num_values) // max(1, group.num_rows)
        limit.check(size, where, f"a row of row group {number} in column {column.path_in_schema!r}")
    return {column.path_in_schema: _column_bytes(column) for column in columns}


def _read_columns(group: Any, columns: Sequence[str]) -> list[Any]:
    found = (group.column(position) for position in range(group.num_columns))
    heads = tuple(f"{name}." for name in columns)
    return [column for column in found if f"{column.path_in_schema}.".startswith(heads)]


def _bytes_of(column: Any) -> tuple[int, int]:
    """Where the pages of a column of a row group stand in the file."""
    start: int = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    return start, start + column.total_compressed_size


def _tells_size(column: Any) -> bool:
    return column.physical_type in _WIDTHS or not any("DICTIONARY" in encoding for encoding in column.encodings)


def _column_bytes(column: Any) -> int:
    width = _WIDTHS.get(column.physical_type)
    return int(column.num_values * width if width else column.total_uncompressed_size)
