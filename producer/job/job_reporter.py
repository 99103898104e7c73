"""What a job reports of itself: its record, its failures and its timeline, for whoever looks into Redis.

    begin --> update, once a second --> finish

Losing what was reported costs a look at the job, never a row of it.
"""

from __future__ import annotations

import msgspec

from producer.job.job_context import JobContext
from producer.records import job_store, timeline_store
from producer.records.failed_rows import write_failures
from producer.records.job_store import JobState
from tasks.transport.connection import broker_errors


class JobReporter:
    """One job; used by its thread."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._client, self._sealer = context.channel.client, context.channel.sealer
        self._ttl_seconds = context.channel.settings.job_ttl_seconds
        self._failures_written = 0

    def begin(self) -> None:
        """The job is there; raises BrokerError."""
        with broker_errors(self._context.channel.url):
            job_store.create(self._client, self._context.record_now(), self._sealer, self._ttl_seconds)

    def update(self) -> tuple[JobState, bool]:
        """How far it is; returns the state that others may have set, and whether Redis had lost the record.

        Raises:
            BrokerError: Redis cannot be reached.
        """
        with broker_errors(self._context.channel.url):
            state_and_lost = job_store.update(self._client, self._context.record_now(), self._sealer, self._ttl_seconds)
            self._write_failures()
        self.report_differed()
        self._write_timeline()
        return state_and_lost

    def report_differed(self) -> None:
        """Workers must know, also those of a Redis that has lost it; raises BrokerError."""
        if self._context.differed:
            with broker_errors(self._context.channel.url):
                job_store.tell_differed(self._client, self._context.id, self._context.differed.values())

    def finish(self, state: JobState, error: str) -> None:
        """It has ended, with an error if there is a text; raises redis.RedisError."""
        record = msgspec.structs.replace(self._context.record_now(), error=error)
        self._failures_written = 0
        self._write_failures()
        self._write_timeline()
        job_store.finish(self._client, record, self._sealer, state, self._ttl_seconds)

    def invalidate(self) -> None:
        """Redis may have lost whatever it has."""
        self._failures_written = 0
        self._context.timeline.doubt()

    def _write_failures(self) -> None:
        failures = self._context.failures
        if len(failures.records) > self._failures_written:
            write_failures(self._client, self._context.id, failures.in_order(), self._ttl_seconds)
            self._failures_written = len(failures.records)

    def _write_timeline(self) -> None:
        timeline_store.write(self._client, self._context.id, self._context.timeline, self._ttl_seconds)
