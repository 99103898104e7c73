"""This module is the commands that look at jobs, and end them, from any machine."""

from __future__ import annotations

import json

import click

from producer import job_store
from producer.cli import tables
from producer.cli.options import broker_option, json_option, needed
from tasks.connection import broker_errors, connect


@click.command()
@broker_option
@json_option
def jobs(broker_url: str | None, as_json: bool) -> None:
    """List the jobs that Redis remembers."""
    url = needed(broker_url)
    with broker_errors(url), connect(url) as client:
        found = job_store.read_all(client)
    click.echo(
        json.dumps({"jobs": [tables.job_values(*job) for job in found]}) if as_json else tables.jobs_table(found)
    )


@click.command()
@click.argument("job")
@broker_option
@json_option
def status(job: str, broker_url: str | None, as_json: bool) -> None:
    """Show one job; the first characters of its id are enough."""
    url = needed(broker_url)
    with broker_errors(url), connect(url) as client:
        state, record = job_store.read(client, job)
    click.echo(json.dumps(tables.job_values(state, record)) if as_json else tables.job_lines(state, record))


@click.command()
@click.argument("job")
@broker_option
def cancel(job: str, broker_url: str | None) -> None:
    """End a running job; its queued chunks are never run."""
    url = needed(broker_url)
    with broker_errors(url), connect(url) as client:
        state, record = job_store.cancel(client, job)
    running = state is job_store.JobState.RUNNING
    click.echo(f"job {record.id} is being cancelled" if running else f"job {record.id} is {state} already")
