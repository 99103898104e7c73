"""CSV files --blocks of whole lines, columns of known types--> columns by name.

    bytes --quotes that are as they should be?--> blocks_in --> where each block of some MiB begins and ends

What is neither numbers nor truth values is text. A value that is missing is null.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO

import numpy as np

from tasks.datasets.arrow import rows_of
from tasks.datasets.formats.reader import BlockReader
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional

# What says that a number or a truth value is missing; in a column of text it is text, the empty one too.
NULLS = ("", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "#N/A")
TEXT = "string"
# So many digits may be more than a float can bring back.
_LONG = 16
# What is read to come to one of its rows is read from the beginning.
_BLOCK_BYTES = 4 * 2**20
_QUOTE, _NEWLINE = ord('"'), ord("\n")


class CsvRows(BlockReader):
    """Columns of one file, of the types that its data set has."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        super().__init__(file)
        self._where, self._threads = where, threads
        self._kinds = {name: ref.kinds[name] for name in ref.columns}
        self._given = header_of(file, where)

    def batches(self, span: FileSpan) -> Batches:
        """The rows of the span's block; those where a value is missing are marked."""
        arrow = import_optional("pyarrow", "parquet")
        first_row, begin, end = self._block(span)
        names = names_of(self._given)
        given = [self._given[names.index(name)] for name in self._kinds]
        with closing(texts_in(self._file, begin, end, self._given, given, self._threads)) as batches:
            for batch in batches:
                values = [typed(batch.column(place), kind) for place, kind in enumerate(self._kinds.values())]
                if any(column is None for column in values):
                    raise InputError(
                        f"{self._where}: has changed since it was opened; leave the file as it is while a job reads it"
                    )
                rows = arrow.RecordBatch.from_arrays(values, list(self._kinds))
                yield rows_of(rows, list(self._kinds), self._where, first_row)
                first_row += batch.num_rows


def header_of(file: BinaryIO, where: str) -> list[str]:
    """The names of a file's columns, as they stand in its first line.

    Raises:
        InputError: values are separated by something else.
    """
    csv = import_optional("pyarrow.csv", "parquet")
    file.seek(0)
    head = file.readline(MAX_BATCH_BYTES)
    if b"," not in head and (other := next((one for one in ";\t" if one.encode() in head), None)):
        raise InputError(f"{where}: its values are separated by {other!r}; separate them by commas")
    while head.count(b'"') % 2 and len(head) < MAX_BATCH_BYTES and (more := file.readline(MAX_BATCH_BYTES)):
        head += more
    if head.count(b"\r") > head.count(b"\r\n"):  # which may end lines, too
        head += file.read(MAX_BATCH_BYTES)
    with csv.open_csv(io.BytesIO(head), _blocks(csv, True)) as opened:
        names: list[str] = opened.schema.names
    return names


def names_of(given: Sequence[str]) -> list[str]:
    """The names of columns: one without is called by its place, as "column0"."""
    return [name or f"column{place}" for place, name in enumerate(given)]


def texts_in(
    file: BinaryIO, begin: int, end: int, given: Sequence[str], taken: Sequence[str], threads: bool = True
) -> Generator[Any, None, None]:
    """The lines in the bytes `[begin, end)` of a file, after its header where they begin with that, all as text.

    Of the columns that are `given` those that are `taken`, by the names that the file has.
    """
    csv, arrow = import_optional("pyarrow.csv", "parquet"), import_optional("pyarrow", "parquet")
    texts = csv.ConvertOptions(
        column_types=dict.fromkeys(taken, arrow.string()), include_columns=list(taken), strings_can_be_null=False
    )
    # An empty line is an empty value, where there is one column; else it is no row.
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(given) > 1)
    read = _blocks(csv, threads)
    if begin:
        read.column_names = list(given)
    with csv.open_csv(_Range(file, begin, end), read, parse, texts) as opened:
        yield from opened


