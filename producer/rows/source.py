"""What a data set is to the rest of the producer: rows to slice, or batches to read in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tasks.datasets.rows import Arrays, Batches
from worker_config.errors import InputError


@runtime_checkable
class Source(Protocol):
    """A data set whose rows can be taken by slices, in any order and more than once."""

    @property
    def label(self) -> str:
        """The data set, for people."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def row_bytes(self) -> float:
        """Average bytes of one row, all arrays together; for strings an estimate."""

    @property
    def path(self) -> Path | None:
        """The `.npy` file whose own bytes are what `take` gives; None where there is no such file."""

    def take(self, start: int, stop: int) -> Arrays:
        """The rows `[start, stop)`: arrays in C order and native byte order, text as object arrays.

        Raises:
            InputError: there are no such rows, or they cannot be read.
        """


@runtime_checkable
class BatchSource(Protocol):
    """A data set that is read in order, of known or unknown length."""

    @property
    def label(self) -> str:
        """The data set, for people."""

    @property
    def rows(self) -> int | None:
        """How many rows there are; None where nobody knows before the end."""

    def batches(self) -> Batches:
        """Read from the first row on; any number of rows at a time, also none, equally many in each column.

        A batch is the receiver's to keep: it does not change when the next one is read, and may be read-only. All
        batches have the same columns with the same dtypes; shapes of rows may differ from batch to batch.

        Raises:
            InputError: from the iterator, where the data cannot be read on; all rows before came first. At the call,
                where the data was read already and is not there twice.
        """


@dataclass(frozen=True)
class Table:
    """What a data set with columns by name has besides its rows; its attribute `table`.

    Attributes:
        names: the columns that it gives.
        only: gives the same data set of these columns alone, in this order; raises InputError where one is not there,
            or is of a type that no model takes.
        others: columns that it gives only to who names them, since no model takes them as they are, each with its type.
    """

    names: Sequence[str]
    only: Callable[[Sequence[str]], Source | BatchSource]
    others: Mapping[str, str] = field(default_factory=dict)


def table_of(source: Source | BatchSource) -> Table | None:
    """The columns of a data set; None where they have no names, or nobody knows them beforehand."""
    table: Table | None = getattr(source, "table", None)
    return table


def check_slice(start: int, stop: int, rows: int, label: str) -> None:
    """Refuse rows that a data set does not have."""
    if not 0 <= start <= stop <= rows:
        raise InputError(f"{label}: no rows {start}-{stop}, there are {rows}")
