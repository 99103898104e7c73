"""`celeriac predict --detach`: PredictRequest --> a whole job that stays with the broker; its id says where it is.

With an output, workers write parts of it beside that; the journal there names the job before it can begin.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import click

from producer.broker import jobs
from producer.broker.shard_clients import open_shards
from producer.cli.request import PredictRequest, open_data, open_system
from producer.cli.tables import how_to_fetch, moment
from producer.client import Client
from producer.detached.named import find_same, work_of
from producer.outputs.output_run import OutputRun
from producer.outputs.run_options import kept_columns
from producer.records.job_store import JobState
from producer.scheduling.error_budget import make_policy
from producer.scheduling.job_options import JobName, JobOptions
from producer.sinks import JournalHead, Sink, open_sink, output_path
from producer.sinks.journal import job_in_journal
from producer.sources import open_source
from tasks.protocol.plan import LeftOutput
from worker_config.errors import OutputError, OutputInUseError

_PAUSE_SECONDS = 0.5


def leave_job(request: PredictRequest, options: JobOptions) -> None:
    """Put the job into the system; its id goes to stdout, what to do with it to stderr."""
    source = open_source(request.input_path, **request.input_options)
    with request.connect() as client:
        job_id = client.submit(
            request.models,
            source,
            chunk_rows=options.chunk_rows,
            store=options.store,
            compression=options.compression,
            detach=True,
            on_nonfinite=options.policy.on_nonfinite,
            priority=options.priority,
            ttl_seconds=options.ttl_seconds,
            job=options.job,
        )
        _report(request, client, job_id)


def leave_with_output(request: PredictRequest, output: Path, ttl_seconds: int | None, *, force: bool) -> None:
    """The same of a job whose workers write the folder `output`; whatever can be refused is, before it is left."""
    source, described = open_data(request)
    run = request.run
    writing = OutputRun(request.models, source, described, output, True, request.on_error or "raise", run)
    with open_system(request) as system, system.start() as client:
        head = writing.head(system.held)
        name = None if request.job is None else JobName.of(request.job, described)
        kept = kept_columns(source, run, request.models, output)
        if kept:
            kept.close()
        sink = _opened(client.broker_url, output, source.rows, head, name, force)
        if isinstance(sink, str):
            return _report(request, client, sink)
        try:
            left = _left(sink, request, head, source.rows)
            options = JobOptions(
                chunk_rows=run.chunk_rows,
                store=run.store,
                compression=run.compression,
                policy=make_policy(head.on_error, run.max_failed, run.on_nonfinite),
                priority=run.priority,
                detach=True,
                ttl_seconds=ttl_seconds,
                job=name,
                write_to=left,
                keep=run.keep,
            )
            job_id = client._leave_job(request.models, source, options, source)
        except BaseException:
            sink.discard()
            raise
        if job_id == left.job:
            sink.abort()
        else:  # another process has left it meanwhile
            sink.discard()
        _report(request, client, job_id)


def _opened(
    url: str, output: Path, rows: int | None, head: JournalHead, name: JobName | None, force: bool
) -> Sink | str:
    """The output, begun; or the job that has the name, does the same, and runs or is done."""
    with open_shards(url) as shards:
        while True:
            work = work_of(name, head.models, str(output_path(output)), head.as_dict()) if name else {}
            if name and (same := find_same(shards, name, work)):
                return same
            # What a named job has left that came to nothing is done anew.
            before = job_in_journal(output_path(output)) if name else ""
            is_over = bool(before) and jobs.state_of(shards, before) not in (JobState.RUNNING, JobState.DONE)
            try:
                return open_sink(output, rows, force or is_over, journal=head, in_parts=True)
            except OutputInUseError:
                if not name:
                    raise
            except OutputError:
                if not name or not find_same(shards, name, work):
                    raise
            time.sleep(_PAUSE_SECONDS)


def _left(sink: Sink, request: PredictRequest, head: JournalHead, rows: int | None) -> LeftOutput:
    """What the job is to know of its output, whose journal names it from now on."""
    if sink.folder is None:
        raise OutputError(f"{sink.path}: is no folder that workers write")
    job_id = secrets.token_hex(6)
    sink.note_job(job_id)
    run = request.run
    return LeftOutput(
        str(sink.path),
        sink.folder.folder,
        job_id,
        head.as_dict(),
        rows,
        head.on_error,
        run.max_failed,
        run.part_mib,
    )


def _report(request: PredictRequest, client: Client, job_id: str) -> None:
    job = client.attach(job_id)
    record, expires_at = job.record, job.expires_at
    if request.as_json:
        chunks = record.ledger["chunks_sent"]
        values = {"job": job_id, "rows": record.rows, "chunks": chunks, "store": record.store, "expires_at": expires_at}
        click.echo(json.dumps({**values, "output": job.output.path if job.output else None}))
    else:
        click.echo(job_id)
    if not request.run.quiet and not request.as_json:
        click.echo(
            f"{record.rows:,} rows left by way of {record.store}, kept until {moment(expires_at)} or longer while they "
            f"are worked on; `{how_to_fetch(record)}` writes their predictions",
            err=True,
        )
