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


class JobReporter:
    """One job; used by its thread."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._channel, self._sealer = context.channel, context.channel.sealer
        self._ttl_seconds = context.channel.settings.job_ttl_seconds
        self._failures_written = 0

    def begin(self) -> None:
        """The job is there; raises BrokerError."""
        record = self._context.record_now()
        self._channel.on_each(lambda client: job_store.create(client, record, self._sealer, self._ttl_seconds))

    def update(self) -> tuple[JobState, set[int]]:
        """How far it is; returns the state that others may have set, and the shards that had lost the record.

        Raises:
            BrokerError: Redis cannot be reached.
        """
        record = self._context.record_now()
        seen = self._channel.on_each(lambda client: job_store.update(client, record, self._sealer, self._ttl_seconds))
        self._write_failures()
        self.report_differed()
        self._write_timeline()
        states = {state for state, _ in seen.values()}
        state = JobState.CANCELLED if JobState.CANCELLED in states else next(iter(states), JobState.RUNNING)
        return state, {shard for shard, (_, lost) in seen.items() if lost}

    def report_differed(self) -> None:
        """Workers must know, also those of a Redis that has lost it; raises BrokerError."""
        if differed := self._context.differed.values():
            self._channel.on_each(lambda client: job_store.tell_differed(client, self._context.id, differed))

    def finish(self, state: JobState, error: str) -> None:
        """It has ended, with an error if there is a text; raises BrokerError."""
        record = msgspec.structs.replace(self._context.record_now(), error=error)
        self._failures_written = 0
        self._write_failures()
        self._write_timeline()
        self._channel.on_each(lambda client: job_store.finish(client, record, self._sealer, state, self._ttl_seconds))

    def invalidate(self) -> None:
        """Redis may have lost whatever it has."""
        self._failures_written = 0
        self._context.timeline.doubt()

    def _write_failures(self) -> None:
        failures = self._context.failures
        if len(failures.records) > self._failures_written:
            records, ttl_seconds = failures.in_order(), self._ttl_seconds
            self._channel.on_first(lambda client: write_failures(client, self._context.id, records, ttl_seconds))
            self._failures_written = len(failures.records)

    def _write_timeline(self) -> None:
        timeline, ttl_seconds = self._context.timeline, self._ttl_seconds
        self._channel.on_first(lambda client: timeline_store.write(client, self._context.id, timeline, ttl_seconds))
