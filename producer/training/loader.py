"""Batches of what a step makes of a data set for a training loop, epoch after epoch.

data set --order of the epoch--> Epoch --> batches as trees of arrays --> the trainer
                                 Epoch that follows, begun when the workers would idle
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from itertools import count
from typing import Any, Self, cast

import numpy as np

from producer.client import Client
from producer.records.ledger import Ledger, summed
from producer.rows.part import OutputTree, flatten
from producer.rows.readers import BatchReader
from producer.sources import ArraySource, BatchSource, Source, open_source
from producer.sources.choose import for_models
from producer.sources.picked import PickedRows
from producer.training.batch_specs import BatchSchema, Specs, inferred
from producer.training.cutter import Batch, Cutter
from producer.training.epoch import Epoch
from producer.training.epoch_source import Numbers, Stream
from producer.training.failed_rows import FailedRows
from producer.training.options import LoaderOptions
from producer.training.order import epoch_order, random_of, shard_rows
from producer.training.py_dataset import py_dataset_of
from producer.training.tf_dataset import INFINITE, dataset_of
from tasks.datasets.rebatcher import count_rows, picked
from tasks.protocol.messages import FailureRecord, OnError
from worker_config.errors import CeleriacError, InputError, RowsFailedError, UnknownLengthError, UsageError
from worker_config.retry_policy import CANCEL_SECONDS

# Rows of which the first outputs are learnt: one is enough, unless it fails or is dropped.
PROBED_ROWS = (1, 16, 256)


class Loader:
    """Batches of a step's outputs, for a training loop; as trees of NumPy arrays, for any framework.

    Each iteration is one pass over the data set, or `epochs` of them, and goes on with the number of the next epoch.
    Stopping in the middle cancels what is under way.

    Args:
        client: whose workers run the step.
        step: a name of the manifest: a model, or a function.
        source: the data set, as for `Client.submit`.
        batch_rows: rows of a batch: so many of the epoch's order, less those that failed and are skipped. Should all
            of a batch fail, another one is split, so that there are as many as `len` says. Of a step that drops rows
            on purpose all batches but the last are full, and nobody knows how many there will be.
        shuffle: True for another permutation of all rows in each epoch, for data sets whose rows can be taken by
            slices; a number for a shuffle buffer of so many rows, for those that are read in order, and wherever rows
            far from each other are dear to read.
        seed: what is shuffled with; the order of an epoch depends on it and on the epoch's number alone.
        epochs: passes of one iteration; None for passes without end.
        shard: `(index, count)` for one of several trainers: each row comes to one of them in each epoch. The seed must
            be the same for all. Their rows differ in number by one at most.
        ordered: batches in the epoch's order, the same in each run; else as they are ready, each row once.
        on_error, max_failed: as for `Client.submit`, for each epoch.
        chunk_rows: rows of one task; measured if left out.
        element_spec: what batches look like, a tree of `ArraySpec` or `tf.TensorSpec` with the batch's axis first;
            learnt from the first outputs if left out.

    Attributes:
        epoch: the number of the next pass, from 0; may be set, for a training that goes on.

    Raises:
        UsageError: an argument is wrong, or the data set cannot be shuffled as a whole.
        InputError: the data set cannot be read.
        UnknownModelError, NoWorkerError: no worker has the step.
        BrokerError: Redis cannot be reached.
    """

    def __init__(
        self,
        client: Client,
        step: str,
        source: object,
        *,
        batch_rows: int,
        shuffle: bool | int = False,
        seed: int = 0,
        epochs: int | None = 1,
        shard: tuple[int, int] = (0, 1),
        ordered: bool = True,
        on_error: OnError = "skip",
        max_failed: int | str | None = None,
        chunk_rows: int | None = None,
        element_spec: Any = None,
    ) -> None:
        self._options = LoaderOptions(
            step, batch_rows, shuffle, int(seed), epochs, shard, ordered, on_error, max_failed, chunk_rows
        )
        self.epoch: int = 0
        self._client = client
        (info,) = client.describe(step)
        opened = for_models(open_source(source), [info])
        if shuffle is True and not isinstance(opened, Source):
            raise UsageError(
                f"{opened.label}: is read in order, so its rows cannot be permuted as a whole; give shuffle a number "
                "of rows for a shuffle buffer, such as shuffle=10_000, or save the data set as .npy"
            )
        self._source: Source | Stream = opened if isinstance(opened, Source) else Stream(opened)
        self._refill = info.drops_rows
        self._schema = BatchSchema(element_spec)
        self._failed = FailedRows()
        self._lock = threading.RLock()  # a generator may be closed wherever its thread happens to be
        self._reading = threading.RLock()
        self._ended = Ledger()
        self._passes: list[Epoch] = []

    def __iter__(self) -> Iterator[Any]:
        """The batches of one pass, or of `epochs` passes.

        Raises:
            RowsFailedError: rows failed, and `on_error` or `max_failed` says that this is the end.
            MessageError: the step's outputs changed their form.
            InputError, NoWorkerError, BrokerError: the data set, the workers or Redis have gone.
        """
        return self._iterate()

    def __len__(self) -> int:
        """How many batches an iteration has; UnknownLengthError where nobody knows."""
        batches = self.batches_per_epoch
        if batches is None:
            why = "drops rows on purpose" if self._refill else "reads a data set of unknown length"
            raise UnknownLengthError(f"nobody knows how many batches there are: step {self._options.step} {why}")
        if self._options.epochs is None:
            raise UnknownLengthError("this loader has no end (epochs=None); batches_per_epoch tells those of one pass")
        return self._options.epochs * batches

    @property
    def batches_per_epoch(self) -> int | None:
        """How many batches one pass has; None where nobody knows."""
        rows = self.rows
        return None if rows is None or self._refill else math.ceil(rows / self._options.batch_rows)

    @property
    def rows(self) -> int | None:
        """Rows of one pass of this shard; None where nobody knows."""
        if isinstance(self._source, Source) and self._options.shuffle is not True:
            index, shards = self._options.shard
            return self._source.rows * (index + 1) // shards - self._source.rows * index // shards
        return None if self._source.rows is None else shard_rows(self._source.rows, self._options.shard)

    @property
    def epochs(self) -> int | None:
        """Passes of one iteration; None where they have no end."""
        return self._options.epochs

    @property
    def step(self) -> str:
        """What makes the batches."""
        return self._options.step

    @property
    def element_spec(self) -> Any:
        """A batch as a tree of `ArraySpec`; the first row is sent through the step to learn it, if need be.

        Raises:
            InputError: there are no rows to learn it from.
            RowsFailedError: the first rows all fail.
        """
        if self._schema.specs is None:
            self._schema.specs = self._learn()
        return self._schema.tree

    @property
    def ledger(self) -> Ledger:
        """What became of the rows, of all epochs so far together."""
        with self._lock:
            return summed([self._ended, *(one.ledger for one in self._passes)])

    def failures(self) -> list[FailureRecord]:
        """Rows of the data set that failed, in any epoch, and why; the first 1,000."""
        return self._failed.in_order()

    @property
    def more_failures(self) -> int:
        """How many records there were beyond those that `failures` has."""
        return self._failed.more

    def tf_dataset(self) -> Any:
        """The batches as a `tf.data.Dataset`; see `producer.tf_dataset`."""
        batches = self.batches_per_epoch
        cardinality = INFINITE if self.epochs is None else batches and self.epochs * batches
        return dataset_of(self.__iter__, self.element_spec, cardinality, f"step {self.step}")

    def py_dataset(self, *, workers: int = 1, max_queue_size: int = 10) -> Any:
        """The batches as a `keras.utils.PyDataset`; see `producer.py_dataset`."""
        if self.epochs != 1:
            raise UsageError("a PyDataset is one pass for each epoch of fit; leave epochs out")
        if self.batches_per_epoch is None:
            raise UsageError(
                f"nobody knows how many batches of step {self.step} there will be, and a PyDataset must say so; "
                "use Loader.tf_dataset"
            )
        return py_dataset_of(self, self.batches_per_epoch, workers, max_queue_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every pass that is under way, and wait until nothing of it is left; the loader can be used again."""
        with self._lock:
            passes = list(self._passes)
        for one in passes:
            self._end(one)

    def _begin(self) -> Epoch:
        """Begin the next epoch; `_end` must follow."""
        with self._lock:
            epoch, self.epoch = self.epoch, self.epoch + 1
        try:
            source, numbers = self._of_epoch(epoch)
            cutter = Cutter(self._options.batch_rows, refill=self._refill, counted=self.rows is not None)
            begun = Epoch(self._client, self._options, epoch, source, numbers, self._schema, self._failed, cutter)
        except BaseException:
            self._give_back(epoch)
            raise
        with self._lock:
            self._passes.append(begun)
        return begun

    def _end(self, begun: Epoch) -> None:
        """End an epoch, wherever it is."""
        begun.close()
        with self._lock:
            if begun in self._passes:
                self._passes.remove(begun)
                self._ended = summed([self._ended, begun.ledger])

    def _rows_of(self, numbers: Any) -> Source:
        """Some rows of the data set, in the order of their numbers; UsageError where they have gone by."""
        if not isinstance(self._source, Source):
            raise UsageError(
                f"{self._source.label}: is read in order, and a batch that was given before cannot be had again; "
                "save the data set as .npy, or use Loader.tf_dataset"
            )
        label = f"{len(numbers)} rows of {self._source.label}"
        return PickedRows(label, self._source, numbers, self._reading)

    def _outputs_of(self, numbers: Any) -> OutputTree:
        """What the step makes of some rows of the data set, once more; those that fail are left out, or filled."""
        return self._client.predict(
            self._options.step, self._rows_of(numbers), on_error=self._options.on_error, max_failed=None
        )

    def _iterate(self) -> Generator[OutputTree, None, None]:
        if self.rows == 0:
            return  # no job for an epoch without rows, and no end of such epochs
        current = ahead = None
        try:
            for number in count() if self._options.epochs is None else range(self._options.epochs):
                current, ahead = ahead or self._begin(), None
                batches = 0
                with closing(cast("Generator[Batch, None, None]", current.batches())) as ready:
                    for batch in ready:
                        batches += 1
                        # Workers would idle until this epoch's last batch is taken.
                        if ahead is None and current.sent and number + 1 != self._options.epochs:
                            with suppress(CeleriacError):  # it comes again when its turn comes
                                ahead = self._begin()
                        yield batch.tree
                self._end(current)
                if not batches and self._options.epochs is None:
                    return  # passes without batches would have no end
        finally:
            if current is not None:
                self._end(current)
            if ahead is not None:
                self._end(ahead)
                self._give_back(ahead.number)

    def _give_back(self, epoch: int) -> None:
        """The number of an epoch of which nobody has seen a batch."""
        with self._lock:
            if self.epoch == epoch + 1:
                self.epoch = epoch

    def _of_epoch(self, epoch: int) -> tuple[Source | BatchSource, Numbers]:
        shuffle, seed, shard = self._options.shuffle, self._options.seed, self._options.shard
        label = self._source.label
        if isinstance(self._source, Stream):
            label += f", epoch {epoch}" if shuffle or shard[1] > 1 else ""
            return self._source.epoch(label, shard, int(shuffle), random_of(seed, epoch))
        order = epoch_order(self._source.rows, shuffle, seed, epoch, shard)
        label += "" if isinstance(order, range) else f", in the order of epoch {epoch}"
        rows = PickedRows(label, self._source, order, self._reading)
        whole = isinstance(order, range) and len(order) == self._source.rows
        # Arrays as they are: workers may read their file themselves.
        return (self._source if whole and isinstance(self._source, ArraySource) else rows), rows

    def _learn(self) -> Specs:
        failed: RowsFailedError | None = None
        for rows in PROBED_ROWS:
            source = self._first_rows(rows)
            if source is None:
                raise InputError(
                    f"{self._source.label}: has no rows that would show what batches look like; give element_spec"
                )
            job = self._client.submit(self._options.step, source, on_error="skip")
            try:
                for part in job.parts():
                    if part.rows:
                        return inferred(flatten(part))
            except RowsFailedError as error:
                failed = error
            finally:
                job.cancel()
                job.wait(CANCEL_SECONDS)
        raise RowsFailedError(
            f"the first rows of {self._source.label} show no outputs of step {self._options.step}: "
            f"{failed or 'all are dropped'}; give element_spec"
        )

    def _first_rows(self, rows: int) -> Source | BatchSource | None:
        if isinstance(self._source, Source):
            most = min(rows, self._source.rows)
            return self._rows_of(range(most)) if most else None
        first = self._source.peek()
        if first is None:
            return None
        few = picked(first, np.arange(min(rows, count_rows(first))))
        return BatchReader(self._source.label, None, lambda: (one for one in [few]))
