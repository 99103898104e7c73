"""A data set in files that can be cut: rows from anywhere, read here or by whoever is given a ref.

files, rows of each, columns --SplitSource--> rows [start, stop)
                             --in_place----> SplitRef, for workers that reach the files
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec

from producer.rows.readers import BatchReader
from producer.rows.source import Splits, Table, check_slice
from producer.sources.files import ObjectSpans
from tasks.datasets.marked import all_fed
from tasks.datasets.open_file import Opener
from tasks.datasets.rows import Arrays, Batches, Rows
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.split_ref import SplitRef, cut, span_at
from worker_config.files import escaped
from worker_config.object_urls import is_url

# Of one chunk's message, which passes through a worker's main process.
_MOST_REF_BYTES = 32 * 2**10
# What of a span travels besides its path.
_SPAN_BYTES = 64
# What several children would decode, each for a part of it.
MAX_BLOCK_BYTES = 256 * 2**20


class SplitSource:
    """A data set of which workers may read the rows themselves; see `Source`.

    Args:
        label: the data set, for people.
        row_bytes: of one row in memory, about.
        ref: of all rows, with the files as the caller has named them.
        borders: rows with which something begins that is decoded as a whole, in ascending order, and the number of
            rows at the end; a chunk that ends at one leaves nothing for another child to decode again.
        block_bytes: what the largest such thing has in memory.
        table: its columns, where they have names.

    Attributes:
        most_spans: how many files the rows of a chunk may come from.
    """

    label: str
    rows: int
    row_bytes: float
    borders: Sequence[int]
    table: Table | None
    most_spans: int

    path: Path | None = None

    def __init__(
        self,
        label: str,
        row_bytes: float,
        ref: SplitRef,
        borders: Sequence[int],
        block_bytes: int = 0,
        table: Table | None = None,
    ) -> None:
        self.label, self.row_bytes, self.table = label, row_bytes, table
        self.borders = borders if isinstance(borders, range) else array("q", borders)
        self.rows = ref.spans[-1].first + ref.spans[-1].stop - ref.spans[-1].start if ref.spans else 0
        self._ref, self._block_bytes = ref, block_bytes
        self._reader: SplitReader | None = None
        if isinstance(ref.spans, ObjectSpans):
            longest = max(map(len, self._paths()))
        else:
            longest = max((len(one.path) + sum(map(len, filter(None, one.partition))) for one in ref.spans), default=0)
        self.most_spans = max(1, _MOST_REF_BYTES // (longest + _SPAN_BYTES))

    def take(self, start: int, stop: int) -> Arrays:
        """The rows `[start, stop)`; raises InputError as `Source.take`."""
        return cast("Arrays", all_fed(self.take_marked(start, stop)))

    def take_marked(self, start: int, stop: int) -> Rows:
        """The same, where a row that cannot be fed is marked, and is no error."""
        check_slice(start, stop, self.rows, self.label)
        self._reader = self._reader or SplitReader(Opener())
        if start < stop:
            return self._reader.read(cut(self._ref, start, stop))
        none = [msgspec.structs.replace(span, stop=span.start) for span in self._ref.spans[:1]]
        return self._reader.read(msgspec.structs.replace(self._ref, spans=none))

    def _batches(self) -> Batches:
        """All rows in order, as the files have them."""
        reader = SplitReader(Opener())
        try:
            yield from reader.batches(self._ref)
        finally:
            reader.close()

    @property
    def splits(self) -> Splits:
        """What it offers to a job."""
        return Splits(self._ref.format, self._paths, lambda: self)

    def _paths(self) -> Iterable[str]:
        """Those of all files, each once."""
        spans = self._ref.spans
        return spans.paths() if isinstance(spans, ObjectSpans) else dict.fromkeys(span.path for span in spans)

    def in_order(self, table: Table | None = None) -> BatchReader:
        """The data set as one that is read in order, of which workers may read the rows themselves."""
        return BatchReader(self.label, self.rows, self._batches, table=table, splits=self.splits)

    def only(self, names: Sequence[str]) -> SplitSource:
        """The same data set of these columns alone, which it has."""
        ref = msgspec.structs.replace(self._ref, columns=list(names))
        return SplitSource(self.label, self.row_bytes, ref, self.borders, self._block_bytes)

    def with_made(self, made: Mapping[str, Sequence[str]]) -> SplitSource:
        """The same data set of inputs that are made of its columns."""
        ref = msgspec.structs.replace(self._ref, made={name: list(names) for name, names in made.items()})
        return SplitSource(self.label, self.row_bytes, ref, self.borders, self._block_bytes)

    def in_place(self) -> SplitRef | str:
        """Where all rows stand, for workers to read; or why they cannot."""
        if not self.rows:
            return "it has no rows"
        if any(escaped(path) != path for path in self._paths()):
            return "a file of it has a name that is no text"
        if self._block_bytes > MAX_BLOCK_BYTES:
            return (
                f"its row groups have up to {self._block_bytes // 2**20} MiB in memory, which several workers would "
                f"decode for a part each (write row groups of up to {MAX_BLOCK_BYTES // 2**20} MiB)"
            )
        head = len(msgspec.msgpack.encode(msgspec.structs.replace(self._ref, spans=[])))
        if head > _MOST_REF_BYTES:
            return f"what says which columns to read has {head} bytes, too many for each chunk's message"
        paths = {path: resolved for path in self._paths() if (resolved := _real(path)) != path}
        if not paths:
            return self._ref
        spans = [
            msgspec.structs.replace(span, path=paths[span.path]) if span.path in paths else span
            for span in self._ref.spans
        ]
        return msgspec.structs.replace(self._ref, spans=spans)

    def cut_rows(self, start: int, rows: int, *, fixed: bool) -> int:
        """How many rows the chunk from `start` on has, where about `rows` are wanted, or with `fixed` at most these."""
        most = min(start + rows, self.rows)
        if not fixed:
            near = bisect_left(self.borders, most)
            around = [self.borders[at] for at in (near - 1, near) if 0 <= at < len(self.borders)]
            close = [one for one in around if start + rows // 2 < one <= start + rows + rows // 2]
            most = min(close, key=lambda border: abs(border - most), default=most)
        after = span_at(self._ref, start) + self.most_spans
        return min(most, self._ref.spans[after].first if after < len(self._ref.spans) else most) - start


def _real(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)
