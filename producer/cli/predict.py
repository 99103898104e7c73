"""This module is `celeriac predict`: one data set through one or several models, into one output."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from producer.cli.detach import check_alone, leave_job, needed_for_detach
from producer.cli.dry_run import check_dry, dry_run
from producer.cli.manifest import check_names, model_digests, not_independent
from producer.cli.only_failed import finished_output, predict_failed
from producer.cli.options import (
    broker_option,
    json_option,
    max_failed_option,
    metrics_port_option,
    models_option,
    on_error_option,
    on_nonfinite_option,
    timeout_option,
)
from producer.cli.predict_to_sink import (
    MaxFailed,
    PredictionFailedError,
    Summary,
    ending,
    finish,
    most_failed,
    predict_to_sink,
)
from producer.cli.sidecar_files import failures_path
from producer.client import Client
from producer.detached.submit import Wishes
from producer.embedded import local
from producer.preflight.preflight import Wanted
from producer.scheduling.error_budget import ErrorBudget
from producer.sinks import FORMATS, JournalHead, Sink, can_drop, check_output, marks, open_sink
from producer.sinks.journal import JsonValue
from producer.sources import fingerprint, open_source
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnError, OnNonfinite, StoreName
from worker_config.errors import UsageError
from worker_config.retry_policy import LEAST_TTL_SECONDS


@click.command()
@click.argument("model")
@click.argument("input_path", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help=f"The file to write: {', '.join(FORMATS)}.")
@models_option
@click.option("--workers", type=click.IntRange(1), help="Children of the embedded worker.  [default: 2]")
@broker_option
@click.option("--columns", help="The columns of a Parquet file to take, as NAME[,NAME...]; all if left out.")
@click.option("--contents", is_flag=True, help="Rows are what the files of INPUT hold, not their paths.")
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of one chunk; chosen from the data if left out.")
@click.option(
    "--store",
    type=click.Choice(["redis", "files", "slices"]),
    help="The way of the rows; the fastest that the workers reach if left out.",
)
@click.option("--compression", type=click.Choice(["lz4", "zstd"]), help="Pack payloads; for slow networks.")
@on_error_option
@max_failed_option
@on_nonfinite_option
@timeout_option
@click.option("--detach", is_flag=True, help="Leave the job with the broker and print its id; `fetch` has the output.")
@click.option(
    "--ttl-seconds",
    type=click.IntRange(LEAST_TTL_SECONDS),
    help="How long the broker keeps a detached job.  [default: CELERIAC_JOB_TTL_SECONDS]",
)
@click.option("--resume", is_flag=True, help="Continue a run that did not end well, where its rows are safe.")
@click.option(
    "--only-failed",
    is_flag=True,
    help="With --resume: predict the failed rows of a finished OUTPUT again, and put them at their place.",
)
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option(
    "--dry-run",
    "is_dry",
    is_flag=True,
    help="Send one batch through every stage, forecast time, memory and output, and write nothing.",
)
@metrics_port_option
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@json_option
def predict(
    model: str,
    input_path: Path,
    output: Path | None,
    manifest: Path,
    workers: int | None,
    broker_url: str | None,
    columns: str | None,
    contents: bool,
    chunk_rows: int | None,
    store: StoreName | None,
    compression: Compression | None,
    on_error: OnError | None,
    max_failed: MaxFailed,
    on_nonfinite: OnNonfinite,
    worker_timeout_seconds: float,
    detach: bool,
    ttl_seconds: int | None,
    resume: bool,
    only_failed: bool,
    force: bool,
    is_dry: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict every row of INPUT with MODEL, or with several: MODEL,MODEL.

    INPUT is an .npy, .npz, .parquet, .tfrecord or .zarr file, a folder, or a pattern such as 'images/*.jpg'.

    Without a broker everything is embedded: a private Redis and a worker, both gone afterwards.

    One of several models that fails ends the job, unless OUTPUT is .npz or .zarr: it is then left out, the others go
    on, and the exit code is 4.

    With --on-error skip or fill a row that fails costs itself alone: OUTPUT.failures.jsonl says which rows did and why,
    and the exit code is 0 as long as --max-failed is kept. When the cause is mended, --resume --only-failed predicts
    them again. OUTPUT.ledger.json says what became of all rows.

    Whatever ends it early, the rows that were written by then are kept beside OUTPUT, in hidden files: the same command
    with --resume continues there, as long as INPUT and the models are the same. Chunks, stores and workers may differ,
    but not chunks of models with independent_rows = false.

    With --detach the command ends as soon as the whole job is with the broker; `celeriac fetch JOB -o OUTPUT` writes
    its output, from any machine.

    With --dry-run the input is opened and held against the models, one batch goes through every stage, and what the
    whole run would take is told; errors are those that it would end with. Nothing is written, and no job stays.
    """
    options = _input_options(columns, contents)
    if detach:
        check_alone(
            {"--output": output, "--resume": resume, "--force": force, "--workers": workers}
            | {"--on-error": on_error not in (None, "raise"), "--max-failed": max_failed is not None}
            | {"--only-failed": only_failed}
        )
        wishes = Wishes(chunk_rows, store, compression, ttl_seconds, on_nonfinite)
        if is_dry:
            url, source = needed_for_detach(broker_url), open_source(input_path, **options)
            policy = ErrorBudget(on_nonfinite=on_nonfinite)
            wanted = Wanted(chunk_rows, store, compression, policy=policy, wishes=wishes)
            with Client(url, worker_timeout_seconds=worker_timeout_seconds) as broker:
                return dry_run(broker, _names(model), source, None, wanted, quiet=quiet, as_json=as_json)
        return leave_job(_names(model), input_path, options, broker_url, wishes, worker_timeout_seconds, quiet, as_json)
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if ttl_seconds is not None:
        raise click.UsageError("--ttl-seconds is for --detach; an attached job ends with its command")
    if broker_url and workers:
        raise click.UsageError("--workers is for the embedded system; with a broker, workers are running already")
    if is_dry:
        check_dry({"--resume": resume, "--only-failed": only_failed})
    _check_failure_options(on_error, max_failed, resume, only_failed, force)
    names = _names(model)
    if not broker_url:
        check_names(names, manifest)
    seen = fingerprint(input_path)  # before it is opened, so that a change after this is never missed
    source = open_source(input_path, **options)
    try:
        # Whatever can be refused is, before the embedded worker is started, which takes seconds.
        with ExitStack() as stack:
            client, finished = None, None
            if only_failed:
                finished = stack.enter_context(finished_output(output))
            else:
                check_output(output, force, resume=resume)
            if broker_url:
                client = stack.enter_context(Client(broker_url, worker_timeout_seconds=worker_timeout_seconds))
            digests = client.digests(names) if client else model_digests(names, manifest)
            if is_dry:
                policy = _policy(on_error, max_failed, source.rows, on_nonfinite)
                wanted = Wanted(chunk_rows, store, compression, not can_drop(output), policy)
                system = client or local(manifest, workers or 2)
                return dry_run(system, names, source, output, wanted, quiet=quiet, as_json=as_json)
            of_before = finished.told.on_error if finished else "raise"
            is_meant = not_independent(names, client, manifest)
            if is_meant and finished:
                raise UsageError(
                    f"--only-failed is for independent rows, which those of model {is_meant[0]} are not, as the "
                    "manifest says: their chunks would be others; predict all rows again with --force"
                )
            head = JournalHead(
                source={**seen, **options},
                models=digests,
                on_error=on_error or of_before,
                chunk_rows=(chunk_rows or "default") if is_meant else None,
            )
            if finished:
                finished.check_same(source, head)
                summary = predict_failed(
                    client or stack.enter_context(local(manifest, workers or 2)),
                    names,
                    source,
                    finished,
                    head,
                    chunk_rows=chunk_rows,
                    store=store,
                    compression=compression,
                    on_nonfinite=on_nonfinite,
                    quiet=quiet,
                )
            else:
                sink = stack.enter_context(ending(open_sink(output, source.rows, force, journal=head, resume=resume)))
                if sink.dropped_rows and not quiet:
                    click.echo(f"celeriac: {_dropped(sink)}", err=True)
                if sink.done_rows and sink.done_rows == source.rows:
                    summary = finish(sink, head, max_failed)
                else:
                    summary = predict_to_sink(
                        client or stack.enter_context(local(manifest, workers or 2)),
                        names,
                        source,
                        sink,
                        chunk_rows=chunk_rows,
                        store=store,
                        compression=compression,
                        head=head,
                        max_failed=max_failed,
                        on_nonfinite=on_nonfinite,
                        quiet=quiet,
                    )
    except PredictionFailedError as failed:
        if as_json:
            click.echo(failed.summary.as_json())
        raise failed.error from None
    if not quiet:
        click.echo(_told(summary))
    if as_json:
        click.echo(summary.as_json())
    if summary.fill and summary.fill.mark not in (marks.NAME, marks.mask_path(output).name):
        name = f"an output or a model is named {marks.NAME!r}"
        click.echo(f"celeriac: {name}: rows that failed are marked as {summary.fill.mark!r}", err=True)
    if on_nonfinite != "allow":
        summary.tell_nonfinite()
    summary.check_no_model_failed()


