"""Sends one batch of a data set through every stage, as a job that leaves nothing behind.

source --Head--> feed of one chunk --job--> part --> record removed
                                      |
                                    ProbeSizer: bytes and seconds
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial

from producer.broker.shard_clients import ask_each
from producer.job.chunk_feeds import Feed, make_feed
from producer.job.job import Job
from producer.records import job_store
from producer.rows.part import Part
from producer.rows.readers import BatchReader, batches_of
from producer.scheduling.admission import check_fits
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.sources import BatchSource, Source
from tasks.datasets.rebatcher import Rebatcher
from tasks.datasets.rows import Batches, Rows
from tasks.protocol.messages import FailureRecord
from tasks.protocol.records import ModelInfo
from worker_config.errors import BrokerError
from worker_config.settings import Settings


def send(settings: Settings, job: Job) -> tuple[Part, dict[str, FailureRecord]]:
    """Run a job of one chunk, and leave nothing of it."""
    url = str(settings.broker_url)
    try:
        (part,) = job.parts()
        return part, job.failed_models
    finally:
        job.cancel()
        job.wait(timeout_seconds=5.0)
        with suppress(BrokerError):
            ask_each(url, lambda client: job_store.remove(client, job.id))


class ProbeSizer(ChunkSizer):
    """Chunks of one size; remembers how large what was sent and answered is, and the seconds."""

    payload_bytes: int = 0
    output_bytes: int = 0
    seconds: float = 0.0

    def sent(self, rows: int, payload_bytes: int) -> None:
        """Remember it."""
        self.payload_bytes = payload_bytes

    def answered(self, rows: int, seconds: float, output_bytes: int) -> None:
        """Remember it."""
        self.seconds, self.output_bytes = seconds, output_bytes


class Head:
    """The first rows of a data set, at most `most`; `seen` are they, or one of them, once the job has begun."""

    def __init__(self, source: Source | BatchSource, infos: Sequence[ModelInfo], most: int) -> None:
        self.most = most
        self.seen: Rows = {}
        self._source, self._infos = source, infos

    def feed(self, with_rows: bool, goes_on: bool = False) -> Feed:
        """The one chunk of the job; `goes_on` as of `make_feed`."""
        source = self._source
        if not isinstance(source, Source):
            hint = getattr(source, "hint", "")
            source = BatchReader(source.label, None, partial(self._read, source), hint=hint)
        return make_feed(source, self._infos, self._check, with_rows=with_rows, rows=self.most, goes_on=goes_on)

    def _check(self, rows: Rows) -> None:
        self.seen = rows
        check_fits(self._infos, rows)

    def _read(self, source: BatchSource) -> Batches:
        waiting = Rebatcher()
        with closing(batches_of(source)) as batches:
            for batch in batches:
                waiting.add(batch)
                if waiting.rows >= self.most:
                    break
        if waiting.rows:
            yield waiting.take(self.most)[0]
