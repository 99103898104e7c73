"""Parts, of any number of rows, cut into batches; a batch within one part is a view of it.

parts, with gaps where rows failed --> batches of `batch_rows` rows less those that failed
                                   --> or, refilled, of `batch_rows` rows that are there
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from producer.rows.part import OutputTree, Part, unflatten
from producer.training.order import Order
from tasks.datasets.rebatcher import Rebatcher, columns
from tasks.protocol.codec import Array, Key
from worker_config.errors import MessageError, RowsFailedError


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows as a trainer gets them: arrays with one row for each of `positions`, which rows of the epoch these are."""

    arrays: Mapping[Key, Array]
    positions: Order

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.positions)

    @property
    def tree(self) -> OutputTree:
        """The arrays in the form that the step gave them."""
        return unflatten(self.arrays)


class Cutter:
    """Parts go in, batches come out, always but for the last one, until `end`.

    Args:
        batch_rows: rows of a batch.
        refill: rows that are missing are made up for by those that follow; else they are missing in their batch.
        counted: as many batches as were promised: one of which every row failed is made of another one.
    """

    def __init__(self, batch_rows: int, *, refill: bool = False, counted: bool = True) -> None:
        self._batch_rows = batch_rows
        self._refill = refill
        self._counted = counted and not refill
        self._keys: list[Key] = []
        self._rows = Rebatcher()  # positions, and the arrays in the order of the keys
        self._spans: deque[tuple[int, int, Order]] = deque()  # of parts: start, stop, and the positions that are there
        self._waiting = 0
        self._owed = 0
        self._last: Batch | None = None

    def add(self, part: Part, arrays: Mapping[Key, Array]) -> list[Batch]:
        """Take a part, with its arrays by key; give the batches that are complete."""
        kept: Order = part.numbers() if part.skipped else range(part.start, part.stop)
        self._keys = self._keys or list(arrays)
        self._rows.add((np.asarray(kept, np.int64), *(arrays[key] for key in self._keys)))
        if not self._refill:
            self._spans.append((part.start, part.stop, kept))
        self._waiting += len(kept) if self._refill else part.stop - part.start
        out: list[Batch] = []
        while self._waiting >= self._batch_rows:
            out += self._release(self._next(self._batch_rows))
        return out

    def end(self) -> list[Batch]:
        """The batches that are left, when all parts were added; RowsFailedError where they are fewer than promised."""
        out = self._release(self._next(self._waiting)) if self._waiting else []
        if self._last:
            last = self._split(self._last)
            self._last = None
            out += last
        if self._owed:
            raise RowsFailedError(
                f"all rows of {self._owed} batches failed, and others have none to spare for them; use larger batches, "
                "or on_error='fill'"
            )
        return out

    def _next(self, size: int) -> Batch:
        self._waiting -= size
        rows = size if self._refill else self._rows_of(size)
        if not rows:
            return Batch({}, range(0))
        taken, _ = self._rows.take(rows)
        positions, *arrays = columns(taken)
        first, last = int(positions[0]), int(positions[-1])
        if any(isinstance(array, list) for array in arrays):
            raise MessageError(
                f"rows {first}-{last + 1} of the epoch are one batch, and not of one shape; "
                "let the step make them so, or make chunk_rows a multiple of batch_rows"
            )
        order: Order = np.asarray(positions)
        if np.array_equal(order, np.arange(first, last + 1)):
            order = range(first, last + 1)
        return Batch({key: np.asarray(array) for key, array in zip(self._keys, arrays, strict=True)}, order)

    def _rows_of(self, positions: int) -> int:
        """How many rows are there of the next positions: the others failed, or were dropped."""
        rows = 0
        while positions:
            start, stop, kept = self._spans.popleft()
            middle = min(stop, start + positions)
            count = bisect_left(kept, middle)
            rows += count
            positions -= middle - start
            if middle < stop:
                self._spans.appendleft((middle, stop, kept[count:]))
        return rows

    def _release(self, batch: Batch) -> list[Batch]:
        """Hold back the last batch: it may have to be split, and at its end the epoch has ended."""
        if not batch.rows:
            self._owed += self._counted
            return []
        before = [self._last] if self._last else []
        *ready, self._last = self._split(batch)
        return before + ready

    def _split(self, batch: Batch) -> list[Batch]:
        """As many batches as are owed besides this one, as far as it has rows for them."""
        count = min(batch.rows, self._owed + 1)
        self._owed -= count - 1
        if count == 1:
            return [batch]
        cuts = [batch.rows * number // count for number in range(count + 1)]
        return [
            Batch({key: array[start:stop] for key, array in batch.arrays.items()}, batch.positions[start:stop])
            for start, stop in pairwise(cuts)
        ]
