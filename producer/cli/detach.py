"""This module is `celeriac predict --detach`: leaves a whole job with the broker and says where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from producer.cli.tables import moment
from producer.client import Client
from producer.detached.submit import Wishes
from producer.sources import open_source


def check_alone(given: Mapping[str, object]) -> None:
    """Refuse options that make no sense with --detach.

    Raises:
        UsageError: of click's, if one of them was given.
    """
    reasons = {
        "--output": "`celeriac fetch JOB -o OUTPUT` writes the output",
        "--resume": "`celeriac fetch JOB -o OUTPUT` can be repeated",
        "--force": "`celeriac fetch JOB -o OUTPUT --force` replaces an output",
        "--workers": "it is for the embedded system, which ends with the command",
        "--on-error": "a row that fails ends a detached job",
        "--max-failed": "a row that fails ends a detached job",
        "--only-failed": "it is for an output that is finished",
    }
    for option, reason in reasons.items():
        if given[option]:
            raise click.UsageError(f"{option} makes no sense with --detach: {reason}")


def needed_for_detach(broker_url: str | None) -> str:
    """The broker with which a job can be left.

    Raises:
        UsageError: of click's, if there is none.
    """
    if not broker_url:
        raise click.UsageError(
            "--detach needs a broker: the embedded system ends with the command; give --broker or set "
            "CELERIAC_BROKER_URL"
        )
    return broker_url


def leave_job(
    models: Sequence[str],
    input_path: Path,
    input_options: Mapping[str, object],
    broker_url: str | None,
    wishes: Wishes,
    worker_timeout_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Put the job into the system; its id goes to stdout, what to do with it to stderr."""
    broker_url = needed_for_detach(broker_url)
    source = open_source(input_path, **input_options)
    with Client(broker_url, worker_timeout_seconds=worker_timeout_seconds) as client:
        job_id = client.submit(
            models,
            source,
            chunk_rows=wishes.chunk_rows,
            store=wishes.store,
            compression=wishes.compression,
            detach=True,
            on_nonfinite=wishes.on_nonfinite,
            ttl_seconds=wishes.ttl_seconds,
        )
        job = client.attach(job_id)
        record, expires_at = job.record, job.expires_at
    if as_json:
        chunks = record.ledger["chunks_sent"]
        told = {"job": job_id, "rows": record.rows, "chunks": chunks, "store": record.store, "expires_at": expires_at}
        click.echo(json.dumps(told))
    else:
        click.echo(job_id)
    if not quiet and not as_json:
        click.echo(
            f"{record.rows:,} rows left by way of {record.store}, kept until {moment(expires_at)} or longer while they "
            f"are worked on; `celeriac fetch {job_id} -o OUTPUT` writes their predictions",
            err=True,
        )
