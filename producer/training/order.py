"""The order of an epoch: which rows of the data set come, and when; seed and epoch number say it.

rows --shuffle? shard--> the numbers of this trainer's rows, as the epoch has them
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from tasks.datasets.rebatcher import columns, count_rows, values_at, with_columns
from tasks.datasets.rows import Column, Rows
from tasks.protocol.codec import Array

# The numbers of rows, in order; a range where they follow each other.
Order: TypeAlias = Array | range


def random_of(seed: int, epoch: int) -> np.random.Generator:
    """What an epoch is shuffled with: the same for all trainers."""
    return np.random.default_rng([seed, epoch])


def epoch_order(rows: int, shuffle: bool | int, seed: int, epoch: int, shard: tuple[int, int]) -> Order:
    """The rows of a data set that is taken by slices, as one epoch has them.

    Whole permutations are shared out one by one, so that every trainer sees all rows over the epochs. Without shuffle a
    shard is one run of rows, which can be read at once; a shuffle buffer works within it.
    """
    index, count = shard
    if shuffle is True:
        numbers = np.arange(rows, dtype=np.uint32 if rows < 2**32 else np.int64)
        random_of(seed, epoch).shuffle(numbers)
        return numbers if count == 1 else numbers[index::count].copy()
    run = range(rows * index // count, rows * (index + 1) // count)
    if not shuffle:
        return run
    buffer = ShuffleBuffer(int(shuffle), random_of(seed, epoch))
    numbers = np.arange(run.start, run.stop)
    released = [buffer.add(numbers), buffer.rest()]
    return np.concatenate([numbers[:0], *(np.asarray(out) for out in released if out is not None)])


def shard_rows(rows: int, shard: tuple[int, int]) -> int:
    """How many of the rows are this trainer's, where they are shared out one by one; by runs, a row more or less."""
    index, count = shard
    return len(range(index, rows, count))


class ShuffleBuffer:
    """`size` rows wait, and each row that comes takes the place of one of them, which goes on.

    Which one says `random`: one draw for each row, however many come at once.
    """

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self._size = size
        self._random = random
        self._held = 0
        self._form: Rows | None = None
        self._pool: list[Column] = []

    def add(self, rows: Rows) -> Rows | None:
        """Take rows; give as many as have to leave, None for none. What is given, and what waits, are copies."""
        arrived = columns(rows)
        count = count_rows(rows)
        if not count:
            return None
        if self._form is None:
            self._form = rows
            self._pool = [_room(0, column) for column in arrived]
        self._pool = [_fitting(pool, column) for pool, column in zip(self._pool, arrived, strict=True)]
        filling = min(count, self._size - self._held)
        if filling:
            places = np.arange(self._held, self._held + filling)
            self._pool = [_grown(pool, self._held + filling, self._size) for pool in self._pool]
            for pool, column in zip(self._pool, arrived, strict=True):
                _put(pool, places, column, np.arange(filling))
            self._held += filling
        if filling == count:
            return None
        slots = (self._random.random(count - filling) * self._size).astype(np.int64)
        earlier, last = _visits(slots)
        out = [
            _swap(pool, column[filling:], slots, earlier, last)
            for pool, column in zip(self._pool, arrived, strict=True)
        ]
        return with_columns(self._form, out)

    def rest(self) -> Rows | None:
        """The rows that still wait, in any order; None where there are none."""
        if self._form is None:
            return None
        places = self._random.permutation(self._held)
        pools, self._pool, form, self._form, self._held = self._pool, [], self._form, None, 0
        return with_columns(form, [values_at(pool, places) for pool in pools])


def _visits(slots: Array) -> tuple[Array, Array]:
    """For each visit of a slot the number of the visit before, or -1; and the last visit of each slot."""
    by_slot = np.argsort(slots, kind="stable")
    again = slots[by_slot][1:] == slots[by_slot][:-1]
    earlier = np.full(len(slots), -1)
    earlier[by_slot[1:][again]] = by_slot[:-1][again]
    return earlier, by_slot[np.r_[~again, True]]


def _swap(pool: Column, arrived: Column, slots: Array, earlier: Array, last: Array) -> Column:
    """What leaves the slots, one visit after the other; what came stays there."""
    out = values_at(pool, slots)
    again = np.flatnonzero(earlier >= 0)
    _put(out, again, arrived, earlier[again])
    _put(pool, slots[last], arrived, last)
    return out


def _room(size: int, column: Column) -> Column:
    if isinstance(column, list):
        return [np.empty(0)] * size
    return np.empty((size, *column.shape[1:]), column.dtype)


def _grown(pool: Column, needed: int, most: int) -> Column:
    """The pool with room for `needed` rows: of a data set that has fewer, `most` may be more than there is memory."""
    if needed <= len(pool):
        return pool
    room = _room(min(most, max(needed, 2 * len(pool))) - len(pool), pool)
    return pool + room if isinstance(pool, list) else np.concatenate([pool, np.asarray(room)])


def _fitting(pool: Column, column: Column) -> Column:
    """The pool, as a list of rows where those that came are of another shape."""
    fits = isinstance(pool, list) or (not isinstance(column, list) and column.shape[1:] == pool.shape[1:])
    return pool if fits else [row.copy() for row in pool]


def _put(column: Column, places: Array, arrived: Column, which: Array) -> None:
    if isinstance(column, list):
        for place, one in zip(places, which, strict=True):
            column[place] = np.array(arrived[one])
    else:
        column[places] = arrived[which]
