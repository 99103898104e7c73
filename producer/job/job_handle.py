"""What an attached and a detached job have in common for whoever holds one: how far it is, its parts, its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from producer.records import job_view
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.records.progress import Progress, progress_of
from producer.rows.part import OutputTree, Part
from tasks.protocol.messages import Differed, FailureRecord
from tasks.protocol.records import JobRecord
from worker_config.errors import CeleriacError


class JobHandle(ABC):
    """A job, attached to this process (`Job`) or left in Redis (`DetachedJob`).

    In an event loop `await job` gives its result, and does not block the loop.

    Attributes:
        id: the whole id.
    """

    id: str

    @abstractmethod
    def _read(self) -> tuple[JobState, JobRecord]:
        """What is known of the job now."""

    @abstractmethod
    def _look(self) -> tuple[JobState, JobRecord, int]:
        """The same as far as workers tell it, and how many slots can run the job now."""

    def __repr__(self) -> str:
        kind = type(self).__name__
        try:
            return job_view.line(kind, *self._read())
        except CeleriacError as error:
            return f"<{kind} {self.id}: {error}>"

    def _repr_html_(self) -> str | None:
        """What a notebook shows below a cell; None where nothing is known, which `repr` says."""
        try:
            return job_view.html(*self._read(), *self._rows_by_time())
        except CeleriacError:
            return None

    def _rows_by_time(self) -> tuple[float, Sequence[int]]:
        """Seconds, and how many rows were joined in each such time, where this process knows it."""
        return 0.0, ()

    def __await__(self) -> Generator[Any, None, OutputTree]:
        return self._awaited().__await__()

    @abstractmethod
    async def _awaited(self) -> OutputTree:
        """The result, waited for in a thread; it raises what `result` raises."""

    @property
    def state(self) -> JobState:
        """Running, done, failed or cancelled."""
        return self._read()[0]

    @property
    def ledger(self) -> Ledger:
        """What became of the rows so far; of a detached job `written` stays 0, as each caller takes its own."""
        return Ledger(**self._read()[1].ledger)

    @property
    def failed_models(self) -> dict[str, FailureRecord]:
        """Models that failed alone, while others went on, each with a record of the first rows where it did."""
        return dict(self._read()[1].failed_models)

    @property
    def differed(self) -> dict[str, Differed]:
        """Models of which an executor gave other outputs than their own graphs, by which the job then went on."""
        return dict(self._read()[1].differed)

    def progress(self) -> Progress:
        """How far the job is; of a detached one, `seconds` are those from its submission to its last answer.

        Raises:
            UnknownJobError: a detached job has expired.
            BrokerError: a detached job, and Redis cannot be reached.
        """
        return progress_of(*self._look())

    @property
    @abstractmethod
    def rows_out(self) -> int | None:
        """Rows of all parts together; None where nobody knows yet."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """The predictions chunk by chunk, as they come."""

    @abstractmethod
    def result(self) -> OutputTree:
        """All predictions: an array of shape (rows, ...); a dict of arrays for several outputs or models."""

    @abstractmethod
    def failures(self) -> list[FailureRecord]:
        """Rows that have no prediction, or none of a model that the record names, and why."""

    @abstractmethod
    def cancel(self) -> None:
        """End the job; harmless when it has ended."""

    @abstractmethod
    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the job has ended; False when the time was up."""
