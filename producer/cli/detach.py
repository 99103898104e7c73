"""`celeriac predict --detach`: PredictRequest --> a whole job that stays with the broker; its id says where it is."""

from __future__ import annotations

import json

import click

from producer.cli.request import PredictRequest
from producer.cli.tables import moment
from producer.scheduling.job_options import JobOptions
from producer.sources import open_source


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
        job = client.attach(job_id)
        record, expires_at = job.record, job.expires_at
    if request.as_json:
        chunks = record.ledger["chunks_sent"]
        values = {"job": job_id, "rows": record.rows, "chunks": chunks, "store": record.store, "expires_at": expires_at}
        click.echo(json.dumps(values))
    else:
        click.echo(job_id)
    if not request.run.quiet and not request.as_json:
        click.echo(
            f"{record.rows:,} rows left by way of {record.store}, kept until {moment(expires_at)} or longer while they "
            f"are worked on; `celeriac fetch {job_id} -o OUTPUT` writes their predictions",
            err=True,
        )
