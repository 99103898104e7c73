"""This module leaves a whole job in Redis, so that it goes on without its producer.

    rows --chunks of one size--> payloads (nothing, where workers read slices) --> record with the plan --> messages

No message leaves before everything is there: what is too large, or cannot be read, leaves nothing behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import cast

import msgspec

from producer.detached.plan import Budget, choose_chunk_rows
from producer.job import trace_span
from producer.job.broker_channel import BrokerChannel
from producer.records import job_store
from producer.rows.rebatcher import Rebatcher
from producer.rows.source import Arrays, Rows
from producer.scheduling import model_pinning
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.payload_route import choose_store
from producer.sources import BatchSource, Source
from tasks.protocol import codec
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnNonfinite, SliceRef, StoreName
from tasks.protocol.records import ModelInfo, Plan, SlotRecord
from tasks.transport.connection import broker_errors
from tasks.transport.resend_detached import message
from worker_config.errors import BrokerError, CeleriacError, InputError, UsageError
from worker_config.retry_policy import LEAST_TTL_SECONDS
from worker_config.settings import Settings

# Messages published together.
BATCH_CHUNKS = 256
# Average bytes of a row --> rows of a chunk.
Choose = Callable[[float], int]


@dataclass(frozen=True)
class Wishes:
    """What the caller asked for, as in `Client.submit`.

    Raises:
        UsageError: a job cannot be left that way.
    """

    chunk_rows: int | None = None
    store: StoreName | None = None
    compression: Compression | None = None
    ttl_seconds: int | None = None
    on_nonfinite: OnNonfinite = "warn"

    def __post_init__(self) -> None:
        if self.ttl_seconds is not None and self.ttl_seconds < LEAST_TTL_SECONDS:
            raise UsageError(f"ttl_seconds is {self.ttl_seconds}; the least is {LEAST_TTL_SECONDS}")
        if self.store == "files":
            raise UsageError(
                "the rows of a detached job cannot wait in the spool folder, which not every machine sees and nobody "
                "would tidy; leave the store out"
            )


def check_can_be_left(infos: Sequence[ModelInfo], *, first_row: int, goes_on: bool) -> None:
    """Refuse what only an attached job can; `goes_on` if rows or models that fail are not to end it.

    Raises:
        UsageError: the job cannot be left.
    """
    if first_row:
        raise UsageError("first_row is for an attached job; give a detached one the rows that are left")
    if goes_on:
        raise UsageError(
            "fail_together and on_error are for an attached job; a detached one ends with a row that fails"
        )
    if any(info.drops_rows for info in infos):
        raise UsageError("a job that drops rows on purpose cannot be detached; leave out --detach")


def leave(
    settings: Settings,
    source: Source | BatchSource,
    infos: list[ModelInfo],
    slots: list[SlotRecord],
    wishes: Wishes,
    *,
    check: Callable[[Rows], None],
    blank: Arrays,
) -> str:
    """Put a job into Redis, all of it, and return its id.

    Args:
        settings: with the broker's URL.
        source: the data set.
        infos: the models.
        slots: those that hold them all.
        wishes: how.
        check: called with the first rows; raises InputError if no model takes them.
        blank: rows of a data set that turns out to have none.

    Raises:
        UsageError: it is too large to be left, or workers do not reach the store; nothing of it stays.
        InputError: the data set cannot be read, or does not fit the models.
        BrokerError: Redis cannot be reached, or refuses.
    """
    ttl_seconds = wishes.ttl_seconds or settings.job_ttl_seconds
    settings = replace(settings, spool=None)
    store, slice_ref = choose_store(source, slots, settings, wishes.store)
    job_id = secrets.token_hex(6)
    channel = BrokerChannel(str(settings.broker_url), settings, job_id)
    trace = trace_span.begin(job_id, model_pinning.refs(infos), store)
    try:
        budget = Budget(source.label, infos, settings.detached_mib, channel.redis_room())
        left = _Put(channel, job_id, source, infos, slots, wishes, slice_ref, ttl_seconds, budget)
        plan = msgspec.structs.replace(left.put(check, blank), trace=trace.headers)
        dependent = model_pinning.dependent(infos)
        record = job_store.new_record(job_id, plan.models, source.label, store, plan.rows, plan, dependent=dependent)
        with broker_errors(channel.url):
            job_store.create(channel.client, record, ttl_seconds)
        # To those that are still up.
        send(channel, job_id, plan, range(plan.chunks), model_pinning.usable(channel.slots(), plan.models) or slots)
        trace.end(job_store.JobState.RUNNING, {"rows": plan.rows, "chunks_sent": plan.chunks}, "")
    except BaseException as error:
        trace.end(job_store.JobState.FAILED, {}, str(error) or type(error).__name__)
        with suppress(BrokerError), broker_errors(channel.url):
            job_store.remove(channel.client, job_id)
        raise
    finally:
        channel.close()
    return job_id


def send(channel: BrokerChannel, job_id: str, plan: Plan, indexes: Sequence[int], slots: Sequence[SlotRecord]) -> None:
    """Send these chunks to the workers of these slots."""
    queues, channel.headers = LoadBalancer(slots), plan.trace
    for begin in range(0, len(indexes), BATCH_CHUNKS):
        batch = indexes[begin : begin + BATCH_CHUNKS]
        channel.publish([(queues.choose(), message(job_id, plan, index)) for index in batch])


@dataclass
class _Put:
    """The rows of one job on their way into Redis; `rows`, `chunks` and `bytes` count what is there."""

    channel: BrokerChannel
    job_id: str
    source: Source | BatchSource
    infos: list[ModelInfo]
    slots: list[SlotRecord]
    wishes: Wishes
    slice_ref: SliceRef | None
    ttl_seconds: int
    budget: Budget
    chunk_rows: int = 1
    rows: int = 0
    chunks: int = 0
    bytes: int = 0

    def put(self, check: Callable[[Rows], None], blank: Arrays) -> Plan:
        """Put all rows, or only look at how many they are, where workers read them in their file."""
        source = self.source
        if isinstance(source, Source):
            check(source.take(0, min(1, source.rows)))
            self._choose(source.row_bytes)
            chunks = self._of_source(source)
            # What compression will save is not known yet.
            in_redis = 0.0 if self.slice_ref or self.wishes.compression else source.rows * source.row_bytes
            self.budget.check(source.rows, in_redis, -(-source.rows // self.chunk_rows), whole=True)
            if self.slice_ref:
                self.rows, chunks = source.rows, iter(())
        else:
            chunks = self._of_batches(source, check, blank)
        for rows, count in chunks:
            payload = codec.encode(cast("codec.Tree", rows), compression=self.wishes.compression)
            self.rows += count
            self.bytes += len(payload)
            self.chunks += 1
            self.budget.check(self.rows, self.bytes, self.chunks, whole=False)
            with broker_errors(self.channel.url):
                job_store.put(self.channel.client, self.job_id, self.chunks - 1, payload, self.ttl_seconds)
        return Plan(
            rows=self.rows,
            chunk_rows=self.chunk_rows,
            models=model_pinning.refs(self.infos),
            slice_ref=self.slice_ref,
            compression=self.wishes.compression,
            ttl_seconds=self.ttl_seconds,
            workers=sorted({slot.worker for slot in self.slots}),
            on_nonfinite=self.wishes.on_nonfinite,
        )

    def _choose(self, row_bytes: float) -> None:
        self.chunk_rows = choose_chunk_rows(
            self.infos,
            self.source.rows,
            row_bytes,
            len(self.slots),
            fixed_rows=self.wishes.chunk_rows,
            sliced=self.slice_ref is not None,
        )

    def _of_source(self, source: Source) -> Iterator[tuple[Rows, int]]:
        for start in range(0, max(1, source.rows), self.chunk_rows):
            stop = min(start + self.chunk_rows, source.rows)
            yield source.take(start, stop), stop - start

    def _of_batches(
        self, source: BatchSource, check: Callable[[Rows], None], blank: Arrays
    ) -> Iterator[tuple[Rows, int]]:
        waiting, given = Rebatcher(), 0
        for batch in _read(source):
            waiting.add(batch)
            if not waiting.rows:
                continue
            if not given:
                self._choose(waiting.bytes / waiting.rows)
            self.budget.check(given + waiting.rows, self.bytes + waiting.bytes, self.chunks, whole=False)
            while waiting.rows >= self.chunk_rows:
                taken, count = waiting.take(self.chunk_rows)
                if not given:
                    check(taken)
                given += count
                yield taken, count
        if waiting.rows or not given:
            taken, count = waiting.take(waiting.rows) if waiting.rows else (blank, 0)
            if not given:
                check(taken)
            given += count
            yield taken, count
        if source.rows is not None and given != source.rows:
            raise InputError(f"{source.label}: has {given} rows, not the {source.rows} that it announced")


def _read(source: BatchSource) -> Iterator[Rows]:
    """The batches; whatever reading raises becomes an InputError."""
    batches = source.batches()
    with closing(batches):
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except CeleriacError:
                raise
            except Exception as error:
                raise InputError(f"{source.label}: reading it raised {type(error).__name__}: {error}") from error
            yield batch
