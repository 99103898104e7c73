"""Data sets that a function reads; and how any data set is read, with its rows that cannot be fed marked or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from producer.rows.source import BatchSource, Source, Splits, Table, check_slice
from tasks.datasets.marked import all_fed
from tasks.datasets.rebatcher import until_unfed
from tasks.datasets.rows import Arrays, Batches, Rows
from tasks.protocol.codec import Array
from worker_config.errors import InputError


@dataclass(eq=False, repr=False)
class BatchReader:
    """A data set that a function reads; `once` where it cannot be read a second time.

    What is read may have marks of rows that no model can be given. `hint` is what to tell of a data set whose rows no
    model takes; `splits` are the same rows, where workers may read them themselves; `whole` is as of `whole_table_of`.
    """

    label: str
    rows: int | None
    read: Callable[[], Batches]
    once: bool = False
    table: Table | None = None
    hint: str = ""
    splits: Splits | None = None
    whole: Table | None = None
    _begun: bool = field(default=False, init=False)

    def batches(self) -> Batches:
        """Read from the first row on.

        Raises:
            InputError: see `BatchSource.batches`.
        """
        return until_unfed(self.marked_batches())

    def marked_batches(self) -> Batches:
        """The same, where a row that cannot be fed is marked, and is no end.

        Raises:
            InputError: see `BatchSource.batches`.
        """
        if self.once and self._begun:
            raise InputError(f"{self.label}: can be read only once, and was; make a new iterator for another job")
        self._begun = True
        return self.read()


@dataclass(eq=False, repr=False)
class SliceReader:
    """A data set of which a function reads the rows `[start, stop)`; see `Source`.

    What is read may have marks of rows that no model can be given. `frame` is the DataFrame or table that they are of;
    `pick` reads the rows of these numbers, in their order, where that is no slower than to read slices; `whole` is as
    of `whole_table_of`.
    """

    label: str
    rows: int
    row_bytes: float
    read: Callable[[int, int], Rows]
    table: Table | None = None
    splits: Splits | None = None
    frame: object = None
    pick: Callable[[Array], Rows] | None = None
    whole: Table | None = None
    path: Path | None = field(default=None, init=False)

    def take(self, start: int, stop: int) -> Arrays:
        """The rows `[start, stop)`.

        Raises:
            InputError: see `Source.take`.
        """
        return cast("Arrays", all_fed(self.take_marked(start, stop)))

    def take_marked(self, start: int, stop: int) -> Rows:
        """The same, where a row that cannot be fed is marked, and is no error."""
        check_slice(start, stop, self.rows, self.label)
        return self.read(start, stop)


def rows_between(source: Source, start: int, stop: int, *, goes_on: bool = True) -> Rows:
    """The rows `[start, stop)`: those that cannot be fed are marked, or, without `goes_on`, an InputError."""
    take = getattr(source, "take_marked", source.take) if goes_on else source.take
    return cast("Rows", take(start, stop))


def batches_of(source: BatchSource, *, goes_on: bool = True) -> Batches:
    """The batches: rows that cannot be fed are marked, or, without `goes_on`, an InputError."""
    read = getattr(source, "marked_batches", source.batches) if goes_on else source.batches
    return cast("Batches", read())
