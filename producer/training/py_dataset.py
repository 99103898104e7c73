"""Batches for Keras by index, as a `keras.utils.PyDataset`; Keras is imported when one is asked for.

    index --the first time--> the next batch that came, which is its batch for this epoch
          --once more-------> the same one: kept, if it was asked for ahead of the epoch, else made anew

Keras looks at the first indexes before the epoch, may shuffle them, and asks in several threads. So that workers can
run ahead, batches come in the loader's order; an index not far ahead has its own, any other one the next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from producer.rows.part import OutputTree
from producer.training.cutter import Batch
from producer.training.epoch import Epoch
from producer.training.order import Order
from tasks.protocol.codec import Array
from worker_config.errors import CeleriacError, UsageError
from worker_config.foreign_errors import import_optional

# How far ahead an index may be for its own batch to be awaited: threads do not ask quite in order.
MOST_AHEAD = 8
# Batches that Keras looks at before it asks for all of them.
PEEKED = 2


class EpochFeed(Protocol):
    """What is asked of a `Loader`."""

    def _begin(self) -> Epoch: ...
    def _end(self, begun: Epoch) -> None: ...
    def _outputs_of(self, numbers: Array) -> OutputTree: ...


class IndexedBatches:
    """The batches of a loader by index, each row once in an epoch; for several threads."""

    def __init__(self, loader: EpochFeed, batches: int) -> None:
        self.batches = batches
        self._loader = loader
        self._lock = threading.RLock()
        self._epoch: Epoch | None = None
        self._coming: Iterator[Batch] | None = None
        self._came = 0
        self._ahead: dict[int, Batch] = {}  # came, and no index has them yet
        # What each index has got: which rows, and their outputs, if they may soon be asked for again.
        self._assigned: dict[int, tuple[Order, OutputTree | None]] = {}

    def get(self, index: int) -> OutputTree:
        """The batch of an index, in this epoch; IndexError where there is none."""
        if not 0 <= index < self.batches:
            raise IndexError(f"no batch {index}, there are {self.batches}")
        with self._lock:
            if index not in self._assigned:
                batch = self._next(index)
                kept = batch.tree if len(self._assigned) < PEEKED else None
                self._assigned[index] = batch.positions, kept
                return batch.tree
            positions, kept = self._assigned[index]
            return self._remade(positions) if kept is None else kept

    def end_epoch(self) -> None:
        """The next epoch comes next, if all batches of this one were given; else it goes on, as Keras' iterators do.

        Keras asks in threads that it starts before it says that an epoch begins, so nothing is made of that.
        """
        with self._lock:
            if len(self._assigned) == self.batches:
                self.close()

    def close(self) -> None:
        """End the epoch, wherever it is; nothing is left of it."""
        with self._lock:
            ending, self._epoch, self._coming = self._epoch, None, None
            self._came = 0
            self._ahead.clear()
            self._assigned.clear()
        if ending is not None:
            self._loader._end(ending)

    def _next(self, index: int) -> Batch:
        if self._epoch is None:
            self._epoch = self._loader._begin()
            self._coming = iter(self._epoch.batches())
        if index in self._ahead:
            return self._ahead.pop(index)
        if index < self._came or index - self._came > MOST_AHEAD:
            index = min(self._ahead, default=self._came)
        while index not in self._ahead:
            try:
                batch = next(self._coming) if self._coming is not None else None
            except StopIteration:
                batch = None
            except BaseException:
                self.close()  # what is asked for next is of another epoch
                raise
            if batch is None:
                raise CeleriacError(f"a bug in Celeriac: only {self._came} of {self.batches} batches came")
            self._ahead[self._came] = batch
            self._came += 1
        return self._ahead.pop(index)

    def _remade(self, positions: Order) -> OutputTree:
        assert self._epoch is not None  # noqa: S101 - it gave the batch
        return self._loader._outputs_of(self._epoch.numbers_of(np.asarray(positions, np.int64)))


def py_dataset_of(loader: EpochFeed, batches: int, workers: int, max_queue_size: int) -> Any:
    """The batches of a loader, so many in an epoch, as a `keras.utils.PyDataset`; see `producer.py_dataset`."""
    base: Any = import_optional("keras", "worker").utils.PyDataset
    indexed = IndexedBatches(loader, batches)

    class FedDataset(base):  # type: ignore[misc]
        """Batches of a step's outputs, by index."""

        def __init__(self) -> None:
            super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=max_queue_size)
            self.loader = loader

        def __len__(self) -> int:
            return indexed.batches

        def __getitem__(self, index: int) -> OutputTree:
            return indexed.get(int(index))

        def __reduce__(self) -> Any:
            raise UsageError("this PyDataset cannot go to another process: its job and its threads stay in this one")

        @property
        def use_multiprocessing(self) -> bool:
            return False

        @use_multiprocessing.setter
        def use_multiprocessing(self, value: bool) -> None:
            if value:
                raise UsageError("use_multiprocessing is not for this PyDataset: the workers are its processes")

        def on_epoch_end(self) -> None:
            indexed.end_epoch()

        def close(self) -> None:
            """End what is under way."""
            indexed.close()

        def __del__(self) -> None:
            indexed.close()

    return FedDataset()
