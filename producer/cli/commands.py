"""This module is the `celeriac` command: reads options, calls the rest, and turns errors into one line and a code."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

from producer import job_store
from producer.cli import tables
from producer.cli.demo import run_demo
from producer.cli.manifest import check_names, describe
from producer.cli.predicting import PredictionFailedError, predict_to_sink
from producer.client import Client
from producer.embedded import local, worker_command
from producer.sinks import FORMATS, open_sink
from producer.sources import open_source
from tasks.codec.compression import Compression
from tasks.connection import broker_errors, connect
from tasks.messages import StoreName
from tasks.slots import read_slots
from worker_config.broker_url import check_broker_url
from worker_config.errors import CeleriacError, ConfigError, ExitCode, UsageError
from worker_config.shadow import check_no_shadow

_EXAMPLES = """\b
Examples:
  celeriac demo
  celeriac predict digits rows.npy -o scores.npy
  celeriac predict digits,letters rows.npz -o both.npz --workers 4
  celeriac worker --broker redis://10.0.0.5:6379/0 --workers 8
  celeriac predict digits rows.npy -o scores.npy --broker redis://10.0.0.5:6379/0 --json
  celeriac status 3f2a

\b
Exit codes:
  0  all rows predicted             5  unknown model, or one that cannot be loaded
  1  a bug in Celeriac              6  no worker holds the model, or none came up
  2  bad option, setting or output  7  Redis cannot be reached
  3  bad input                    130  cancelled: Ctrl-C, SIGTERM, `celeriac cancel`
  4  rows failed
"""


def _check_broker(context: click.Context, option: click.Parameter, url: str | None) -> str | None:
    """An error names where the URL came from: the option or the variable."""
    from_variable = context.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT
    return check_broker_url(url, "CELERIAC_BROKER_URL" if from_variable else "--broker") if url else None


_models = click.option(
    "--models",
    "manifest",
    type=click.Path(path_type=Path),
    envvar="CELERIAC_MODELS",
    show_envvar=True,
    default=Path("models.toml"),
    show_default=True,
    help="The manifest that lists the models.",
)
_broker = click.option(
    "--broker",
    "broker_url",
    metavar="URL",
    envvar="CELERIAC_BROKER_URL",
    show_envvar=True,
    callback=_check_broker,
    help="Redis, as redis://HOST:PORT/DB, rediss://... or unix:///PATH.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="celeriac")
def cli() -> None:
    """Run TensorFlow models over large data sets, on many processes and machines."""


@cli.command()
@click.argument("model")
@click.argument("input_path", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help=f"The file to write: {', '.join(FORMATS)}."
)
@_models
@click.option("--workers", type=click.IntRange(1), help="Children of the embedded worker.  [default: 2]")
@_broker
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of one chunk; chosen from the data if left out.")
@click.option(
    "--store",
    type=click.Choice(["redis", "files", "slices"]),
    help="The way of the rows; the fastest that the workers reach if left out.",
)
@click.option("--compression", type=click.Choice(["lz4", "zstd"]), help="Pack payloads; for slow networks.")
@click.option(
    "--on-error", type=click.Choice(["raise"]), default="raise", help="What a row that fails does to the job."
)
@click.option(
    "--worker-timeout-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long to wait for a worker that holds the model.",
)
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@_as_json
def predict(
    model: str,
    input_path: Path,
    output: Path,
    manifest: Path,
    workers: int | None,
    broker_url: str | None,
    chunk_rows: int | None,
    store: StoreName | None,
    compression: Compression | None,
    on_error: str,
    worker_timeout_seconds: float,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict every row of INPUT with MODEL, or with several: MODEL,MODEL.

    INPUT is an .npy, .npz, .parquet, .tfrecord or .zarr file, a folder, or a pattern such as 'images/*.jpg'.

    Without a broker everything is embedded: a private Redis and a worker, both gone afterwards.
    """
    if broker_url and workers:
        raise click.UsageError("--workers is for the embedded system; with a broker, workers are running already")
    names = _names(model)
    if not broker_url:
        check_names(names, manifest)
    source = open_source(input_path)
    with open_sink(output, source.rows, force) as sink:
        try:
            with _client(broker_url, worker_timeout_seconds, manifest, workers) as client:
                summary = predict_to_sink(
                    client,
                    names,
                    source,
                    sink,
                    chunk_rows=chunk_rows,
                    store=store,
                    compression=compression,
                    quiet=quiet,
                )
        except PredictionFailedError as failed:
            if as_json:
                click.echo(json.dumps(asdict(failed.summary)))
            raise failed.error from None
    if not quiet:
        click.echo(
            f"{summary.ledger['predicted']:,} rows predicted in {summary.seconds:.2f} s "
            f"({summary.rows_per_second:,.0f} rows per second), written to {summary.output}"
        )
    if as_json:
        click.echo(json.dumps(asdict(summary)))


