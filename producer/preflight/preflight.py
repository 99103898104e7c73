"""Tries a job out before it is run: one batch of its rows through every stage, and a forecast of the rest.

    source --first batch--> a job like the real one --> outputs, seconds --> forecast of chunks, time and memory

What would be refused is refused by the same error. Nothing stays in Redis, not even the job's record.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from producer.broker.job_channel import JobChannel
from producer.detached.plan import RedisBudget, choose_chunk_rows
from producer.job.chunk_feeds import Feed
from producer.job.factory import make_sizer
from producer.job.job import Job
from producer.preflight.probe import Head, ProbeSizer, send
from producer.rows.part import Part
from producer.scheduling import model_pinning
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.scheduling.payload_route import as_read, check_writable, choose_reply, choose_store, why
from producer.scheduling.window import CHUNKS_PER_SLOT, Window
from producer.sources import BatchSource, Source
from tasks.protocol.codec import columns_of, leaves_of
from tasks.protocol.messages import FailureRecord, StoreName
from tasks.protocol.records import ModelInfo, SlotRecord, TensorSpec
from worker_config.settings import Settings

Start = Callable[[JobSpec, Feed, ChunkSizer], Job]


@dataclass(frozen=True)
class Preflight:
    """What is known of a job before it is run.

    Attributes:
        label: the data set, for people.
        rows: of it; None where nobody knows.
        row_bytes: of one row, on its way.
        inputs: the columns of its first rows.
        models: the SHA-256 of each, by name.
        slots, workers: that would run it.
        store: the way of the rows; `reason` says why this one.
        reply: the way of large outputs.
        chunk_rows: of the first chunk.
        chunks: how many there will be, if all were as the first answer suggests; None where nobody knows.
        probe: the answer to the first batch.
        probe_seconds: what it took in its slot.
        failed_models: those that failed on it while others did not.
        outputs: the arrays of the answer.
        output_row_bytes: of one row of all outputs.
        seconds: that the whole job will take, about; None where nobody knows how many rows there are.
        in_flight_bytes: of rows and outputs at a time, at most about.
        spool_free: bytes that the spool folder has free; None where neither rows nor outputs go there.
        detached_bytes: what a detached job needs in Redis, about; None where it is not to be detached, or nobody knows.
        detached_limit: what it may need; 0 where it is not to be detached.
        dependent: models whose rows are not independent, each with what a prediction depends on besides its row.
    """

    label: str
    rows: int | None
    row_bytes: float
    inputs: list[TensorSpec]
    models: dict[str, str]
    slots: int
    workers: int
    store: StoreName
    reason: str
    reply: Literal["redis", "files"]
    chunk_rows: int
    chunks: int | None
    probe: Part
    probe_seconds: float
    failed_models: dict[str, FailureRecord]
    outputs: list[TensorSpec]
    output_row_bytes: float
    seconds: float | None
    in_flight_bytes: int
    spool_free: int | None = None
    detached_bytes: float | None = None
    detached_limit: float = 0.0
    dependent: dict[str, str] = field(default_factory=dict)


def try_out(
    settings: Settings,
    source: Source | BatchSource,
    infos: list[ModelInfo],
    slots: list[SlotRecord],
    options: JobOptions,
    start: Start,
) -> Preflight:
    """Send one batch through every stage, and tell what the whole job would be like; raise what it would."""
    if options.detach:
        settings = replace(settings, spool=None)
    check_writable(options.write_to, slots)
    options = replace(options, write_to=None)
    store, in_place = choose_store(source, slots, settings, options.store, detached=options.detach)
    reason, source = why(source, slots, settings, options.store, detached=options.detach), as_read(source, in_place)
    row_bytes = source.row_bytes if isinstance(source, Source) else None
    chunk_sizer = make_sizer(infos, source, store, options)
    channel = JobChannel(str(settings.broker_url), settings, "preflight")
    with closing(channel):
        room = channel.redis_room()
    window = Window(len(slots))
    window.leave_room(room)
    budget = RedisBudget(source.label, infos, settings.detached_mib, room)

    def plan(row_bytes: float) -> tuple[int, float | None]:
        """Rows of a chunk, and bytes in Redis, of a detached job."""
        chunk_rows = choose_chunk_rows(
            infos, source.rows, row_bytes, len(slots), fixed_rows=options.chunk_rows, sliced=in_place is not None
        )
        if source.rows is None:
            return chunk_rows, None
        chunks = max(1, -(-source.rows // chunk_rows))
        payloads = 0.0 if in_place or options.compression else source.rows * row_bytes
        budget.check(source.rows, payloads, chunks, whole=True)
        return chunk_rows, budget.needed(source.rows, payloads, chunks)

    if options.detach and row_bytes is not None:
        plan(row_bytes)  # as the job would: before anything is sent
    first_rows = chunk_sizer.next_rows(source.rows, len(slots), window.chunk_bytes)
    head = Head(source, infos, min(first_rows, max(info.batch_rows for info in infos)))
    measured = ProbeSizer(1, fixed_rows=head.most)
    spec = JobSpec(options, infos, slots, store, in_place)
    probe, failed_models = send(settings, start(spec, head.feed(in_place is None, options.policy.goes_on), measured))

    reply = choose_reply(store, slots, settings)
    spool = settings.spool if "files" in (store, reply) else None
    rows = probe.stop - probe.start
    if row_bytes is None:
        row_bytes = measured.payload_bytes / rows if rows else 0.0
    output_row_bytes = measured.output_bytes / rows if rows else model_pinning.output_row_bytes(infos)
    detached: tuple[int, float | None] = plan(row_bytes) if options.detach else (0, None)
    chunk_sizer.sent(rows, round(row_bytes * rows))
    chunk_sizer.answered(rows, measured.seconds, measured.output_bytes)
    chunk_rows = detached[0] or chunk_sizer.next_rows(source.rows, len(slots), window.chunk_bytes)
    return Preflight(
        label=source.label,
        rows=source.rows,
        row_bytes=row_bytes,
        inputs=specs_of(head.seen),
        models={info.name: info.digest for info in infos},
        slots=len(slots),
        workers=len({slot.worker for slot in slots}),
        store=store,
        reason=reason,
        reply=reply,
        chunk_rows=detached[0] or first_rows,
        chunks=None if source.rows is None else max(1, -(-source.rows // chunk_rows)),
        probe=probe,
        probe_seconds=measured.seconds,
        failed_models=failed_models,
        outputs=specs_of({"/".join(key): one for key, one in leaves_of(probe.outputs) if isinstance(one, np.ndarray)}),
        output_row_bytes=output_row_bytes,
        seconds=forecast_seconds(source.rows, rows, measured.seconds, len(slots)),
        in_flight_bytes=in_flight(chunk_sizer, window, chunk_rows, source.rows),
        spool_free=shutil.disk_usage(spool).free if isinstance(spool, Path) else None,
        detached_bytes=detached[1],
        detached_limit=budget.limit if options.detach else 0.0,
        dependent=model_pinning.dependent(infos),
    )


def specs_of(rows: Any) -> list[TensorSpec]:
    """Name, dtype and shape of each column; None where the shapes of its rows differ, or the number of rows."""
    return [_spec(str(name), column) for name, column in columns_of(rows).items()]


def _spec(name: str, column: Any) -> TensorSpec:
    shapes = [np.shape(row) for row in column] if isinstance(column, list) else [column.shape[1:]]
    axes = zip(*shapes, strict=True) if len(set(map(len, shapes))) == 1 else ()
    dtype = column[0].dtype if isinstance(column, list) else column.dtype
    sizes = [axis[0] if len(set(axis)) == 1 else None for axis in axes]
    return TensorSpec(name, "string" if dtype.hasobject else str(dtype), (None, *sizes))


def forecast_seconds(rows: int | None, probe_rows: int, probe_seconds: float, slots: int) -> float | None:
    """What all rows take, if they go as those of the batch did."""
    if rows is None:
        return None
    return rows / probe_rows * probe_seconds / slots if probe_rows else 0.0


def in_flight(chunk_sizer: ChunkSizer, window: Window, chunk_rows: int, rows: int | None) -> int:
    """Of all chunks that the window admits; it always admits one."""
    one = chunk_sizer.bytes_in_flight(chunk_rows)
    most = max(one, min(window.max_bytes, CHUNKS_PER_SLOT * window.slots * one))
    return round(most if rows is None else min(most, chunk_sizer.bytes_in_flight(rows)))
