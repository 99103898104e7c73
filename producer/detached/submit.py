"""Leaves a whole job in Redis, so that it goes on without its producer.

    rows --chunks of one size--> payloads (nothing, where workers read slices) --> record with the plan --> backlog

Of several shards each has its own chunks, with a record and a backlog of their own. No message leaves before everything
is there, on all of them: what is too large, or cannot be read, leaves nothing behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec
import redis

from producer.broker.broker_channel import BrokerChannel
from producer.broker.jobs import NAMES_SHARD
from producer.broker.shards import slots_of
from producer.detached.named import find_same, named, work_of
from producer.detached.part_channels import PartChannels
from producer.detached.plan import RedisBudget, choose_chunk_rows, deal_of
from producer.records import job_names, job_store, trace_span
from producer.records.job_names import Work
from producer.scheduling import model_pinning
from producer.scheduling.admission import check_fits
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.payload_route import check_writable
from producer.sources import BatchSource, Source
from tasks.datasets.kept import with_kept
from tasks.datasets.read_errors import foreign_errors
from tasks.datasets.rebatcher import Rebatcher
from tasks.datasets.rows import Rows
from tasks.protocol import codec, keys
from tasks.protocol.plan import LeftOutput, Plan
from tasks.protocol.records import JobRecord, ModelInfo, SlotRecord
from tasks.protocol.seal import rows_context
from tasks.protocol.signature import blank_rows
from tasks.transport.resend_detached import message
from tasks.transport.worker_registry import read_slots
from worker_config.errors import BrokerError, InputError, ModelError, UsageError
from worker_config.settings import Settings


def check_can_be_left(infos: Sequence[ModelInfo], options: JobOptions) -> None:
    """Refuse what only an attached job can, where the job is to be detached.

    Raises:
        UsageError: the job cannot be left.
    """
    if not options.detach:
        return
    if options.first_row:
        raise UsageError("first_row is for an attached job; give a detached one the rows that are left")
    if options.fail_together or (options.policy.goes_on and not options.write_to):
        raise UsageError(
            "fail_together and on_error are for an attached job; a detached one ends with a row that fails, unless "
            "workers write its output"
        )
    if any(info.drops_rows for info in infos):
        raise UsageError("a job that drops rows on purpose cannot be detached; leave out --detach")


def leave(settings: Settings, source: Source | BatchSource, spec: JobSpec, data: object = None) -> str:
    """Put a job into Redis, all of it, and return its id; or, of a name, that of the job which has it and is the same.

    Args:
        settings: with the broker's URL, and no spool folder.
        source: the data set, and `data` what it was opened from.
        spec: the job; some of its options must be as `check_can_be_left` has them.

    Raises:
        UsageError: it is too large to be left, or workers do not reach the store, or the name is that of other work;
            nothing of it stays.
        InputError: the data set cannot be read, or does not fit the models.
        BrokerError: Redis cannot be reached, or refuses.
    """
    options = spec.options
    ttl_seconds = options.ttl_seconds or settings.job_ttl_seconds
    output = options.write_to if isinstance(options.write_to, LeftOutput) else None
    job_id = output.job if output else secrets.token_hex(6)
    check_writable(output, spec.slots)
    channels = PartChannels(settings, job_id, waits=True)
    name, work, digests = options.job, cast("Work", {}), {model.name: model.digest for model in spec.models}
    if output and output.head.get("models") != digests:
        raise ModelError(f"model {', '.join(digests)} has changed since this command began; run it again")
    if name:
        work = work_of(named(name, data, source), digests, *((output.path, output.head) if output else ()))
    if name:
        try:
            if same := find_same(channels.shards, name, work):
                return same
        finally:
            channels.close()
    trace = trace_span.begin(job_id, spec.models, spec.store)
    deal = deal_of(spec.slots)
    try:
        budget = RedisBudget(source.label, [] if output else spec.infos, settings.detached_mib, channels.room(deal))
        upload = _Upload(channels, deal, job_id, spec, ttl_seconds, budget)
        chunk_rows = upload.put_source(source) if isinstance(source, Source) else upload.put_batches(source)
        plan = Plan(
            rows=upload.rows,
            chunk_rows=chunk_rows,
            models=spec.models,
            in_place=spec.in_place,
            compression=options.compression,
            ttl_seconds=ttl_seconds,
            workers=[],
            on_nonfinite=options.policy.on_nonfinite,
            output_name=model_pinning.output_name(spec.infos),
            output=msgspec.structs.replace(output, kept=spec.kept_in_place) if output else None,
            trace=trace.headers,
            deal=deal,
        )
        # A name is kept by one shard, which must know whether its job is there.
        parts = sorted(plan.parts | ({NAMES_SHARD} if name else set()))
        slots = {part: slots_of(part, spec.slots) for part in parts}
        label, store = source.label, spec.store
        dependent = model_pinning.dependent(spec.infos)
        record = job_store.new_record(
            job_id, plan.models, label, store, plan.rows, plan, weight=options.weight, dependent=dependent
        )
        for part in parts:
            its = msgspec.structs.replace(plan, part=part, workers=sorted({slot.worker for slot in slots[part]}))
            leave_record(channels, msgspec.structs.replace(record, plan=its), its)
        if name:
            known = channels.shards.on(
                NAMES_SHARD, lambda client: job_names.bind(client, name, job_id, work, ttl_seconds)
            )
            if known != job_id:  # somebody else was faster
                channels.shards.each(lambda client: job_store.remove(client, job_id))
                trace.end(job_store.JobState.CANCELLED, {}, f"left before, as job {known}")
                return find_same(channels.shards, name, work) or known
        for part in plan.parts:
            still_up = model_pinning.usable(channels.shards.on(part, read_slots), plan.models)
            send(channels[part], job_id, plan, plan.chunks_of(part), still_up or slots[part])
            channels.shards.on(part, lambda client: job_store.claim_unsent(client, job_id))
        trace.end(job_store.JobState.RUNNING, {"rows": plan.rows, "chunks_sent": plan.chunks}, "")
    except BaseException as error:
        trace.end(job_store.JobState.FAILED, {}, str(error) or type(error).__name__)
        for part in {*deal, NAMES_SHARD}:
            queues = {slot.queue for slot in slots_of(part, spec.slots)}
            with suppress(BrokerError):
                channels.shards.on(part, partial(job_store.remove, job_id=job_id, queues=queues))
        raise
    finally:
        channels.close()
    return job_id


def leave_record(channels: PartChannels, record: JobRecord, plan: Plan, *, only_new: bool = False) -> None:
    """Enter a part of a job on its shard, as `job_store.create`; its chunks are not sent. Raises BrokerError."""
    sealer, seconds = channels.sealer, plan.ttl_seconds
    channels.shards.on(plan.part, lambda client: job_store.create(client, record, sealer, seconds, only_new=only_new))


def put_payload(client: redis.Redis, job_id: str, index: int, payload: bytes, ttl_seconds: int) -> None:
    """Store a chunk's rows."""
    with client.pipeline() as pipe:
        pipe.hset(keys.payloads(job_id), str(index), cast("str", payload))
        pipe.expire(keys.payloads(job_id), ttl_seconds)
        pipe.execute()


