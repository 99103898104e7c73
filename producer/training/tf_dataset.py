"""Batches for TensorFlow, as a `tf.data.Dataset`; TensorFlow is imported when one is asked for.

batches --generator, in a thread of tf.data--> tensors --prefetch--> the training loop
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from producer.detached.detached_job import DetachedJob
from producer.job.job import Job
from producer.rows.part import OutputTree, Part, flatten
from producer.training.batch_specs import BatchSchema, inferred
from producer.training.cutter import Cutter
from tasks.protocol.codec import leaves_of
from worker_config.errors import CeleriacError, InputError, UsageError
from worker_config.foreign_errors import import_optional

logger: logging.Logger = logging.getLogger(__name__)

# One batch becomes tensors while the trainer has another; more wait as parts, whose bytes are bounded.
PREFETCHED = 2
# As tf.data.INFINITE_CARDINALITY.
INFINITE = -1


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
    parts, schema, rows = _Parts(job), BatchSchema(element_spec), job.rows_out
    if schema.specs is None:
        parts.learn(schema)

    def batches() -> Generator[OutputTree, None, None]:
        cutter = Cutter(batch_rows, refill=True)
        for part in parts.read():
            arrays = schema.check(part, f"job {job.id}, rows {part.start}-{part.stop}")
            yield from (batch.tree for batch in cutter.add(part, arrays))
        yield from (batch.tree for batch in cutter.end())

    return dataset_of(batches, schema.tree, None if rows is None else math.ceil(rows / batch_rows), job.id)


class _Parts:
    """The parts of a job, of which the first can be looked at; from the result, where it was taken."""

    def __init__(self, job: Job | DetachedJob) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._peeked: list[Part] = []
        self._gone = isinstance(job, Job) and job.begun

    def learn(self, schema: BatchSchema) -> None:
        """Have the schema see what batches look like, from the first part that has rows."""
        with closing(self._open()) as parts:
            for part in parts:
                self._peeked.append(part)
                if part.rows:
                    break
        if not self._peeked:
            raise InputError(f"job {self._job.id} has no parts that would show what batches look like")
        schema.specs = inferred(flatten(self._peeked[-1]))

    def read(self) -> Iterator[Part]:
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


def dataset_of(begin: Callable[[], Iterator[OutputTree]], spec: Any, cardinality: int | None, what: str) -> Any:
    """A `tf.data.Dataset` of what `begin` gives for each iteration; `cardinality` is None where unknown."""
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
