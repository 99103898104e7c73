"""Where rows of a data set stand in its own files, for a worker to read and decode them there.

    data set --whole--> SplitRef --cut--> that of a chunk: files, rows of each, columns

A ref of a whole data set is that of one chunk with more files in it; so a detached job's plan has all of it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Literal

import msgspec

from worker_config.object_urls import is_url

# What a ref may have, as far as a message is concerned; its bytes are bounded by whoever sends it.
MAX_SPANS = 100_000
MAX_COLUMNS = 20_000

# Of the chunk that a slot probably gets next.
MAX_AHEAD_SPANS = 4

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
# No system has a file whose name has a zero byte.
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4_096, pattern=r"^[^\0]+$")]

FormatName = Literal["parquet", "tfrecord", "arrow", "csv", "jsonl", "hdf5", "zarr", "npz", "webdataset", "bytes"]


# What a slot tells beside these formats: that it can read objects, whatever they hold.
READS_OBJECTS = "objects"


class FileSpan(msgspec.Struct, frozen=True, array_like=True):
    """The rows `[start, stop)` of one file; `first` is the first of them in the data set.

    `size`, `mtime_ns` and, of an object behind a URL, `etag` tell whether it is still the one that the producer meant.
    `block` is for formats whose files do not say where a row stands: the first row of the block that has these rows,
    and the bytes `[begin, end)` of it. `partition` is what the names of its folders say of all its rows, a value for
    each of the ref's `kinds`.
    """

    path: Text
    size: _Count
    mtime_ns: int
    first: _Count
    start: _Count
    stop: _Count
    block: tuple[_Count, _Count, _Count] | None = None
    etag: Annotated[str, msgspec.Meta(max_length=1_024)] = ""
    partition: Annotated[list[Annotated[str, msgspec.Meta(max_length=4_096)] | None], msgspec.Meta(max_length=100)] = []


class SplitRef(msgspec.Struct, frozen=True, tag="split"):
    """Rows that a worker reads in the data set's own files, one span after the other.

    Attributes:
        format: of the files.
        spans: where the rows stand, in their order.
        columns: those to take, by name; empty where rows have none.
        kinds: the types of columns whose files do not tell them.
        made: inputs that are made of columns, where the caller has said of which; empty where columns are given as
            they are.
        ahead: spans of objects that the slot which gets these rows probably reads next, to be fetched meanwhile.
    """

    format: FormatName
    spans: Annotated[list[FileSpan], msgspec.Meta(min_length=1, max_length=MAX_SPANS)]
    columns: Annotated[list[Text], msgspec.Meta(max_length=MAX_COLUMNS)] = []
    kinds: dict[str, str] = {}
    made: dict[str, list[str]] = {}
    ahead: Annotated[list[FileSpan], msgspec.Meta(max_length=MAX_AHEAD_SPANS)] = []


def cut(whole: SplitRef, start: int, stop: int, slots: int = 0) -> SplitRef:
    """That of the rows `[start, stop)` of the data set alone.

    Where `slots` take chunks of this size in turn, with the rows that this slot reads next.
    """
    further = slots * (stop - start)
    return SplitRef(
        whole.format,
        _spans(whole, start, stop),
        whole.columns,
        whole.kinds,
        whole.made,
        _ahead(whole, start + further, stop + further) if further else [],
    )


def _ahead(whole: SplitRef, start: int, stop: int) -> list[FileSpan]:
    end = whole.spans[-1].first + whole.spans[-1].stop - whole.spans[-1].start
    if start >= end or not is_url(whole.spans[0].path):
        return []
    return _spans(whole, start, min(stop, end))[:MAX_AHEAD_SPANS]


def _spans(whole: SplitRef, start: int, stop: int) -> list[FileSpan]:
    spans = []
    at = span_at(whole, start)
    while start < stop:
        span = whole.spans[at]
        last = min(stop, span.first + span.stop - span.start)
        if last > start:
            begin = span.start - span.first
            spans.append(msgspec.structs.replace(span, first=start, start=begin + start, stop=begin + last))
            start = last
        at += 1
    return spans


def rows_in(ref: SplitRef) -> int:
    """How many rows the spans have together."""
    return sum(span.stop - span.start for span in ref.spans)


def span_at(ref: SplitRef, row: int) -> int:
    """Which of the spans has a row of the data set; the last one that begins at or before it."""
    return max(0, bisect_right(ref.spans, row, key=_first) - 1)


def place_of(ref: SplitRef, row: int) -> str:
    """File and row in it of a row of the data set, for people; empty where the ref does not have it."""
    span = ref.spans[span_at(ref, row)] if ref.spans else None
    if span is None or not span.first <= row < span.first + span.stop - span.start:
        return ""
    return f"{span.path}, row {span.start + row - span.first}"


def _first(span: FileSpan) -> int:
    return span.first
