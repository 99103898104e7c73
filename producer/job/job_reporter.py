"""This module is what a job tells of itself: its record, its failures and its timeline, for whoever looks into Redis.

    begin --> update, once a second --> finish

Losing what was told costs a look at the job, never a row of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from producer.job.broker_channel import BrokerChannel
from producer.records import job_store, timeline_store
from producer.records.failures import Failures
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.records.timeline import Timeline
from tasks.protocol.messages import Differed
from tasks.protocol.records import JobRecord
from tasks.transport.connection import broker_errors


@dataclass
class JobReporter:
    """One job; used by its thread.

    Attributes:
        first: the record as it was when the job was made.
        ttl_seconds: how long Redis keeps what it was told.
        ledger, failures, stages, timeline: how far the job is.
        differed: models of which an executor differed.
    """

    channel: BrokerChannel
    first: JobRecord
    ttl_seconds: int
    ledger: Ledger
    failures: Failures
    stages: dict[str, float]
    timeline: Timeline
    differed: dict[str, Differed]
    _told: int = 0

    def begin(self) -> None:
        """The job is there; raises BrokerError."""
        with broker_errors(self.channel.url):
            job_store.create(self.channel.client, self._record(), self.ttl_seconds)

    def update(self) -> tuple[JobState, bool]:
        """How far it is; returns the state that others may have set, and whether Redis had lost the record.

        Raises:
            BrokerError: Redis cannot be reached.
        """
        with broker_errors(self.channel.url):
            told = job_store.update(self.channel.client, self._record(), self.ttl_seconds)
            self._tell_failures()
        self.tell_differed()
        self._tell_timeline()
        return told

    def tell_differed(self) -> None:
        """Workers must know, also those of a Redis that has lost it; raises BrokerError."""
        if self.differed:
            with broker_errors(self.channel.url):
                job_store.tell_differed(self.channel.client, self.first.id, self.differed.values())

    def finish(self, state: JobState, error: str) -> None:
        """It has ended, with an error if there is a text; raises redis.RedisError."""
        record = msgspec.structs.replace(self._record(), error=error)
        self.doubt()
        self._tell_failures()
        self._tell_timeline()
        job_store.finish(self.channel.client, record, state, self.ttl_seconds)

    def doubt(self) -> None:
        """Redis may have lost whatever it was told."""
        self._told = 0

    def _record(self) -> JobRecord:
        failed = dict(self.failures.models)
        told = {"ledger": self.ledger.as_dict(), "failed_models": failed, "stages": self.stages}
        return msgspec.structs.replace(self.first, updated_at=time.time(), differed=dict(self.differed), **told)

    def _tell_failures(self) -> None:
        if len(self.failures.records) > self._told:
            job_store.write_failures(self.channel.client, self.first.id, self.failures.in_order(), self.ttl_seconds)
            self._told = len(self.failures.records)

    def _tell_timeline(self) -> None:
        timeline_store.write(self.channel.client, self.first.id, self.timeline, self.ttl_seconds)
