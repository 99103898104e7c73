"""What the parts of one run of a job share: its connections, its record, and what they count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from producer.job.broker_channel import BrokerChannel
from producer.job.chunk_feeds import Feed
from producer.records.failures import Failures
from producer.records.ledger import Ledger
from producer.records.timeline import Timeline
from producer.records.trace_span import JobTrace
from producer.scheduling.job_options import JobOptions, JobSpec
from tasks.protocol.messages import Differed, ModelRef
from tasks.protocol.records import JobRecord
from worker_config.settings import Settings


@dataclass
class JobContext:
    """One run of one job.

    Attributes:
        settings: with the broker's URL.
        spec: what is to be done; `options` are this run's, which may begin at another row.
        models: as messages name them.
        record: the job's, as it was when the job was made.
        feed: where chunks come from.
        first_index: that of the run's first chunk; parts count from 0.
        differed: models of which an executor was found to differ from their own graphs; those found are added.
        trace: the span of the job, which ends with its last run.
        worker_timeout_seconds: how long to wait for a worker, where none is up.
        watch: raises when the system has ended.
    """

    settings: Settings
    spec: JobSpec
    options: JobOptions
    models: list[ModelRef]
    record: JobRecord
    channel: BrokerChannel
    feed: Feed
    first_index: int
    ledger: Ledger
    failures: Failures
    timeline: Timeline
    differed: dict[str, Differed]
    trace: JobTrace
    worker_timeout_seconds: float
    watch: Callable[[], None]

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id
