"""The rows of a split --file after file, each by the reader of its format--> batches, or all of them at once.

Who reads on where it has ended before, as a child does with its next chunk, reads on in the file that is open, and
decodes nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec

from tasks.datasets.columns import columns_of
from tasks.datasets.formats import open_format
from tasks.datasets.formats.contents import contents_of
from tasks.datasets.marked import marked, plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rebatcher import Rebatcher, count_rows, cut
from tasks.datasets.rows import Batches, Rows
from tasks.protocol.codec import DEFAULT_LIMIT_BYTES
from tasks.protocol.codec.format import FEWER_ROWS
from tasks.protocol.made_inputs import with_made
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.background import begin
from tasks.storage.object_file import fetch_ranges
from worker_config.errors import InputError
from worker_config.object_urls import is_url

# Objects that are opened before those that are read now have ended.
_MOST_OPENED_AHEAD = 3

_Known: TypeAlias = tuple[Any, ...]


@runtime_checkable
class ReadsAhead(Protocol):
    """A reader of objects other than the file that is open, of which no ranges can be told."""

    def read_ahead(self, span: FileSpan) -> None:
        """Begin to read what the span begins with."""


class SplitReader:
    """Reads rows where they stand; used by one thread.

    Args:
        opener: opens the files.
        threads: whether a format may decode in several threads.
    """

    def __init__(self, opener: Opener, *, threads: bool = True) -> None:
        self._opener, self._threads = opener, threads
        self._known: _Known | None = None
        self._file: _OpenFile | None = None
        self._opened_ahead: dict[_Known, Future[_OpenFile]] = {}
        self._expected = range(0)  # rows of the data set

    def read(self, ref: SplitRef) -> Rows:
        """All rows of a split; arrays are read-only.

        Raises:
            InputError: they cannot be read; the text names the file.
        """
        waiting, batch = Rebatcher(), None
        with closing(self.batches(ref)) as batches:
            for batch in batches:
                waiting.add(batch)
                if waiting.bytes > DEFAULT_LIMIT_BYTES:
                    where = ref.spans[0].path
                    raise InputError(f"{where}: rows of a chunk have over {DEFAULT_LIMIT_BYTES} bytes; {FEWER_ROWS}")
        if waiting.rows:
            batch, _ = waiting.take(waiting.rows)
        if batch is None:
            raise InputError(f"{ref.spans[0].path}: has no rows")
        return _read_only(batch)

    def batches(self, ref: SplitRef) -> Batches:
        """The same, as they come."""
        if ref.format == "bytes":
            yield from contents_of(ref.spans, self._opener)
            return
        try:
            for place, span in enumerate(ref.spans, 1):
                opened = self._of(ref, span)
                self._open_ahead(ref, ref.spans[place : place + _MOST_OPENED_AHEAD])
                for batch in opened.rows(span):
                    yield _made(batch, ref, span.path)
        except Exception:
            self.close()  # whatever state it is in
            raise

    def fetch_ahead(self, ref: SplitRef) -> None:
        """Begin to fetch the rows that this slot probably reads next, where what was said of the last ones was right.

        What cannot be fetched is read when it is wanted, and told then.
        """
        was_right = ref.spans[0].first in self._expected
        self._expected = _rows_of(ref.ahead)
        self._forget_ahead()
        if was_right:
            with suppress(Exception):  # nobody has asked for these yet
                self._open_ahead(ref, ref.ahead)

    def _open_ahead(self, ref: SplitRef, spans: Sequence[FileSpan]) -> None:
        for span in spans[:_MOST_OPENED_AHEAD]:
            known = _known(ref, span)
            if known == self._known and self._file:
                self._file.fetch_ahead(span)
            elif known not in self._opened_ahead and is_url(span.path):
                self._opened_ahead[known] = begin(partial(_opened_ahead, self._opener, ref, span, self._threads))

    def _forget_ahead(self) -> None:
        for future in self._opened_ahead.values():
            if not future.cancel():
                future.add_done_callback(_close_unused)
        self._opened_ahead = {}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file that was read last, and of those that would be next."""
        self._close_file()
        self._forget_ahead()

    def _close_file(self) -> None:
        if self._file:
            self._file.close()
        self._known = self._file = None

    def _of(self, ref: SplitRef, span: FileSpan) -> _OpenFile:
        known = _known(ref, span)
        if self._file is None or known != self._known:
            self._close_file()
            ahead = self._opened_ahead.pop(known, None)
            is_there = ahead is not None and not ahead.cancel() and ahead.exception() is None
            self._file = ahead.result() if ahead and is_there else _OpenFile(self._opener, ref, span, self._threads)
            self._known = known
        return self._file


