"""Batches of any size --> chunks of the size that is asked for; rows keep their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np

from tasks.datasets.columns import columns_of
from tasks.datasets.marked import all_fed, marked, nulls_of, plain, unfed_of
from tasks.datasets.rows import Batches, Column, Rows
from tasks.protocol.codec import Array, tree_like
from worker_config.errors import InputError


class Rebatcher:
    """Batches of any size go in, chunks of the size that is wanted come out; rows keep their order.

    Attributes:
        rows, bytes: what waits.
    """

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._batches: deque[tuple[Rows, int]] = deque()

    def add(self, batch: Rows) -> None:
        """Take one batch; one without rows changes nothing."""
        count = count_rows(batch)
        if count:
            self._batches.append((batch, count))
            self.rows += count
            self.bytes += _bytes(batch)

    def take(self, rows: int) -> tuple[Rows, int]:
        """The next `rows` rows, or all that wait if they are fewer, and how many; at least one must wait."""
        cuts: list[Rows] = []
        missing = rows
        while self._batches and missing:
            batch, count = self._batches.popleft()
            self.bytes -= _bytes(batch)
            if count > missing:
                rest = cut(batch, slice(missing, None))
                self._batches.appendleft((rest, count - missing))
                self.bytes += _bytes(rest)
                batch, count = cut(batch, slice(missing)), missing
            cuts.append(batch)
            missing -= count
        self.rows -= rows - missing
        return cuts[0] if len(cuts) == 1 else _joined(cuts), rows - missing


def skip_rows(batches: Iterable[Rows], first_row: int, label: str) -> Iterator[Rows]:
    """Leave out the rows before `first_row`; a batch that has no others comes without rows.

    Raises:
        InputError: from the iterator, where there are fewer rows; `label` is the data set, for people.
    """
    missing = first_row
    for batch in batches:
        dropped = min(missing, count_rows(batch))
        missing -= dropped
        yield cut(batch, slice(dropped, None)) if dropped else batch
    if missing:
        raise InputError(f"{label}: has {first_row - missing} rows, the job was to begin at row {first_row}")


def pick_rows(batches: Iterable[Rows], numbers: Array) -> Iterator[Rows]:
    """Leave out all rows but these, which are given in ascending order; reads no further than the last of them."""
    first_row = at = 0
    for batch in batches:
        end = first_row + count_rows(batch)
        until = int(np.searchsorted(numbers, end))
        if until > at:
            yield picked(batch, numbers[at:until] - first_row)
        first_row, at = end, until
        if at == len(numbers):
            return


def until_unfed(batches: Batches) -> Batches:
    """The rows before the first one that cannot be fed to a model.

    Raises:
        InputError: from the iterator, where there is such a row; the text says why.
    """
    with closing(batches):
        for batch in batches:
            if unfed := unfed_of(batch):
                yield cut(batch, slice(min(unfed)))
            yield all_fed(batch)


def cut(rows: Rows, part: slice) -> Rows:
    """Some of the rows, with their marks; views."""
    kept = range(count_rows(rows))[part]
    unfed = {at - kept.start: why for at, why in unfed_of(rows).items() if at in kept}
    nulls = {name: one[part] for name, one in nulls_of(rows).items()}
    return marked(with_columns(plain(rows), [column[part] for column in columns(rows)]), unfed, nulls)


def picked(rows: Rows, positions: Array) -> Rows:
    """The rows at these positions, in their order."""
    taken = with_columns(plain(rows), [values_at(column, positions) for column in columns(rows)])
    if not (unfed := unfed_of(rows)):
        return taken
    nulls = {name: one[positions] for name, one in nulls_of(rows).items()}
    return marked(taken, {to: unfed[at] for to, at in enumerate(positions.tolist()) if at in unfed}, nulls)


def values_at(column: Column, positions: Array) -> Column:
    """The values of a column at these positions, in their order."""
    return [column[position] for position in positions] if isinstance(column, list) else column[positions]


def columns(rows: Rows) -> list[Column]:
    """What rows consist of."""
    return list(columns_of(plain(rows), "rows").values())


def with_columns(rows: Rows, columns: list[Column]) -> Rows:
    """Other columns in the form of these rows."""
    changed: Rows = tree_like(rows, dict(zip(columns_of(rows, "rows"), columns, strict=True)))
    return changed


def count_rows(rows: Rows) -> int:
    """How many there are."""
    return len(columns(rows)[0])


def _bytes(rows: Rows) -> int:
    return sum(_column_bytes(column) for column in columns(rows))


def _column_bytes(column: Column) -> int:
    if isinstance(column, list):
        return sum(array.nbytes for array in column)
    # Text lies elsewhere; a hundred bytes each is a guess that only bounds what is read ahead.
    return column.nbytes if not column.dtype.hasobject else 100 * column.size


def _joined(cuts: list[Rows]) -> Rows:
    by_name = [columns_of(plain(cut), "rows") for cut in cuts]
    whole = {name: _joined_columns([cut[name] for cut in by_name]) for name in by_name[0]}
    starts = np.cumsum([0, *map(count_rows, cuts)]).tolist()
    unfed = {start + at: why for start, cut in zip(starts, cuts, strict=False) for at, why in unfed_of(cut).items()}
    none = [np.zeros(count_rows(cut), np.bool_) for cut in cuts]
    nulls = {
        name: np.concatenate([nulls_of(cut).get(name, no) for cut, no in zip(cuts, none, strict=True)])
        for name in {name for cut in cuts for name in nulls_of(cut)}
    }
    return marked(tree_like(plain(cuts[0]), whole), unfed, nulls)


def _joined_columns(columns: list[Column]) -> Column:
    """One array, or a list of rows where their shapes differ."""
    arrays: list[Array] = [column for column in columns if not isinstance(column, list)]
    if len(arrays) == len(columns) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for column in columns for row in column]