def _policy(
    on_error: OnError | None, max_failed: MaxFailed, rows: int | None, on_nonfinite: OnNonfinite
) -> ErrorBudget:
    """Of the first rows alone: as many of them may fail as of all."""
    if isinstance(max_failed, str) and rows is None:
        max_failed = None
    return ErrorBudget(on_error or "raise", most_failed(max_failed, rows or 0), on_nonfinite=on_nonfinite)


def _dropped(sink: Sink) -> str:
    return (
        f"{sink.dropped_rows} rows that an earlier run left beside {sink.path} are dropped; --resume would have "
        "continued it, if its input and models are the same"
    )


def _told(summary: Summary) -> str:
    resumed, failed = summary.ledger["resumed"], summary.ledger["failed"]
    earlier = f", after {resumed:,} by an earlier run" if resumed else ""
    without = f", {failed:,} failed (see {failures_path(Path(str(summary.output)))})" if failed else ""
    return (
        f"{summary.ledger['predicted'] - resumed:,} rows predicted in {summary.seconds:.2f} s "
        f"({summary.rows_per_second:,.0f} rows per second){earlier}{without}, written to {summary.output}"
    )


def _check_failure_options(
    on_error: OnError | None, max_failed: MaxFailed, resume: bool, only_failed: bool, force: bool
) -> None:
    if only_failed and not resume:
        raise click.UsageError("--only-failed is for --resume: it continues with the failed rows of a finished output")
    if only_failed and (force or max_failed is not None):
        option, reason = ("--force", "replaces the output itself") if force else ("--max-failed", "adds no failed row")
        raise click.UsageError(f"{option} makes no sense with --only-failed, which {reason}")
    if max_failed is not None and on_error in (None, "raise"):
        raise click.UsageError("--max-failed is for --on-error skip or fill; else any row that fails ends the job")


def _input_options(columns: str | None, contents: bool) -> dict[str, JsonValue]:
    options: dict[str, JsonValue] = {}
    if columns is not None:
        options["columns"] = [*columns.split(",")]
    if contents:
        options["contents"] = True
    return options


def _names(models: str) -> list[str]:
    names = models.split(",")
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"the models are {models!r}; name at least one, and each one once, as MODEL,MODEL")
    return names
