"""Makes a job: its id and record, and what carries it out.

spec, feed, chunk sizer --> JobContext --> Runner --> Job
models, store --> chunk sizer
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from producer.job import prometheus
from producer.job.broker_channel import BrokerChannel
from producer.job.chunk_feeds import Feed
from producer.job.job import Job
from producer.job.job_context import JobContext
from producer.job.part_queue import PartQueue
from producer.job.restartable_runner import RestartableRunner
from producer.job.runner import Runner
from producer.records import job_store, trace_span
from producer.records.failures import Failures
from producer.records.ledger import Ledger
from producer.records.timeline import Timeline
from producer.rows.source import BatchSource, Source, SplitData
from producer.scheduling import model_pinning
from producer.scheduling.chunk_sizer import FIRST_STEP_ROWS, MAX_CHUNK_BYTES, MAX_SPLIT_BYTES, ChunkSizer
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.scheduling.payload_route import check_writable
from producer.scheduling.settings_text import job_settings
from tasks.protocol.messages import Differed, StoreName
from tasks.protocol.records import ModelInfo, versions_here
from worker_config.settings import Settings


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
        channel = BrokerChannel(str(settings.broker_url), settings, job_id, spec.store)
        channel.headers = trace.headers
        channel.folder = spec.options.write_to.folder if spec.options.write_to else ""
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
            failures=Failures(job_id, [model.name for model in models], together=spec.options.fail_together),
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