class _OpenFile:
    """A file of which rows are taken, mostly in ascending order."""

    def __init__(self, opener: Opener, ref: SplitRef, span: FileSpan, threads: bool) -> None:
        self._raw, self._path = opener.open(span), span.path
        self._batches: Batches | None = None
        self._batch: Rows | None = None
        self._begun = self._first = self._stop = 0  # where reading began, and rows of the file that the batch has
        try:
            with one_line_errors(span.path):
                self._reader = open_format(self._raw, ref, span, opener, threads)
        except BaseException:
            self._raw.close()
            raise

    def close(self) -> None:
        if self._batches:
            self._batches.close()
        self._batches = None
        self._reader.close()
        self._raw.close()

    def fetch_ahead(self, span: FileSpan) -> None:
        """Begin to fetch what reading the span takes, unless its rows are here."""
        if self._first <= span.start and span.stop <= self._stop:
            return
        if isinstance(self._reader, ReadsAhead):
            self._reader.read_ahead(span)
        fetch_ranges(self._raw, self._reader.ranges(span), ahead=True)

    def rows(self, span: FileSpan) -> Iterator[Rows]:
        """The rows of the span, in pieces."""
        with one_line_errors(self._path):
            if span.start == span.stop:  # of formats that can tell what no rows look like
                with closing(self._reader.batches(span)) as batches:
                    yield from (cut(batch, slice(0)) for batch in islice(batches, 1))
                return
            anchor, start = self._reader.anchor(span), span.start
            # From here on, unless what is between costs nothing to step over.
            if self._batches is None or start < self._first or (start >= self._stop and anchor >= self._stop):
                self._begin(span, anchor)
            while start < span.stop:
                if self._stop <= start or self._batch is None:
                    self._next(span)
                    continue
                stop = min(span.stop, self._stop)
                piece = slice(start - self._first, stop - self._first)
                start = stop
                batch, whole = self._batch, piece == slice(0, self._stop - self._first)
                if stop == self._stop:  # it may be all rows of a chunk, and the next one has as many
                    self._batch, self._first = None, stop
                yield batch if whole else cut(batch, piece)

    def _begin(self, span: FileSpan, anchor: int) -> None:
        if self._batches:
            self._batches.close()
        self._batch, self._begun, self._first, self._stop = None, anchor, anchor, anchor
        self._batches = self._reader.batches(span)

    def _next(self, span: FileSpan) -> None:
        batch = next(self._batches, None) if self._batches else None
        following = msgspec.structs.replace(span, start=self._stop)
        if batch is None and self._begun < self._stop == self._reader.anchor(following):  # only so far was asked for
            self._begin(following, self._stop)
            batch = next(self._batches, None) if self._batches else None
        self._batch = batch
        if batch is None:
            self._batches = None
            raise InputError(f"{self._path}: has {self._stop} rows, not the {span.stop} that it had; write it again")
        self._first, self._stop = self._stop, self._stop + count_rows(batch)


def _known(ref: SplitRef, span: FileSpan) -> _Known:
    """What tells an open file from others, and from itself with other columns."""
    file = span.path, span.size, span.mtime_ns, span.etag, tuple(span.partition)
    return ref.format, *file, tuple(ref.columns), tuple(ref.kinds.items())


def _rows_of(spans: Sequence[FileSpan]) -> range:
    """Which rows of the data set these are."""
    return range(spans[0].first, spans[-1].first + spans[-1].stop - spans[-1].start) if spans else range(0)


def _opened_ahead(opener: Opener, ref: SplitRef, span: FileSpan, threads: bool) -> _OpenFile:
    opened = _OpenFile(opener, ref, span, threads)
    opened.fetch_ahead(span)
    return opened


def _close_unused(opened: Future[_OpenFile]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()


def _made(rows: Rows, ref: SplitRef, where: str) -> Rows:
    if not ref.made:
        return rows
    whole = with_made(plain(rows), ref.made, where)
    return marked({name: whole[name] for name in ref.made}, unfed_of(rows))


def _read_only(rows: Rows) -> Rows:
    """A batch may have the rows of another chunk, and is kept for it."""
    for column in columns_of(plain(rows), "rows").values():
        for array in column if isinstance(column, list) else [column]:
            array.flags.writeable = False
    return rows
