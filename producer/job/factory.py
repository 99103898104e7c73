"""Makes a job: its rows, its id and record, and what carries it out.

data set, models, options --> spec --> feed, chunk sizer
spec, feed, chunk sizer --> JobContext --> Runner --> Job
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from producer.broker.job_channel import JobChannel
from producer.job import prometheus
from producer.job.chunk_feeds import Feed, make_feed
from producer.job.job import Job
from producer.job.job_context import JobContext
from producer.job.part_queue import PartQueue
from producer.job.restartable_runner import RestartableRunner
from producer.job.runner import Runner
from producer.records import job_store, trace_span
from producer.records.failures import Failures
from producer.records.ledger import Ledger
from producer.records.timeline import Timeline
from producer.rows.part import renumbered
from producer.rows.source import BatchSource, Source, SplitData
from producer.scheduling import model_pinning
from producer.scheduling.admission import check_fits
from producer.scheduling.chunk_sizer import FIRST_STEP_ROWS, MAX_CHUNK_BYTES, MAX_SPLIT_BYTES, ChunkSizer
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.scheduling.payload_route import as_read, check_writable, choose_route
from producer.scheduling.settings_text import job_settings
from producer.sources import from_rows, has_batches, open_source
from producer.sources.choose import for_models
from tasks.protocol.messages import Differed, StoreName
from tasks.protocol.records import ModelInfo, SlotRecord, versions_here
from worker_config.settings import Settings


def make_spec(
    settings: Settings,
    source: Source | BatchSource,
    infos: Sequence[ModelInfo],
    slots: Sequence[SlotRecord],
    options: JobOptions,
    whole: Source | BatchSource | None = None,
) -> tuple[JobSpec, Source | BatchSource]:
    """The way of a data set to these slots, and the data set as it is read for that.

    `whole` is the data set with the columns that are not for the models.

    Raises:
        UsageError: as `choose_route`; or a model whose rows are not independent would get other chunks
            than from the first row on.
    """
    model_pinning.check_begins_chunk(infos, options.first_row, options.chunk_rows)
    model_pinning.warn(infos)
    spec = choose_route(settings, source, infos, slots, options, source if whole is None else whole)
    return spec, as_read(source, spec.in_place)


def rows_of(spec: JobSpec, source: Source | BatchSource) -> tuple[Feed, ChunkSizer]:
    """Where the chunks of a data set come from, and what chooses their size.

    Raises:
        InputError: the data set cannot be read, or does not fit the models.
        UsageError: as `make_sizer`.
    """
    options = spec.options
    feed = make_feed(
        source,
        spec.infos,
        partial(check_fits, spec.infos),
        with_rows=spec.in_place is None,
        first_row=options.first_row,
        goes_on=options.policy.goes_on,
    )
    return feed, make_sizer(spec.infos, source, spec.store, options)


def stream_of(
    settings: Settings,
    rows: Iterable[Any],
    infos: Sequence[ModelInfo],
    slots: Sequence[SlotRecord],
    options: JobOptions,
    chunk_rows: int | None,
    max_delay: float,
) -> tuple[JobSpec, Feed, ChunkSizer]:
    """The same of rows that may never end: a chunk leaves after `max_delay` seconds, however few rows it has.

    Raises:
        UsageError: the rows of a model are not independent.
    """
    model_pinning.check_can_stream(infos)
    # So that a row can leave before the next one comes.
    source = for_models(open_source(rows), infos) if has_batches(rows) else from_rows(rows, 1, "stream")
    spec, source = make_spec(settings, source, infos, slots, options)
    chunk_sizer = ChunkSizer(1, fixed_rows=chunk_rows or max(info.batch_rows for info in infos))
    return spec, make_feed(source, infos, partial(check_fits, infos), max_delay=max_delay), chunk_sizer


def make_sizer(
    infos: Sequence[ModelInfo], source: Source | BatchSource, store: StoreName, options: JobOptions
) -> ChunkSizer:
    """What chooses the chunks' size for a data set.

    Raises:
        UsageError: `chunk_rows` is less than 1, or `chunk_seconds` no time.
    """
    row_bytes = source.row_bytes if isinstance(source, Source) else None
    if row_bytes is not None and store == "slices" and isinstance(source, SplitData):
        row_bytes *= MAX_CHUNK_BYTES / MAX_SPLIT_BYTES
    return ChunkSizer(
        max(info.batch_rows for info in infos),
        row_bytes,
        output_row_bytes=model_pinning.output_row_bytes(infos),
        batch_seconds=model_pinning.batch_seconds(infos),
        store=store,
        first_rows=FIRST_STEP_ROWS if model_pinning.have_no_model(infos) else 1,
        fixed_rows=model_pinning.fixed_chunk_rows(infos, options.chunk_rows),
        chunk_seconds=options.chunk_seconds,
    )


def make_job(
    settings: Settings,
    spec: JobSpec,
    feed: Feed,
    chunk_sizer: ChunkSizer,
    worker_timeout_seconds: float,
    watch: Callable[[], None],
) -> Job:
    """A job that is ready to start; `settings` have the broker's URL; `watch` raises when the system has ended.

    Raises:
        UsageError: workers may not write where they are to leave outputs.
    """
    check_writable(spec.options.write_to, spec.slots)
    job_id = secrets.token_hex(6)
    models = spec.models
    dependent = model_pinning.dependent(spec.infos)
    weight = spec.options.weight
    record = job_store.new_record(job_id, models, feed.label, spec.store, feed.rows, weight=weight, dependent=dependent)
    trace = trace_span.begin(job_id, models, spec.store)

    part_queue = PartQueue(spec.options.max_waiting_bytes)

    def make_run(feed: Feed, spec: JobSpec, differed: dict[str, Differed]) -> Runner:
        folder = spec.options.write_to.folder if spec.options.write_to else ""
        channel = JobChannel(str(settings.broker_url), settings, job_id, spec.store, trace.headers, folder)
        timeline = Timeline()
        summary = timeline.summary
        summary.settings, summary.versions = job_settings(settings, chunk_sizer, spec), versions_here()
        summary.models = list(spec.infos)
        timeline.look(spec.slots)
        context = JobContext(
            spec=spec,
            record=record,
            channel=channel,
            feed=feed,
            ledger=_ledger(feed, spec.options),
            failures=_failures(job_id, spec),
            timeline=timeline,
            differed=differed,
            trace=trace,
            worker_timeout_seconds=worker_timeout_seconds,
            watch=watch,
        )
        run = Runner(context, chunk_sizer, part_queue)
        prometheus.follow(run)
        return run

    def restart(before: Runner, first_row: int) -> Runner | None:
        rest, again = before.context.feed.restart(first_row), spec
        if first_row != spec.options.first_row:
            options = replace(spec.options, failed_before=0, dropped_before=0, nonfinite_before=(0, 0))
            again = replace(spec, options=options)
        return None if rest is None else make_run(rest, again, before.context.differed)

    return Job(RestartableRunner(make_run(feed, spec, {}), part_queue, restart))


def _failures(job_id: str, spec: JobSpec) -> Failures:
    names, numbers = [info.name for info in spec.infos], spec.options.numbers
    if numbers is None:
        return Failures(job_id, names, together=spec.options.fail_together)
    of_data_set = partial(renumbered, numbers=numbers)
    return Failures(job_id, names, together=spec.options.fail_together, of_data_set=of_data_set)


def _ledger(feed: Feed, options: JobOptions) -> Ledger:
    """What an earlier run has done."""
    failed, dropped = options.failed_before, options.dropped_before
    done = feed.first_row - failed - dropped
    inputs, outputs = options.nonfinite_before
    return Ledger(
        feed.rows or feed.first_row,
        predicted=done,
        failed=failed,
        skipped=dropped,
        written=done,
        resumed=feed.first_row,
        nonfinite_inputs=inputs,
        nonfinite_outputs=outputs,
    )
