"""This module is the `celeriac` command: reads options, calls the rest, and turns errors into one line and a code."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

from producer.cli import jobs, prune, tables
from producer.cli.demo import run_demo
from producer.cli.doctor import doctor
from producer.cli.fetch import fetch
from producer.cli.manifest import describe, queue_lists
from producer.cli.options import (
    broker_option,
    json_option,
    metrics_port_option,
    model_set_environ,
    model_set_option,
    models_option,
)
from producer.cli.predict import predict
from producer.cli.predict_to_sink import PredictionFailedError
from producer.cli.report import report
from producer.cli.watch import watch
from producer.embedded import worker_command
from producer.records import failures, ledger
from producer.scheduling.model_pinning import refs
from tasks.snapshots.record import Trial
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_slots
from worker_config.environment import for_worker
from worker_config.errors import CeleriacError, ExitCode
from worker_config.shadow import check_no_shadow

_EXAMPLES = """\b
Examples:
  celeriac demo
  celeriac doctor
  celeriac doctor --broker redis://10.0.0.5:6379/0
  celeriac predict digits rows.npy -o scores.npy --dry-run
  celeriac predict digits rows.npy -o scores.npy
  celeriac predict digits rows.npy -o scores.npy --resume
  celeriac predict digits rows.npy -o scores.npy --on-error skip --max-failed 1%
  celeriac predict digits rows.npy -o scores.npy --resume --only-failed
  celeriac predict digits,letters rows.npz -o both.npz --workers 4
  celeriac worker --broker redis://10.0.0.5:6379/0 --workers 8
  celeriac worker --broker redis://10.0.0.5:6379/0 --models digits,letters
  celeriac predict digits rows.npy -o scores.npy --broker redis://10.0.0.5:6379/0 --json
  celeriac predict digits rows.npy --detach --broker redis://10.0.0.5:6379/0
  celeriac watch 3f2a
  celeriac failures 3f2a
  celeriac report 3f2a -o report.html
  celeriac fetch 3f2a -o scores.npy

\b
Exit codes:
  0  all rows predicted             5  a model: unknown, not to be loaded, wrongly run
  1  a bug in Celeriac              6  no worker holds the model, or none came up
  2  bad option, setting or output  7  Redis cannot be reached
  3  bad input                    130  cancelled: Ctrl-C, SIGTERM, `celeriac cancel`
  4  rows failed, more than may, or a model alone
"""


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="celeriac")
def cli() -> None:
    """Run TensorFlow models over large data sets, on many processes and machines."""


@cli.command()
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
    told: str | None,
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
    environ = {**for_worker(os.environ), **model_set_environ(told)}
    if broker_url:
        environ["CELERIAC_BROKER_URL"] = broker_url
    if log_format:
        environ["CELERIAC_LOG_FORMAT"] = log_format
    if metrics_port:
        environ["CELERIAC_METRICS_PORT"] = str(metrics_port)
    command = worker_command(workers, *celery_options)
    sys.stdout.flush()
    os.execve(command[0], command, environ)  # noqa: S606 - the worker takes this process's place and signals


@cli.command()
@models_option
@broker_option
@click.option(
    "--prune",
    "is_pruning",
    is_flag=True,
    help="Remove the snapshots on this machine that neither the manifest nor a worker needs.",
)
@click.option("--queue", "is_queue", is_flag=True, help="Print the Redis list in which their chunks wait, and no more.")
@json_option
@click.pass_context
def models(
    context: click.Context, manifest: Path, broker_url: str | None, is_pruning: bool, is_queue: bool, as_json: bool
) -> None:
    """List the models of the manifest, or, with a broker, those that workers hold."""
    if is_queue:
        click.echo("\n".join(queue_lists(manifest, broker_url)))
        return
    if is_pruning:
        # The variable may be set for all commands of a machine.
        if context.get_parameter_source("broker_url") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--prune is for the snapshots on this machine; leave out --broker")
        pruned = prune.prune(manifest)
        click.echo(json.dumps(prune.prune_values(*pruned)) if as_json else prune.prune_lines(*pruned))
        return
    trials: dict[str, list[Trial]] = {}
    if broker_url:
        with broker_errors(broker_url), connect(broker_url) as client:
            slots = read_slots(client)
        # Workers may hold different versions of a model.
        infos = {str(ref): info for slot in slots for ref, info in zip(refs(slot.models), slot.models, strict=True)}
        counts = Counter(str(ref) for slot in slots for ref in refs(slot.models))
    else:
        described = describe(manifest)
        infos, counts = {name: model.info for name, model in described.items()}, Counter()
        trials = {name: model.trials for name, model in described.items()}
    values = tables.models_values(infos, counts, trials)
    click.echo(json.dumps(values) if as_json else tables.models_table(infos, counts))


@cli.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("celeriac-demo"),
    show_default=True,
    help="The folder for model, rows and predictions.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="Children of the embedded worker."
)
@broker_option
@metrics_port_option
@click.option("--train-only", is_flag=True, help="Make model and manifest, predict nothing.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo(folder: Path, workers: int, broker_url: str | None, train_only: bool, quiet: bool) -> None:
    """Train a small network on handwritten digits and predict them all, embedded or with a broker's workers."""
    try:
        run_demo(folder, broker_url=broker_url, workers=workers, train_only=train_only, quiet=quiet)
    except PredictionFailedError as failed:
        raise failed.error from None


for command in (predict, jobs.jobs, jobs.status, jobs.failures, watch, fetch, jobs.cancel, doctor, report):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command; a user's mistake is one line on stderr and an exit code, never a traceback."""
    logging.basicConfig(format="celeriac: %(message)s", level=logging.WARNING)
    # Zarr's reads go on when one of them has failed; that they are given up at our end is nobody's business.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # What failed, or was not finite, is told at the end, in the command's own line.
    for told_at_the_end in (failures, ledger):
        logging.getLogger(told_at_the_end.__name__).setLevel(logging.ERROR)
    # A shell starts what runs in the background with SIGINT ignored, and means it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    # Whoever stops us gets the same tidy end.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except CeleriacError as error:
        click.echo(f"celeriac: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("celeriac: interrupted", err=True)
        code = ExitCode.CANCELLED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    sys.exit(int(code or 0))


def _interrupt(*_: object) -> NoReturn:
    """Begin a tidy end, which takes a second or two; who presses Ctrl-C again must not cut it short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
