"""What an attached and a detached job have in common for whoever holds one: how far it is, its parts, its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.records.progress import Progress
from producer.rows.part import OutputTree, Part
from tasks.protocol.messages import Differed, FailureRecord


class JobHandle(Protocol):
    """A job, attached to this process (`Job`) or left in Redis (`DetachedJob`)."""

    id: str

    @property
    def state(self) -> JobState:
        """Running, done, failed or cancelled."""

    @property
    def ledger(self) -> Ledger:
        """What became of the rows so far."""

    @property
    def rows_out(self) -> int | None:
        """Rows of all parts together; None where nobody knows yet."""

    @property
    def failed_models(self) -> dict[str, FailureRecord]:
        """Models that failed alone, each with the record of its first rows."""

    @property
    def differed(self) -> dict[str, Differed]:
        """Models of which an executor differed from their own graphs."""

    def progress(self) -> Progress:
        """How far the job is."""

    def parts(self) -> Iterator[Part]:
        """The predictions chunk by chunk, as they come."""

    def result(self) -> OutputTree:
        """All predictions."""

    def failures(self) -> list[FailureRecord]:
        """Rows that have no prediction, and why."""

    def cancel(self) -> None:
        """End the job; harmless when it has ended."""

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the job has ended; False when the time was up."""
