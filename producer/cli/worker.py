"""`celeriac worker`: options --> environment variables --> `celery -A tasks worker` in this process's place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from producer.cli.options import broker_option, model_set_environ, model_set_option
from producer.embedded import worker_command
from worker_config.environment import check_no_shadow, for_worker


@click.command()
@model_set_option
@click.option("--workers", type=click.IntRange(1), help="Children, each with all models.  [default: one per core]")
@broker_option
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Lines of text, or an object of JSON for each event.  [env var: CELERIAC_LOG_FORMAT; default: text]",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve metrics for Prometheus at this port.  [env var: CELERIAC_METRICS_PORT]",
)
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(
    manifest_or_names: str | None,
    workers: int | None,
    broker_url: str | None,
    log_format: str | None,
    metrics_port: int | None,
    celery_options: tuple[str, ...],
) -> None:
    """Start a worker on this machine; the same as `celery -A tasks worker -c N`.

    Options of Celery's own follow after `--`, for example: celeriac worker -- -n second@%h -l info
    """
    check_no_shadow(Path.cwd())
    environ = {**for_worker(os.environ), **model_set_environ(manifest_or_names)}
    if broker_url:
        environ["CELERIAC_BROKER_URL"] = broker_url
    if log_format:
        environ["CELERIAC_LOG_FORMAT"] = log_format
    if metrics_port:
        environ["CELERIAC_METRICS_PORT"] = str(metrics_port)
    command = worker_command(workers, *celery_options)
    sys.stdout.flush()
    os.execve(command[0], command, environ)  # noqa: S606 - the worker takes this process's place and signals
