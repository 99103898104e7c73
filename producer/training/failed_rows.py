"""Failure records in the numbers of the data set, whatever the order of the epoch was."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec
import numpy as np

from producer.training.epoch_source import Numbers
from tasks.datasets.columns import runs_of
from tasks.protocol.messages import FailureRecord

MOST_KEPT = 1_000


class FailedRows:
    """The failures of all epochs, a row that fails in each of them once; `more` came than are kept. For any thread."""

    more: int

    def __init__(self) -> None:
        self.more = 0
        self._records: dict[tuple[int, int], FailureRecord] = {}
        self._lock = threading.RLock()

    def keep(self, records: Iterable[FailureRecord]) -> None:
        """Take records in the numbers of the data set."""
        with self._lock:
            for record in records:
                rows = record.start, record.stop
                if rows in self._records or len(self._records) < MOST_KEPT:
                    self._records[rows] = record
                else:
                    self.more += 1

    def in_order(self) -> list[FailureRecord]:
        """The records by their rows."""
        with self._lock:
            return [record for _, record in sorted(self._records.items())]


def of_data_set(record: FailureRecord, numbers: Numbers) -> list[FailureRecord]:
    """The record of rows of an epoch as records of rows of the data set, one for each run of them."""
    rows = np.sort(numbers.of(record.start, record.stop))
    return [msgspec.structs.replace(record, start=start, stop=stop) for start, stop in runs_of(rows)]


def renumbered_text(text: str, records: Iterable[FailureRecord], numbers: Numbers) -> str:
    """The text of an error with the rows of the data set in the place of those of the epoch."""
    for record in records:
        if str(record) in text and (renumbered := of_data_set(record, numbers)):
            more = sum(one.stop - one.start for one in renumbered[1:])
            rows = renumbered[0].rows + (f" and {more} more" if more else "")
            text = text.replace(str(record), str(record).replace(record.rows, f"{rows} of the data set", 1))
    return text
