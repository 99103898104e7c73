"""What a data set is to the rest of the producer: rows to slice, or batches to read in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tasks.datasets.rows import Arrays, Batches
from tasks.protocol.codec import Array
from tasks.protocol.split_ref import SplitRef
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


@runtime_checkable
class SplitData(Source, Protocol):
    """A source whose rows stand in files that can be cut, so that workers may read them themselves."""

    def in_place(self) -> SplitRef | str:
        """Where all rows stand; or why workers cannot read them there."""

    def only(self, names: Sequence[str]) -> SplitData:
        """The same data set of these columns alone, which it has."""

    def with_made(self, made: Mapping[str, Sequence[str]]) -> SplitData:
        """The same data set of inputs that are made of its columns."""

    def cut_rows(self, start: int, rows: int, *, fixed: bool) -> int:
        """How many rows the chunk from `start` on has, where about `rows` are wanted, or with `fixed` at most these."""


@dataclass(frozen=True)
class Table:
    """What a data set with columns by name has besides its rows; its attribute `table`.

    Attributes:
        names: the columns that it gives.
        only: gives the same data set of these columns alone, in this order; raises InputError where one is not there,
            or is of a type that no model takes.
        others: columns that it gives only to who names them, since no model takes them as they are, each with its type.
        matrix: gives columns that stand side by side in memory as one array, a view; None where they do not.
    """

    names: Sequence[str]
    only: Callable[[Sequence[str]], Source | BatchSource]
    others: Mapping[str, str] = field(default_factory=dict)
    matrix: Callable[[Sequence[str]], Array | None] = lambda _: None


@dataclass(frozen=True)
class Splits:
    """What a data set whose rows workers may read themselves offers to a job; its attribute `splits`.

    Attributes:
        format: of its files.
        paths: gives those of all its files.
        open: gives the same rows as `SplitData`, from which they can be taken wherever they stand; this may take a pass
            over the files. Raises InputError where they cannot be read.
    """

    format: str
    paths: Callable[[], Iterable[str]]
    open: Callable[[], SplitData]

    def of(self, change: Callable[[SplitData], SplitData]) -> Splits:
        """The same, of rows that are changed so."""
        return Splits(self.format, self.paths, lambda: change(self.open()))


def splits_of(source: Source | BatchSource) -> Splits | None:
    """What workers may read themselves; None where the rows stand in no files that can be cut."""
    splits: Splits | None = getattr(source, "splits", None)
    return splits


def table_of(source: Source | BatchSource) -> Table | None:
    """The columns of a data set; None where they have no names, or nobody knows them beforehand."""
    table: Table | None = getattr(source, "table", None)
    return table


def whole_table_of(source: Source | BatchSource) -> Table | None:
    """The columns that may stand beside its predictions: also of a data set that inputs were made of; None as above."""
    whole: Table | None = getattr(source, "whole", None)
    return whole or table_of(source)


def frame_of(source: Source | BatchSource) -> object:
    """The DataFrame or table that the rows were given as; None of all else."""
    return getattr(source, "frame", None)


def check_slice(start: int, stop: int, rows: int, label: str) -> None:
    """Refuse rows that a data set does not have."""
    if not 0 <= start <= stop <= rows:
        raise InputError(f"{label}: no rows {start}-{stop}, there are {rows}")
