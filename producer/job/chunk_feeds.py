"""Where a job's chunks come from: rows taken by slices, or batches read in order by a thread."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from producer.rows.readers import batches_of, rows_between
from producer.rows.source import BatchSource, Source, SplitData, frame_of
from producer.scheduling.chunk_sizer import Chunk
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.read_errors import foreign_errors
from tasks.datasets.rebatcher import Rebatcher, picked, skip_rows
from tasks.datasets.rows import Arrays, Rows
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import blank_rows
from worker_config.errors import CeleriacError, InputError

# What is read ahead of the chunks, besides the rows of two chunks.
MAX_AHEAD_BYTES = 32 * 2**20


class Feed(ABC):
    """What a job asks for chunks.

    Args:
        label: the data set, for people.
        rows: how many there are; None where nobody knows.
        first_row: where the first chunk begins; rows before it are left out.
        first_index: of the first chunk; parts count from there.

    Attributes:
        poll_seconds: how long the job may wait for answers before it asks again.
        repeatable: whether the rows of a chunk can be taken once more.
        frame: the DataFrame or table that the rows were given as; None of all else.
    """

    poll_seconds: float = 0.5
    repeatable = False
    frame: object = None

    def __init__(self, label: str, rows: int | None, first_row: int, first_index: int) -> None:
        self.label = label
        self.rows = rows
        self.first_row = first_row
        self.first_index = first_index
        self._next = Chunk(first_index, first_row, first_row)
        # While this is the next chunk, none was made: a data set without rows is still one chunk.
        self._very_first = Chunk(first_index, 0, 0)
        self._error: CeleriacError | None = None

    @property
    def next_row(self) -> int:
        """Where the next chunk begins: rows of all chunks so far, and those that were left out."""
        return self._next.start

    def next_chunk(self, rows: int, *, fixed: bool = True) -> tuple[Chunk, Rows | None] | None:
        """The next chunk, of `rows` rows at most, or without `fixed` of about as many; None when there is none now.

        Its rows are None where workers can read them themselves.
        """
        try:
            cut = self._cut(rows, fixed)
        except CeleriacError as error:
            self.end_by(error)  # not now: the chunks before it are still to be answered
            return None
        if cut is None:
            return None
        taken, count = cut
        chunk = Chunk(self._next.index, self.next_row, self.next_row + count)
        self._next = Chunk(chunk.index + 1, chunk.stop, chunk.stop)
        return chunk, taken

    def take(self, chunk: Chunk) -> Rows | None:
        """The rows of a chunk once more; None where they are gone.

        Raises:
            InputError: they can no longer be read.
        """
        return None

    @abstractmethod
    def restart(self, first_row: int) -> Feed | None:
        """The same data set from `first_row` on; None where it is read up.

        Chunks go on counting: what comes late of those so far is no answer to them.
        """

    def end_by(self, error: CeleriacError) -> None:
        """Make no more chunks; `exhausted` raises the error."""
        self._error = error

    def exhausted(self) -> bool:
        """Whether there will never be another chunk; asked when all chunks so far are answered.

        Raises:
            InputError: the data set cannot be read on, or its rows do not fit together.
        """
        if not self._is_used_up():
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Nobody asks any more."""

    @abstractmethod
    def _cut(self, rows: int, fixed: bool) -> tuple[Rows | None, int] | None:
        """The next rows, and how many they are."""

    @abstractmethod
    def _is_used_up(self) -> bool: ...


