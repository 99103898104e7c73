"""This module makes a job: its id and record, and the parts of the producer that carry it out, each told of the others.

feed, sizer, models, slots, terms --> Wire, Window, Queues, Outbox --> Run --> Job
models, store --> sizer
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from producer.job import prometheus, trace_span
from producer.job.attempts import Attempts
from producer.job.broker_channel import BrokerChannel
from producer.job.chunk_feeds import Feed
from producer.job.dispatcher import Dispatcher
from producer.job.job import Job
from producer.job.runner import Runner
from producer.job.settings_text import job_settings
from producer.records import job_store
from producer.records.ledger import Ledger
from producer.scheduling import model_pinning
from producer.scheduling.chunk_sizer import (
    CHUNK_SECONDS,
    FIRST_STEP_ROWS,
    MAX_CHUNK_BYTES,
    MAX_REDIS_CHUNK_BYTES,
    ChunkSizer,
)
from producer.scheduling.job_options import Terms
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.payload_route import choose_reply
from producer.scheduling.window import Window
from tasks.protocol.messages import Differed, StoreName
from tasks.protocol.records import ModelInfo, SlotRecord, versions_here
from worker_config.settings import Settings


def make_sizer(
    infos: Sequence[ModelInfo],
    row_bytes: float | None,
    store: StoreName,
    chunk_rows: int | None,
    chunk_seconds: float = CHUNK_SECONDS,
) -> ChunkSizer:
    """What chooses the chunks' size; `chunk_rows` is the caller's own choice.

    Raises:
        UsageError: `chunk_rows` is less than 1, or `chunk_seconds` no time.
    """
    return ChunkSizer(
        max(info.batch_rows for info in infos),
        row_bytes,
        output_row_bytes=model_pinning.output_row_bytes(infos),
        batch_seconds=model_pinning.batch_seconds(infos),
        rows_travel=store != "slices",
        first_rows=FIRST_STEP_ROWS if model_pinning.have_no_model(infos) else 1,
        fixed_rows=model_pinning.fixed_chunk_rows(infos, chunk_rows),
        chunk_seconds=chunk_seconds,
        max_bytes=MAX_REDIS_CHUNK_BYTES if store == "redis" else MAX_CHUNK_BYTES,
    )


def make_job(
    settings: Settings,
    worker_timeout_seconds: float,
    feed: Feed,
    chunk_sizer: ChunkSizer,
    infos: Sequence[ModelInfo],
    slots: Sequence[SlotRecord],
    store: StoreName,
    terms: Terms,
    watch: Callable[[], None],
) -> Job:
    """A job that is ready to start; `settings` have the broker's URL; `watch` raises when the system has ended."""
    job_id = secrets.token_hex(6)
    models = model_pinning.refs(infos)
    dependent = model_pinning.dependent(infos)
    record = job_store.new_record(job_id, models, feed.label, store, feed.rows, dependent=dependent)
    trace = trace_span.begin(job_id, models, store)

    def make_run(feed: Feed, terms: Terms, differed: dict[str, Differed], first_index: int) -> Runner:
        channel = BrokerChannel(str(settings.broker_url), settings, job_id, store)
        channel.headers = trace.headers
        window = Window(len(slots))
        queues = LoadBalancer(slots)
        dispatcher = Dispatcher(
            channel,
            feed,
            window,
            chunk_sizer,
            queues,
            job_id,
            models,
            choose_reply(store, list(slots), settings),
            terms.slice_ref,
            terms.compression,
            terms.policy,
        )
        timeline = dispatcher.timeline
        timeline.settings, timeline.versions = job_settings(settings, chunk_sizer, store, terms), versions_here()
        timeline.models = list(infos)
        timeline.look(slots)
        run = Runner(
            channel,
            feed,
            dispatcher,
            window,
            queues,
            models,
            record,
            slots,
            _ledger(feed, terms),
            ttl_seconds=settings.job_ttl_seconds,
            worker_timeout_seconds=worker_timeout_seconds,
            terms=terms,
            watch=watch,
            likely_form=model_pinning.blank_outputs(infos),
            differed=differed,
            first_index=first_index,
        )
        run.on_end = trace.end
        prometheus.follow(run, channel.measures, window)
        return run

    def again(before: Runner, first_row: int) -> Runner | None:
        # Its chunks go on counting: what comes late of the run before is no answer to them.
        rows = before.feed.again(before.next_index, first_row)
        since = (
            terms
            if first_row == feed.first_row
            else replace(terms, failed_before=0, dropped_before=0, nonfinite_before=(0, 0))
        )
        return None if rows is None else make_run(rows, since, before.differed, before.next_index)

    digests = {model.name: model.digest for model in models}
    skips = terms.policy.on_error == "skip" or any(info.drops_rows for info in infos)
    attempts = Attempts(make_run(feed, terms, {}, 0), again, feed.first_row)
    return Job(job_id, attempts, feed.rows, digests, skips=skips, dependent=dependent)


def _ledger(feed: Feed, terms: Terms) -> Ledger:
    """What an earlier run has done."""
    failed, dropped = terms.failed_before, terms.dropped_before
    done = feed.first_row - failed - dropped
    rows = feed.rows or feed.first_row
    inputs, outputs = terms.nonfinite_before
    return Ledger(
        rows,
        predicted=done,
        failed=failed,
        skipped=dropped,
        written=done,
        resumed=feed.first_row,
        nonfinite_inputs=inputs,
        nonfinite_outputs=outputs,
    )
