"""One pass over a data set for a training loop: a job, and the batches that are cut from its parts.

the epoch's data set --submit--> Job --parts--> check, note failures, cut --> batches
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from producer.client import Client
from producer.job.job import Job
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.rows.part import Part
from producer.sources import BatchSource, Source
from producer.training.batch_specs import BatchSchema
from producer.training.cutter import Batch, Cutter
from producer.training.epoch_source import Numbers
from producer.training.failed_rows import FailedRows, of_data_set, renumbered_text
from producer.training.options import LoaderOptions
from tasks.datasets.columns import runs_of
from tasks.protocol.codec import Array
from tasks.protocol.messages import FailureRecord
from worker_config.errors import CeleriacError
from worker_config.retry_policy import CANCEL_SECONDS

logger: logging.Logger = logging.getLogger(__name__)

# Of outputs that wait for the trainer: with those in flight a few seconds of most training loops.
MAX_WAITING_BYTES = 64 * 2**20
# Twice a job's: batches wait in front of the trainer anyway, and its own process often shares the cores.
CHUNK_SECONDS = 0.5


class Epoch:
    """One epoch on its way; begins at once, as `job`.

    Args:
        source, numbers: the epoch's rows, in its order, and which rows of the data set they are.
        failed: where failure records are kept.
        cutter: a new one, which makes batches of parts.
    """

    def __init__(
        self,
        client: Client,
        options: LoaderOptions,
        number: int,
        source: Source | BatchSource,
        numbers: Numbers,
        schema: BatchSchema,
        failed: FailedRows,
        cutter: Cutter,
    ) -> None:
        self.number = number
        self._options, self._numbers, self._schema, self._failed = options, numbers, schema, failed
        self._cutter = cutter
        self._first: FailureRecord | None = None
        self.job: Job = client.submit(
            options.step,
            source,
            chunk_rows=options.chunk_rows,
            chunk_seconds=CHUNK_SECONDS,
            on_error=options.on_error,
            max_failed=options.max_failed,
            ordered=options.ordered,
            max_waiting_bytes=MAX_WAITING_BYTES,
        )

    @property
    def ledger(self) -> Ledger:
        """What became of the rows so far."""
        return self.job.ledger

    @property
    def sent(self) -> bool:
        """Whether workers have done all that is to do for it."""
        return self.job.wait(timeout_seconds=0) and self.job.state is JobState.DONE

    def batches(self) -> Iterator[Batch]:
        """The batches; when the last one is given, the job has ended. Errors name rows as those of the data set."""
        with closing(self):
            for part in self._parts():
                arrays = self._schema.check(part, self._where(part))
                with self._named():
                    ready = self._cutter.add(part, arrays)
                yield from map(self._checked, ready)
            self._warn_of_failures()
            with self._named():
                last = self._cutter.end()
            self.close()
            yield from map(self._checked, last)

    def numbers_of(self, positions: Array) -> Array:
        """Which rows of the data set these rows of the epoch are."""
        numbers = [self._numbers.of(start, stop) for start, stop in runs_of(positions)]
        return np.concatenate([np.empty(0, np.int64), *numbers])

    def close(self) -> None:
        """End it, wherever it is; nothing is left of it but the job's record. Harmless when it has ended."""
        self.job.cancel()
        if not self.job.wait(CANCEL_SECONDS):
            logger.info("job %s is cancelled, and still ending", self.job.id)

    def _parts(self) -> Iterator[Part]:
        try:
            for part in self.job.parts():
                for record in part.failed:
                    renumbered = of_data_set(record, self._numbers)
                    self._first = self._first or (renumbered[0] if renumbered else None)
                    self._failed.keep(renumbered)
                yield part
                self._numbers.forget(part.start, part.stop)
        except CeleriacError as error:
            records = self.job.failures()
            # Of rows that were taken, only those that are not forgotten; the others are kept already.
            self._failed.keep(one for record in records for one in of_data_set(record, self._numbers))
            text = renumbered_text(str(error), records, self._numbers)
            raise type(error)(f"{self._name}: {text}") from error

    @property
    def _name(self) -> str:
        return f"step {self._options.step}, epoch {self.number}"

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except CeleriacError as error:
            raise type(error)(f"{self._name}: {error}") from None

    def _where(self, part: Part) -> str:
        rows = self._numbers.of(part.start, part.stop)
        some = f"rows {rows.min()} to {rows.max()}" if len(rows) > 1 else f"row {rows[0]}" if len(rows) else "no rows"
        which = "" if len(rows) == 0 or rows.max() - rows.min() + 1 == len(rows) else f" ({len(rows)} of them)"
        return f"step {self._options.step}, {some} of the data set{which}"

    def _checked(self, batch: Batch) -> Batch:
        self._schema.check_rows(batch.rows, f"step {self._options.step}")
        return batch

    def _warn_of_failures(self) -> None:
        if failed := self.ledger.failed:
            logger.warning(
                "%s: %s of %s rows failed, the first that came: %s", self._name, failed, self.ledger.rows, self._first
            )
