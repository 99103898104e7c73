"""What the parts of one run of a job share: its connections, its record, and what they count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from producer.broker.job_channel import JobChannel
from producer.job.chunk_feeds import Feed
from producer.records.failures import Failures
from producer.records.ledger import Ledger
from producer.records.timeline import Timeline
from producer.records.trace_span import JobTrace
from producer.scheduling.job_options import JobSpec
from tasks.protocol.messages import Differed
from tasks.protocol.records import JobRecord
from worker_config.settings import Settings


@dataclass
class JobContext:
    """One run of one job.

    Attributes:
        spec: what is to be done in this run, which may begin at another row than the one before.
        record: the job's, as it was when the job was made; `record_now` tells how far it is.
        feed: where chunks come from; parts count from its first one.
        differed: models of which an executor was found to differ from their own graphs; those found are added.
        trace: the span of the job, which ends with its last run.
        worker_timeout_seconds: how long to wait for a worker, where none is up.
        watch: raises when the system has ended.
        waits: for which store of objects workers wait with its chunks, in words.
    """

    spec: JobSpec
    record: JobRecord
    channel: JobChannel
    feed: Feed
    ledger: Ledger
    failures: Failures
    timeline: Timeline
    differed: dict[str, Differed]
    trace: JobTrace
    worker_timeout_seconds: float
    watch: Callable[[], None]
    waits: str = ""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id

    @property
    def settings(self) -> Settings:
        """Those of its producer."""
        return self.channel.settings

    def record_now(self) -> JobRecord:
        """The job's record, with all that was counted so far."""
        return msgspec.structs.replace(
            self.record,
            updated_at=time.time(),
            ledger=self.ledger.as_dict(),
            failed_models=dict(self.failures.models),
            stages=dict(self.channel.measures.stages),
            differed=dict(self.differed),
            waits=self.waits,
        )