def blocks_in(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """The bytes of each block of whole lines; of the whole file where it has quotes that are not as they should be.

    A quote that begins or ends a value somewhere in it leaves open where lines end: nothing may be cut then.
    """
    size = file.seek(0, 2)
    begin, blocks = 0, []
    while begin < size:
        file.seek(begin)
        piece, wanted = b"", _BLOCK_BYTES
        while True:
            piece += file.read(wanted - len(piece))
            ended = begin + len(piece) >= size
            last = len(piece) if ended else _last_line_end(piece)
            if not _is_clean(piece[:last]):
                yield 0, size
                return
            if last or len(piece) < wanted:
                break
            if wanted > MAX_BATCH_BYTES:  # one line that has no end
                yield 0, size
                return
            wanted *= 2
        blocks.append((begin, begin + last))
        begin += last
    yield from blocks


def _last_line_end(piece: bytes) -> int:
    """The bytes of a piece up to the end of its last whole line; 0 where it has none."""
    if b'"' not in piece:
        return piece.rfind(b"\n") + 1
    data = np.frombuffer(piece, np.uint8)
    ends, quotes = np.flatnonzero(data == _NEWLINE), np.flatnonzero(data == _QUOTE)
    outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _is_clean(lines: bytes) -> bool:
    """Whether every quote begins or ends a value, or is doubled in one, and lines end with a newline."""
    if lines.count(b"\r") != lines.count(b"\r\n"):
        return False
    data = np.frombuffer(lines, np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    if len(quotes) % 2:
        return False
    opening, closing_ = quotes[::2], quotes[1::2]
    before = np.where(opening > 0, data[opening - 1], _NEWLINE)
    after = data[np.minimum(closing_ + 1, len(data) - 1)] if len(data) else data
    after = np.where(closing_ + 1 < len(data), after, _NEWLINE)
    good_before, good_after = list(b',\n"'), list(b',\r\n"')
    return bool(np.isin(before, good_before).all() and np.isin(after, good_after).all())


class _Range(io.RawIOBase):
    """Some bytes of a file, as a stream."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self._file, self._at, self._end = file, begin, end

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of every stream."""
        self._file.seek(self._at)
        piece = self._file.read(min(len(buffer), self._end - self._at))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _blocks(csv: Any, threads: bool) -> Any:
    return csv.ReadOptions(block_size=MAX_BATCH_BYTES, use_threads=threads)


def without_nulls(texts: Any) -> Any:
    """The texts, without spaces around them; null where they say that nothing is there."""
    compute, arrow = import_optional("pyarrow.compute", "parquet"), import_optional("pyarrow", "parquet")
    texts = compute.ascii_trim_whitespace(texts)
    missing = compute.is_in(texts, value_set=arrow.array(NULLS))
    return compute.if_else(missing, arrow.scalar(None, arrow.string()), texts)


def made_of_digits(texts: Any) -> tuple[str, ...]:
    """The types that would not bring back all texts which are made of digits: those of names, such as postal codes."""
    compute = import_optional("pyarrow.compute", "parquet")

    def any_is(suspects: Any, pattern: str) -> bool:
        return bool(compute.any(compute.match_substring_regex(texts.filter(suspects), pattern)).as_py())

    zero = compute.starts_with(texts, "0")  # regular expressions are slow
    for sign in "-+":
        zero = compute.or_(zero, compute.starts_with(texts, f"{sign}0"))
    if any_is(zero, "^[+-]?0[0-9xX]"):
        return "int64", "uint64", "float64"
    is_long = any_is(compute.greater_equal(compute.binary_length(texts), _LONG), "^[+-]?[0-9]+$")
    return ("float64",) if is_long else ()


def typed(texts: Any, kind: str) -> Any:
    """Values of a type; None where one is of another."""
    return texts if kind == TEXT else cast(without_nulls(texts), kind)


def cast(texts: Any, kind: str) -> Any:
    """Values of a type, of texts that `without_nulls` gives; None where one is of another."""
    compute, arrow = import_optional("pyarrow.compute", "parquet"), import_optional("pyarrow", "parquet")
    try:
        values = compute.cast(texts, arrow.type_for_alias(kind))
    except arrow.ArrowInvalid:
        return None
    if kind == "float64" and compute.any(endless := compute.fill_null(compute.is_inf(values), False)).as_py():
        # Numbers that are too large for any float are texts like others.
        named = compute.match_substring_regex(texts.filter(endless), "(?i)^[+-]?inf(inity)?$")
        return values if compute.all(named).as_py() else None
    return values
