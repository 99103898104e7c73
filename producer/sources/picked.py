"""Some rows of a data set, in any order, as a data set of their own.

numbers of rows --sorted, those that follow each other at once--> Source.take --> rows in the order of the numbers
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np

from producer.rows.readers import BatchReader, SliceReader, batches_of, rows_between
from producer.rows.source import BatchSource, Source, Table, table_of, whole_table_of
from tasks.datasets.columns import runs_of
from tasks.datasets.rebatcher import Rebatcher, pick_rows, picked
from tasks.datasets.rows import Batches, Rows
from tasks.protocol.codec import Array


def pick(source: Source | BatchSource, rows: Array) -> Source | BatchSource:
    """The data set of these rows alone, which are given in ascending order, each one once."""
    label = f"{len(rows)} rows of {source.label}"
    table, whole = _picked_table(table_of(source), rows), _picked_table(whole_table_of(source), rows)
    if isinstance(source, Source):
        return PickedRows(label, source, rows, table=table, whole=whole)
    return BatchReader(label, len(rows), lambda: _read(source, rows), table=table, whole=whole)


def _picked_table(table: Table | None, rows: Array) -> Table | None:
    return table and replace(table, only=lambda names: pick(table.only(names), rows))


class PickedRows(SliceReader):
    """Rows of a data set that is taken by slices.

    Args:
        order: the numbers of the rows, each one once.
        lock: one thread at a time takes them, whatever others read of the same data set with this lock: sources keep
            what they read last.
    """

    def __init__(
        self,
        label: str,
        source: Source,
        order: Array | range,
        lock: threading.RLock | None = None,
        table: Table | None = None,
        whole: Table | None = None,
    ) -> None:
        self._order, lock = order, lock or threading.RLock()

        def read(start: int, stop: int) -> Rows:
            with lock:
                return _picked(source, order[start:stop])

        super().__init__(label, len(order), source.row_bytes, read, table, whole=whole)

    def of(self, start: int, stop: int) -> Array:
        """Which rows of the data set the rows `[start, stop)` of the order are."""
        return np.asarray(self._order[start:stop], np.int64)

    def forget(self, start: int, stop: int) -> None:
        """Nobody asks for these again; the order has them all anyway."""


def _picked(source: Source, order: Array | range) -> Rows:
    """Rows that follow each other are read at once."""
    if not len(order):
        return rows_between(source, 0, 0)
    if isinstance(order, range):
        return rows_between(source, order.start, order.stop)
    if pick := getattr(source, "pick", None):
        picked_rows: Rows = pick(np.asarray(order, np.int64))
        return picked_rows
    by_place = np.argsort(order)
    rebatcher = Rebatcher()
    for first, last in runs_of(order[by_place]):
        rebatcher.add(rows_between(source, first, last))
    rows, _ = rebatcher.take(len(order))
    return picked(rows, np.argsort(by_place))


def _read(source: BatchSource, rows: Array) -> Batches:
    with closing(batches_of(source)) as batches:
        yield from pick_rows(batches, rows)