class SourceFeed(Feed):
    """The chunks of a data set whose rows can be taken by slices, or of its first `rows` rows; zero are one chunk."""

    repeatable = True

    def __init__(
        self,
        source: Source,
        with_rows: bool = True,
        first_row: int = 0,
        first_index: int = 0,
        rows: int | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        self._goes_on = goes_on
        self._rows = source.rows if rows is None else min(rows, source.rows)
        super().__init__(source.label, self._rows, first_row, first_index)
        self._source = source
        # Asked once: of a protocol Python asks for one attribute after the other.
        self._splits = source if isinstance(source, SplitData) else None
        self.frame: object = frame_of(source)
        self._with_rows = with_rows

    def take(self, chunk: Chunk) -> Rows:
        """The rows of a chunk, as often as asked for."""
        return self._slice(chunk.start, chunk.stop)

    def restart(self, first_row: int) -> SourceFeed:
        """The same from a row on."""
        begin = self._source, self._with_rows, first_row, self._next.index, self._rows
        return SourceFeed(*begin, goes_on=self._goes_on)

    def _cut(self, rows: int, fixed: bool) -> tuple[Rows | None, int] | None:
        if self._is_used_up():
            return None
        if self._splits is not None:
            rows = self._splits.cut_rows(self.next_row, rows, fixed=fixed)
        stop = min(self.next_row + rows, self._rows)
        return self._slice(self.next_row, stop) if self._with_rows else None, stop - self.next_row

    def _is_used_up(self) -> bool:
        return self._error is not None or (self._next != self._very_first and self.next_row >= self._rows)

    def _slice(self, start: int, stop: int) -> Rows:
        with foreign_errors(f"{self.label}: rows {start}-{stop} did not come:"):  # a source may be the caller's own
            return rows_between(self._source, start, stop, goes_on=self._goes_on)


class BatchFeed(Feed):
    """The chunks of a data set that is read in order, by a thread of its own.

    Args:
        source: what is read.
        check: called with the first rows; raises InputError if no model takes them.
        blank: rows of a data set that turns out to have none.
        max_delay: seconds after which a chunk leaves that is not full; None to wait until it is.
        first_row: rows before it are read, and dropped.
        first_index: of the first chunk.
        least_rows: that must come, since they came before.
        goes_on: whether rows that cannot be fed to a model come marked, and are no end.
    """

    poll_seconds: float

    def __init__(
        self,
        source: BatchSource,
        check: Callable[[Rows], None],
        blank: Arrays,
        max_delay: float | None = None,
        first_row: int = 0,
        first_index: int = 0,
        least_rows: int = 0,
        *,
        goes_on: bool = False,
    ) -> None:
        super().__init__(source.label, source.rows, first_row, first_index)
        self._least_rows = least_rows
        self.poll_seconds = 0.05 if max_delay is None else 0.01
        self._source = source
        self._goes_on = goes_on
        self._check = check
        self._is_checked = False
        self._blank = blank
        self._max_delay = max_delay
        self._waiting = Rebatcher()
        self._chunk_rows = 1
        self._since = 0.0  # when the oldest waiting row came
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def restart(self, first_row: int) -> BatchFeed | None:
        """The same from a row on, if the data set can be read once more."""
        try:
            self._source.batches().close()  # not begun
        except CeleriacError:
            return None
        begin = self._source, self._check, self._blank, self._max_delay
        return BatchFeed(*begin, first_row, self._next.index, least_rows=self.next_row, goes_on=self._goes_on)

    def end_by(self, error: CeleriacError) -> None:
        """Read no further, and forget the rows that wait."""
        with self._changed:
            self._error, self._ended, self._closed, self._waiting = error, True, True, Rebatcher()
            self._changed.notify_all()

    def close(self) -> None:
        """Let the reading thread end after the batch that it is reading."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _cut(self, rows: int, fixed: bool) -> tuple[Rows | None, int] | None:
        """A full chunk, or what has waited long enough."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="celeriac-feed", daemon=True)
            self._thread.start()
        with self._changed:
            self._chunk_rows = rows
            self._changed.notify_all()
            empty = self._ended and self._error is None and not self._waiting.rows and self._next == self._very_first
            if not (self._is_due(rows) or empty):
                return None
            taken, count = (self._blank, 0) if empty else self._waiting.take(rows)
            self._since = time.monotonic()
        if not self._is_checked:
            self._check_one(taken, count)
        return taken, count

    def _check_one(self, rows: Rows, count: int) -> None:
        """Hold rows against the models, by one that can be fed where there are others; else with the next rows."""
        if unfed := unfed_of(rows):
            fed = next((row for row in range(count) if row not in unfed), None)
            if fed is None:
                return
            rows = picked(plain(rows), np.array([fed]))
        try:
            self._check(rows)
        except InputError as error:
            if hint := getattr(self._source, "hint", ""):
                raise InputError(f"{error}; {hint}") from error
            raise
        self._is_checked = True

    def _is_used_up(self) -> bool:
        with self._changed:
            if self._waiting.rows or not self._ended or (self._next == self._very_first and self._error is None):
                return False
            if self._error is not None:
                return True
        if self.next_row < self._least_rows:
            raise InputError(
                f"{self.label}: had {self._least_rows} rows or more when it was read first, now {self.next_row}"
            )
        if self.rows is not None and self.next_row != self.rows:
            raise InputError(f"{self.label}: has {self.next_row} rows, not the {self.rows} that it announced")
        return True

    def _is_due(self, rows: int) -> bool:
        if self._waiting.rows >= rows or (self._waiting.rows and self._ended):
            return True
        late = self._max_delay is not None and time.monotonic() - self._since >= self._max_delay
        return bool(self._waiting.rows) and (late or self._waiting.bytes >= MAX_AHEAD_BYTES)

    def _has_room(self) -> bool:
        return self._waiting.rows < 2 * self._chunk_rows and self._waiting.bytes < MAX_AHEAD_BYTES

    def _read(self) -> None:
        error: CeleriacError | None = None
        try:
            with (
                foreign_errors(f"{self.label}: reading it raised"),
                closing(batches_of(self._source, goes_on=self._goes_on)) as batches,
            ):
                for batch in skip_rows(batches, self.first_row, self.label):
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or self._has_room())
                        if self._closed:
                            return
                        if not self._waiting.rows:
                            self._since = time.monotonic()
                        self._waiting.add(batch)
        except CeleriacError as failure:
            error = failure
        finally:
            with self._changed:
                self._ended, self._error = True, self._error or error


def make_feed(
    source: Source | BatchSource,
    infos: Sequence[ModelInfo],
    check: Callable[[Rows], None],
    *,
    with_rows: bool = True,
    first_row: int = 0,
    rows: int | None = None,
    max_delay: float | None = None,
    goes_on: bool = False,
) -> Feed:
    """The chunks of a data set for these models.

    Args:
        check: called with the first rows, of a source that is sliced at once; raises InputError if no model takes them.
        with_rows: False where workers read the rows themselves.
        rows: of a source that is sliced, only so many.
        max_delay: as of `BatchFeed`.
        goes_on: whether rows that cannot be fed to a model come marked, and are no end.
    """
    if isinstance(source, Source):
        first = rows_between(source, 0, min(1, source.rows), goes_on=goes_on)
        check(plain(first))
        return SourceFeed(source, with_rows, first_row, rows=rows, goes_on=goes_on)
    return BatchFeed(source, check, blank_rows(infos[0].inputs), max_delay, first_row, goes_on=goes_on)
