"""This module gives batches to TensorFlow, as a `tf.data.Dataset`; TensorFlow is imported when one is wanted.

batches --generator, in a thread of tf.data--> tensors --prefetch--> the training loop
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from producer.client import Client
from producer.detached.detached_job import DetachedJob
from producer.job.job import Job
from producer.rows.part import OutputTree, Part, flatten
from producer.rows.read_errors import import_optional
from producer.training import batch_specs
from producer.training.cutter import Batch, Cutter
from producer.training.loader import Loader
from tasks.protocol.trees import leaves_of
from worker_config.errors import CeleriacError, InputError, UsageError

logger = logging.getLogger(__name__)

# One batch becomes tensors while the trainer has another; more wait as parts, whose bytes are bounded.
PREFETCHED = 2
# As tf.data.INFINITE_CARDINALITY.
INFINITE = -1


def dataset_of(loader: Loader) -> Any:
    """The batches of a loader as a `tf.data.Dataset`; see `producer.tf_dataset`."""
    spec = loader.element_spec
    per_epoch = loader.batches_per_epoch
    cardinality = per_epoch
    if per_epoch is not None:
        cardinality = INFINITE if loader.epochs is None else loader.epochs * per_epoch
    elif loader.epochs is None:
        cardinality = INFINITE
    return _dataset(lambda: iter(loader), spec, cardinality, f"step {loader.step}")


def tf_dataset(client: Client, step: str, source: object, **wanted: Any) -> Any:
    """A training loop's batches as a `tf.data.Dataset`, made by workers; `model.fit` takes it as it is.

    Each iteration over it, so each epoch of `fit`, is one of `Loader`. Its element_spec leaves the batch's axis open;
    its cardinality is known where `len` of the loader is. Text is tf.string. What goes wrong is the text of an error of
    TensorFlow's, and a line in the log. An iterator that is deleted cancels its job; after an exception in `fit` that
    may wait for Python's garbage collection, or for `Loader.close`.

    Args:
        client, step, source, wanted: as for `Loader`.

    Raises:
        UsageError, InputError, RowsFailedError, UnknownModelError, NoWorkerError, BrokerError: as `Loader`, and as its
            `element_spec`.
        ConfigError: TensorFlow is not installed.
    """
    return dataset_of(Loader(client, step, source, **wanted))


def tf_outputs(job: Job | DetachedJob, *, batch_rows: int, element_spec: Any = None) -> Any:
    """The outputs of a job, finished or running, as a `tf.data.Dataset` of batches.

    Of a `DetachedJob`, and of a `Job` whose `result` was taken, as often as wanted; the parts of another `Job` come
    once. Where the number of rows is known, and none can be skipped, the cardinality is.

    Args:
        job: what `Client.submit` or `Client.attach` gave.
        batch_rows: rows of a batch; the last one may have fewer.
        element_spec: what batches look like, as for `Loader`; learnt from the first part if left out, which waits for
            it.

    Raises:
        UsageError: the parts were taken before; from the iterator, when they are to be taken a second time.
        RowsFailedError, JobCancelledError, NoWorkerError, BrokerError: the first part did not come.
    """
    if batch_rows < 1:
        raise UsageError(f"batch_rows is {batch_rows}; it must be at least 1")
    parts = _Parts(job)
    known = batch_specs.given(element_spec) if element_spec is not None else parts.learn()
    rows = job.rows_out

    def batches() -> Generator[OutputTree, None, None]:
        cutter = Cutter(batch_rows, refill=True)
        for part in parts.take():
            where = f"job {job.id}, rows {part.start}-{part.stop}"
            arrays = flatten(part)
            if part.rows:
                batch_specs.check(known, arrays, where)
            yield from map(_tree, cutter.add(part, arrays))
        yield from map(_tree, cutter.end())

    return _dataset(batches, batch_specs.as_tree(known), None if rows is None else math.ceil(rows / batch_rows), job.id)


class _Parts:
    """The parts of a job, of which the first can be looked at; from the result, where it was taken."""

    def __init__(self, job: Job | DetachedJob) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._peeked: list[Part] = []
        self._gone = isinstance(job, Job) and job.begun

    def learn(self) -> batch_specs.Specs:
        """What batches look like, from the first part that has rows.

        Raises:
            InputError: there is none.
            UsageError: the parts were taken before.
        """
        with closing(self._open()) as parts:
            for part in parts:
                self._peeked.append(part)
                if part.rows:
                    break
        if not self._peeked:
            raise InputError(f"job {self._job.id} has no parts that would show what batches look like")
        return batch_specs.learnt(flatten(self._peeked[-1]))

    def take(self) -> Iterator[Part]:
        """All parts; of a job that gives them once, once."""
        with self._lock:
            again = isinstance(self._job, DetachedJob) or self._job.whole is not None
            peeked, self._peeked = ([] if again else self._peeked), []
            parts = self._open()
            self._gone = not again
        yield from peeked
        yield from parts

    def _open(self) -> Generator[Part, None, None]:
        job = self._job
        if isinstance(job, DetachedJob):
            return job.parts()
        if self._gone and job.whole is None:
            raise UsageError(
                f"the outputs of job {job.id} come once, and were taken; call its result() first, or cache the data set"
            )
        return self._of(job)

    def _of(self, job: Job) -> Generator[Part, None, None]:
        if job.whole is None:
            for part in job.parts():  # noqa: UP028 - closing this one must leave the job's own be
                yield part
        else:
            rows = len(next(iter(dict(leaves_of(job.whole)).values())))
            yield Part(0, 0, rows, job.whole)


def _tree(batch: Batch) -> OutputTree:
    return batch.tree


def _dataset(begin: Callable[[], Iterator[OutputTree]], spec: Any, cardinality: int | None, what: str) -> Any:
    """A data set of what `begin` gives for each iteration; `cardinality` is None where unknown."""
    tf = import_optional("tensorflow", "worker")

    def signature(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: signature(branch) for name, branch in tree.items()}
        if isinstance(tree, tuple):
            return tuple(map(signature, tree))
        return tf.TensorSpec(tree.shape, tf.string if tree.dtype.hasobject else tf.as_dtype(tree.dtype))

    def batches() -> Generator[OutputTree, None, None]:
        try:
            yield from begin()
        except CeleriacError as error:
            logger.error("%s: %s", what, error)
            # TensorFlow tells the whole traceback after the text: one error, not all that led to it.
            raise type(error)(str(error)) from None

    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature(spec))
    if cardinality is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    return dataset.prefetch(PREFETCHED)
