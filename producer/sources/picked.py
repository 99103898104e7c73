"""This module makes a data set of some rows of another one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from producer.rows.columns import runs_of
from producer.rows.part import Array
from producer.rows.rebatcher import Rebatcher, pick_rows
from producer.rows.source import Arrays, Batches, BatchReader, BatchSource, Rows, Source
from producer.sources.arrays import check_slice


def pick(source: Source | BatchSource, rows: Array) -> Source | BatchSource:
    """The data set of these rows alone, which are given in ascending order, each one once."""
    label = f"{len(rows)} rows of {source.label}"
    if isinstance(source, Source):
        return PickedRows(label, len(rows), source.row_bytes, source, rows)
    return BatchReader(label, len(rows), lambda: _read(source, rows))


@dataclass(frozen=True, slots=True, eq=False)
class PickedRows:
    """Some rows of a data set that is taken by slices; see `producer.rows.source.Source`."""

    label: str
    rows: int
    row_bytes: float
    _source: Source
    _picked: Array
    path: Path | None = None

    def take(self, start: int, stop: int) -> Arrays:
        """The rows `[start, stop)` of those that were picked; rows that follow each other are taken at once.

        Raises:
            InputError: there are no such rows, or they cannot be read.
        """
        check_slice(start, stop, self.rows, self.label)
        if start == stop:
            return self._source.take(0, 0)
        pieces = Rebatcher()
        for first, last in runs_of(self._picked[start:stop]):
            pieces.add(cast("Rows", self._source.take(first, last)))
        taken, _ = pieces.take(stop - start)
        return cast("Arrays", taken)


def _read(source: BatchSource, rows: Array) -> Batches:
    with closing(source.batches()) as batches:
        yield from pick_rows(batches, rows)