@cli.command()
@_models
@click.option("--workers", type=click.IntRange(1), help="Children, each with all models.  [default: one per core]")
@_broker
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def worker(manifest: Path, workers: int | None, broker_url: str | None, celery_options: tuple[str, ...]) -> None:
    """Start a worker on this machine; the same as `celery -A tasks worker -c N`.

    Options of Celery's own follow after `--`, for example: celeriac worker -- -n second@%h -l info
    """
    check_no_shadow(Path.cwd())
    environ = {**os.environ, "CELERIAC_MODELS": str(manifest)}
    if broker_url:
        environ["CELERIAC_BROKER_URL"] = broker_url
    command = worker_command(workers, *celery_options)
    sys.stdout.flush()
    os.execve(command[0], command, environ)  # noqa: S606 - the worker takes this process's place and signals


@cli.command()
@_models
@_broker
@_as_json
def models(manifest: Path, broker_url: str | None, as_json: bool) -> None:
    """List the models of the manifest, or, with a broker, those that workers hold."""
    if broker_url:
        with broker_errors(broker_url), connect(broker_url) as client:
            slots = read_slots(client)
        infos = {info.name: info for slot in slots for info in slot.models}
        counts = {name: sum(name == info.name for slot in slots for info in slot.models) for name in infos}
    else:
        infos, counts = describe(manifest), {}
    click.echo(json.dumps(tables.models_values(infos, counts)) if as_json else tables.models_table(infos, counts))


@cli.command()
@_broker
@_as_json
def jobs(broker_url: str | None, as_json: bool) -> None:
    """List the jobs that Redis remembers."""
    url = _needed(broker_url)
    with broker_errors(url), connect(url) as client:
        found = job_store.read_all(client)
    click.echo(
        json.dumps({"jobs": [tables.job_values(*job) for job in found]}) if as_json else tables.jobs_table(found)
    )


@cli.command()
@click.argument("job")
@_broker
@_as_json
def status(job: str, broker_url: str | None, as_json: bool) -> None:
    """Show one job; the first characters of its id are enough."""
    url = _needed(broker_url)
    with broker_errors(url), connect(url) as client:
        state, record = job_store.read(client, job)
    click.echo(json.dumps(tables.job_values(state, record)) if as_json else tables.job_lines(state, record))


@cli.command()
@click.argument("job")
@_broker
def cancel(job: str, broker_url: str | None) -> None:
    """End a running job; its queued chunks are never run."""
    url = _needed(broker_url)
    with broker_errors(url), connect(url) as client:
        state, record = job_store.cancel(client, job)
    running = state is job_store.JobState.RUNNING
    click.echo(f"job {record.id} is being cancelled" if running else f"job {record.id} is {state} already")


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
@_broker
@click.option("--train-only", is_flag=True, help="Make model and manifest, predict nothing.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo(folder: Path, workers: int, broker_url: str | None, train_only: bool, quiet: bool) -> None:
    """Train a small network on handwritten digits and predict them all, embedded or with a broker's workers."""
    try:
        run_demo(folder, broker_url=broker_url, workers=workers, train_only=train_only, quiet=quiet)
    except PredictionFailedError as failed:
        raise failed.error from None


def main() -> NoReturn:
    """Run the command; a user's mistake is one line on stderr and an exit code, never a traceback."""
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
        click.echo("celeriac: interrupted; nothing was written", err=True)
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


def _client(
    broker_url: str | None, worker_timeout_seconds: float, manifest: Path, workers: int | None
) -> AbstractContextManager[Client]:
    if broker_url:
        return Client(broker_url, worker_timeout_seconds=worker_timeout_seconds)
    return local(manifest, workers or 2)


def _names(models: str) -> list[str]:
    names = models.split(",")
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"the models are {models!r}; name at least one, and each one once, as MODEL,MODEL")
    return names


def _needed(broker_url: str | None) -> str:
    if not broker_url:
        raise ConfigError("no broker; give --broker or set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0")
    return broker_url