def send(channel: BrokerChannel, job_id: str, plan: Plan, indexes: Sequence[int], slots: Sequence[SlotRecord]) -> None:
    """Leave these chunks, and no others, to the workers of these slots; as many as the job's share is go at once."""
    queues, channel.headers = LoadBalancer(slots), plan.trace
    channel.leave([(queues.choose(), message(job_id, plan, index)) for index in indexes], plan.ttl_seconds)


@dataclass
class _Upload:
    """The rows of one job on their way into Redis; `rows`, `chunks` and `bytes` count what is there."""

    channels: PartChannels
    deal: tuple[int, ...]
    job_id: str
    spec: JobSpec
    ttl_seconds: int
    budget: RedisBudget
    rows: int = field(default=0, init=False)
    chunks: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)

    def put(self, rows: Rows, count: int) -> None:
        """Store the next chunk; raises InputError if no model takes such rows as the first has."""
        if not self.chunks:
            check_fits(self.spec.infos, rows)
        kept = self.spec.kept
        tree = with_kept(rows, kept.of_chunk(self.rows, self.rows + count)) if kept else rows
        parts = codec.encode_parts(cast("codec.Tree", tree), compression=self.spec.options.compression)
        payload = b"".join(self.channels.sealer.seal(rows_context(self.job_id, self.chunks), parts))
        self.rows += count
        self.bytes += len(payload)
        self.chunks += 1
        self.budget.check(self.rows, self.bytes, self.chunks, whole=False)
        index = self.chunks - 1
        self.channels.shards.on(
            self.deal[index % len(self.deal)],
            lambda client: put_payload(client, self.job_id, index, payload, self.ttl_seconds),
        )

    def choose_rows(self, rows: int | None, row_bytes: float) -> int:
        """Rows of a chunk, of a data set of so many rows."""
        spec, fixed_rows = self.spec, self.spec.options.chunk_rows
        sliced = spec.in_place is not None
        return choose_chunk_rows(spec.infos, rows, row_bytes, len(spec.slots), fixed_rows=fixed_rows, sliced=sliced)

    def put_source(self, source: Source) -> int:
        """Store all rows, or only look at how many they are, where workers read them in their file; rows of a chunk."""
        check_fits(self.spec.infos, source.take(0, min(1, source.rows)))
        chunk_rows, sliced = self.choose_rows(source.rows, source.row_bytes), self.spec.in_place is not None
        # What compression will save is not known yet.
        in_redis = 0.0 if sliced or self.spec.options.compression else source.rows * source.row_bytes
        self.budget.check(source.rows, in_redis, -(-source.rows // chunk_rows), whole=True)
        if sliced:
            self.rows = source.rows
            return chunk_rows
        for start in range(0, max(1, source.rows), chunk_rows):
            stop = min(start + chunk_rows, source.rows)
            self.put(source.take(start, stop), stop - start)
        return chunk_rows

    def put_batches(self, source: BatchSource) -> int:
        """Store all rows as they are read; rows of a chunk."""
        waiting, chunk_rows = Rebatcher(), 0
        with foreign_errors(f"{source.label}: reading it raised"), closing(source.batches()) as batches:
            for batch in batches:
                waiting.add(batch)
                if waiting.rows and not self.chunks:
                    chunk_rows = self.choose_rows(source.rows, waiting.bytes / waiting.rows)
                self.budget.check(self.rows + waiting.rows, self.bytes + waiting.bytes, self.chunks, whole=False)
                while chunk_rows and waiting.rows >= chunk_rows:
                    self.put(*waiting.take(chunk_rows))
        if waiting.rows:
            self.put(*waiting.take(waiting.rows))
        elif not self.chunks:
            self.put(blank_rows(self.spec.infos[0].inputs), 0)
        if source.rows is not None and self.rows != source.rows:
            raise InputError(f"{source.label}: has {self.rows} rows, not the {source.rows} that it announced")
        return chunk_rows or 1
