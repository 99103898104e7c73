"""Parts, of any number of rows, cut into batches; a batch within one part is a view of it.

parts, with gaps where rows failed --> batches of `batch_rows` rows less those that failed
                                   --> or, refilled, of `batch_rows` rows that are there
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from producer.rows.part import Array, OutputTree, Part, unflatten
from producer.training.order import Order
from tasks.protocol.trees import Key
from worker_config.errors import MessageError, RowsFailedError


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows as a trainer gets them.

    Attributes:
        arrays: each with one row for each of `positions`.
        positions: which rows of the epoch these are.
    """

    arrays: Mapping[Key, Array]
    positions: tuple[Order, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(map(len, self.positions))

    @property
    def tree(self) -> OutputTree:
        """The arrays in the form that the step gave them."""
        return unflatten(self.arrays)


@dataclass(frozen=True, slots=True, eq=False)
class _PartSlice:
    """What is left of a part: rows `kept` of the epoch's `[start, stop)`."""

    start: int
    stop: int
    kept: Order
    arrays: Mapping[Key, Array]

    def rows_before(self, position: int) -> int:
        return position - self.start if isinstance(self.kept, range) else int(np.searchsorted(self.kept, position))

    def cut(self, rows: int, position: int) -> tuple[_PartSlice, _PartSlice]:
        head = {key: array[:rows] for key, array in self.arrays.items()}
        tail = {key: array[rows:] for key, array in self.arrays.items()}
        return (
            _PartSlice(self.start, position, self.kept[:rows], head),
            _PartSlice(position, self.stop, self.kept[rows:], tail),
        )


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
        self._slices: deque[_PartSlice] = deque()
        self._waiting = 0
        self._owed = 0
        self._last: Batch | None = None

    def add(self, part: Part, arrays: Mapping[Key, Array]) -> list[Batch]:
        """Take a part, with its arrays by key; give the batches that are complete.

        Raises:
            MessageError: rows of one batch are not of one shape.
        """
        kept: Order = part.numbers() if part.skipped else range(part.start, part.stop)
        self._slices.append(_PartSlice(part.start, part.stop, kept, arrays))
        self._waiting += self._size(self._slices[-1])
        out: list[Batch] = []
        while self._waiting >= self._batch_rows:
            out += self._release(self._next(self._batch_rows))
        return out

    def end(self) -> list[Batch]:
        """The batches that are left, when all parts were added.

        Raises:
            RowsFailedError: fewer than were promised can be made of the rows that are there.
        """
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

    def _size(self, part_slice: _PartSlice) -> int:
        return len(part_slice.kept) if self._refill else part_slice.stop - part_slice.start

    def _next(self, missing: int) -> Batch:
        self._waiting -= missing
        slices: list[_PartSlice] = []
        while missing:
            part_slice = self._slices.popleft()
            size = self._size(part_slice)
            if size > missing:
                if self._refill:
                    rows, position = missing, int(part_slice.kept[missing])
                else:
                    position = part_slice.start + missing
                    rows = part_slice.rows_before(position)
                part_slice, rest = part_slice.cut(rows, position)
                self._slices.appendleft(rest)
                size = missing
            slices.append(part_slice)
            missing -= size
        slices = [part_slice for part_slice in slices if len(part_slice.kept)] or slices[:1]
        positions = tuple(part_slice.kept for part_slice in slices)
        if len(slices) == 1:
            return Batch(slices[0].arrays, positions)
        try:
            arrays = {key: np.concatenate([one.arrays[key] for one in slices]) for key in slices[0].arrays}
        except (ValueError, KeyError) as error:
            raise MessageError(
                f"rows {slices[0].start}-{slices[-1].stop} of the epoch are one batch, and not of one shape: {error}; "
                "let the step make them so, or make chunk_rows a multiple of batch_rows"
            ) from None
        return Batch(arrays, positions)

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
        numbers = np.concatenate([np.asarray(run) for run in batch.positions])
        return [
            Batch({key: array[start:stop] for key, array in batch.arrays.items()}, (numbers[start:stop],))
            for start, stop in pairwise(cuts)
        ]
