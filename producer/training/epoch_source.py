"""The data set of one epoch out of the whole one, with which row of it each one is.

Source       --order--> PickedRows, rows taken wherever they stand
BatchSource  --shard, shuffle buffer--> Stream, read in order
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Protocol

import numpy as np

from producer.rows.readers import BatchReader, batches_of
from producer.sources import Batches, BatchSource, Rows
from producer.training.order import ShuffleBuffer, shard_rows
from tasks.datasets.marked import marked, plain, unfed_of
from tasks.datasets.rebatcher import columns, count_rows, picked, with_columns
from tasks.protocol.codec import Array


class Numbers(Protocol):
    """Which rows of the data set those of an epoch are."""

    def of(self, start: int, stop: int) -> Array:
        """The numbers of the epoch's rows `[start, stop)`, which were read and are not forgotten."""

    def forget(self, start: int, stop: int) -> None:
        """Nobody asks for these again; each of them is forgotten once."""


class Arrived:
    """The numbers of rows that were read in order and then shuffled, until they are forgotten; for two threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._read = 0
        self._starts: list[int] = []
        self._blocks: dict[int, Array] = {}
        self._left: dict[int, int] = {}

    def add(self, numbers: Array) -> None:
        """The next rows of the epoch are these."""
        if not len(numbers):
            return
        with self._lock:
            self._starts.append(self._read)
            self._blocks[self._read] = numbers
            self._left[self._read] = len(numbers)
            self._read += len(numbers)

    def of(self, start: int, stop: int) -> Array:
        """The numbers of these rows."""
        with self._lock:
            known = [self._blocks[first][max(0, start - first) : stop - first] for first in self._within(start, stop)]
        return np.concatenate([np.empty(0, np.int64), *known])

    def forget(self, start: int, stop: int) -> None:
        """Nobody asks for these again."""
        with self._lock:
            for first in self._within(start, stop):
                self._left[first] -= max(0, min(stop, first + len(self._blocks[first])) - max(start, first))
                if not self._left[first]:
                    self._starts.remove(first)
                    del self._blocks[first], self._left[first]

    def _within(self, start: int, stop: int) -> list[int]:
        """The blocks that have some of these rows."""
        first = max(0, bisect_right(self._starts, start) - 1)
        return [one for one in self._starts[first : bisect_right(self._starts, max(start, stop - 1))] if one < stop]


class Stream:
    """A data set that is read in order, of which the first rows can be looked at, although it can be read only once."""

    label: str
    rows: int | None

    def __init__(self, source: BatchSource) -> None:
        self.label = source.label
        self.rows = source.rows
        self._source = source
        self._peeked: tuple[list[Rows], Batches] | None = None

    def peek(self) -> Rows | None:
        """The first batch that has rows; None where the data set has none."""
        if self._peeked is None:
            batches = batches_of(self._source)
            first: list[Rows] = []
            for batch in batches:
                first.append(batch)
                if count_rows(batch):
                    break
            self._peeked = first, batches
        first, _ = self._peeked
        return first[-1] if first and count_rows(first[-1]) else None

    def epoch(
        self, label: str, shard: tuple[int, int], size: int, random: np.random.Generator
    ) -> tuple[BatchReader, Arrived]:
        """The data set of one epoch, and the numbers of its rows, as they are read; no shuffle where `size` is 0."""
        arrived = Arrived()
        rows = None if self.rows is None else shard_rows(self.rows, shard)

        def read() -> Generator[Rows, None, None]:
            buffer = ShuffleBuffer(size, random) if size else None
            with closing(self._batches()) as batches:
                for batch, numbers in _sharded(batches, shard):
                    numbered = (numbers, _reasons(batch), *columns(batch))
                    out = buffer.add(numbered) if buffer else numbered
                    if out is not None:
                        yield _noted(out, batch, arrived)
                if buffer and (rest := buffer.rest()) is not None:
                    yield _noted(rest, batch, arrived)

        return BatchReader(label, rows, read, hint=getattr(self._source, "hint", "")), arrived

    def _batches(self) -> Generator[Rows, None, None]:
        peeked, self._peeked = self._peeked, None
        first, batches = peeked or ([], batches_of(self._source))
        with closing(batches):
            yield from chain(first, batches)


def _sharded(batches: Iterator[Rows], shard: tuple[int, int]) -> Iterator[tuple[Rows, Array]]:
    index, count = shard
    first = 0
    for batch in batches:
        numbers = np.arange(first, first + count_rows(batch))
        first += len(numbers)
        if count > 1:
            ours = np.flatnonzero(numbers % count == index)
            batch, numbers = picked(batch, ours), numbers[ours]
        if len(numbers):
            yield batch, numbers


def _reasons(rows: Rows) -> Array:
    """Why each row cannot be fed; empty where it can."""
    reasons = np.full(count_rows(rows), "", object)
    for at, why in unfed_of(rows).items():
        reasons[at] = why
    return reasons


def _noted(out: Rows, form: Rows, arrived: Arrived) -> Rows:
    """The rows without their numbers, which are noted; those that cannot be fed are marked."""
    numbers, reasons, *rest = columns(out)
    arrived.add(np.asarray(numbers))
    unfed = {int(at): str(reasons[at]) for at in np.flatnonzero(reasons)}
    return marked(with_columns(plain(form), rest), unfed)
