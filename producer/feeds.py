"""This module is where a job's chunks come from: a data set of known length, or a stream that has no end in sight."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from producer.sources import Source
from producer.split import Chunk, count_chunks, split
from worker_config.errors import CeleriacError, InputError


class Feed(Protocol):
    """What a job asks for chunks.

    Attributes:
        label: the data set, for people.
        rows, chunks: how many there are; None where nobody knows.
        poll_seconds: how long the job may wait for answers before it asks again.
    """

    label: str
    rows: int | None
    chunks: int | None
    poll_seconds: float

    def next_chunk(self) -> tuple[Chunk, Any] | None:
        """The next chunk and its rows; None when there is none now."""

    def exhausted(self) -> bool:
        """Whether there will never be another chunk."""

    def close(self) -> None:
        """Nobody asks any more."""


class SourceFeed:
    """The chunks of a data set."""

    poll_seconds = 0.5

    def __init__(self, source: Source, chunk_rows: int) -> None:
        self.label = source.label
        self.rows: int | None = source.rows
        self.chunks: int | None = count_chunks(source.rows, chunk_rows)
        self._source = source
        self._plan: Iterator[Chunk] = split(source.rows, chunk_rows)
        self._left = count_chunks(source.rows, chunk_rows)

    def next_chunk(self) -> tuple[Chunk, Any] | None:
        """The next chunk and its rows."""
        chunk = next(self._plan, None)
        if chunk is None:
            return None
        self._left -= 1
        return chunk, self._source.take(chunk.start, chunk.stop)

    def exhausted(self) -> bool:
        """Whether all chunks have been given."""
        return self._left == 0

    def close(self) -> None:
        """Nothing to do."""


class StreamFeed:
    """Rows of an iterable, read by a thread of its own; a chunk leaves when it is full, or after `max_delay`."""

    label = "stream"
    rows: int | None = None
    chunks: int | None = None
    poll_seconds = 0.01

    def __init__(self, rows: Iterable[Any], chunk_rows: int, max_delay: float) -> None:
        self._chunk_rows = chunk_rows
        self._max_delay = max_delay
        self._waiting: list[Any] = []
        self._since = 0.0  # when the oldest waiting row came
        self._index = self._start = 0
        self._ended = self._closed = False
        self._error: CeleriacError | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(rows,), name="celeriac-stream", daemon=True).start()

    def next_chunk(self) -> tuple[Chunk, Any] | None:
        """A full chunk, or what has waited long enough."""
        with self._changed:
            full = len(self._waiting) >= self._chunk_rows
            late = self._waiting and time.monotonic() - self._since >= self._max_delay
            if not (full or late or (self._waiting and self._ended)):
                return None
            taken, self._waiting = self._waiting[: self._chunk_rows], self._waiting[self._chunk_rows :]
            self._since = time.monotonic()
            self._changed.notify_all()
        try:
            rows = stack_rows(taken)
        except InputError as error:
            self._end_by(error)
            return None
        chunk = Chunk(self._index, self._start, self._start + len(taken))
        self._index, self._start = chunk.index + 1, chunk.stop
        return chunk, rows

    def exhausted(self) -> bool:
        """Whether the iterable has ended and all its rows have been given; asked when all of them are predicted.

        Raises:
            InputError: the iterable raised, or its rows differ.
        """
        with self._changed:
            if self._waiting or not self._ended:
                return False
            if self._error is not None:
                raise self._error
            return True

    def _end_by(self, error: CeleriacError) -> None:
        with self._changed:
            self._error, self._ended, self._closed, self._waiting = error, True, True, []
            self._changed.notify_all()

    def close(self) -> None:
        """Let the reading thread end after the row that it is reading."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _read(self, rows: Iterable[Any]) -> None:
        error: CeleriacError | None = None
        try:
            for row in rows:
                with self._changed:
                    # One chunk ahead, so that an endless stream does not pile up here.
                    self._changed.wait_for(lambda: self._closed or len(self._waiting) < 2 * self._chunk_rows)
                    if self._closed:
                        return
                    if not self._waiting:
                        self._since = time.monotonic()
                    self._waiting.append(row)
        except Exception as failure:
            error = InputError(f"the stream raised {type(failure).__name__}: {failure}")
            error.__cause__ = failure
        finally:
            with self._changed:
                self._ended, self._error = True, self._error or error


def stack_rows(rows: list[Any]) -> Any:
    """One array of single rows; a dict or a tuple of arrays where rows are dicts or tuples.

    Raises:
        InputError: the rows differ in shape or in names.
    """
    first = rows[0]
    try:
        if isinstance(first, dict):
            return {name: stack_rows([row[name] for row in rows]) for name in first}
        if isinstance(first, tuple):
            return tuple(stack_rows(list(column)) for column in zip(*rows, strict=True))
        return np.stack([np.asarray(row) for row in rows])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the stream's rows do not fit together: {error}") from None
