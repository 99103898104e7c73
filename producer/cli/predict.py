"""`celeriac predict`: options --> checked, as one PredictRequest --> one of four use cases --> a summary.

predict_to_output     all rows into one output, or with --resume those that it lacks
predict_failed_rows   --only-failed: those that failed, at their place in a finished output
dry_run               --dry-run: one batch, nothing is written
leave_job             --detach: the job stays with the broker
leave_with_output     --detach with a folder: workers write it without this command
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from producer.cli.detach import leave_job, leave_with_output
from producer.cli.dry_run import dry_run, dry_run_detached
from producer.cli.manifest import named_or_file
from producer.cli.options import (
    PathOrUrl,
    broker_option,
    is_on_command_line,
    json_option,
    max_failed_option,
    metrics_port_option,
    models_option,
    on_error_option,
    on_nonfinite_option,
    priority_option,
    timeout_option,
)
from producer.cli.predict_to_output import predict_failed_rows, predict_to_output
from producer.cli.reporting import ReportingCommand, report
from producer.cli.request import PredictRequest
from producer.outputs.open_input import input_options
from producer.outputs.run_options import MaxFailed, RunOptions
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.job_options import JobName, JobOptions, check_name
from producer.sinks import FORMATS, output_path
from producer.sinks.folder import PART_MIB
from producer.sources import fingerprint
from tasks.outputs.formats import IN_PARTS
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnError, OnNonfinite, StoreName
from worker_config.errors import UsageError
from worker_config.object_urls import is_url
from worker_config.retry_policy import LEAST_TTL_SECONDS

# What an option makes senseless, and why.
_EXCLUDED = {
    "--detach": {
        "--resume": ": `celeriac fetch JOB` can be repeated",
        "--workers": ": it is for the embedded system, which ends with the command",
        "--only-failed": ": it is for an output that is finished",
    },
    "--detach without --output": {
        "--force": ": `celeriac fetch JOB -o OUTPUT --force` replaces an output",
        "--on-error": ": a row that fails ends a detached job, unless workers write its output",
        "--max-failed": ": a row that fails ends a detached job, unless workers write its output",
        "--keep": ": whoever fetches the output does not have INPUT",
    },
    "--dry-run": dict.fromkeys(("--resume", "--only-failed"), ", which begins with the first row and writes nothing"),
    "--job": {"--only-failed": ", which changes an output that is done"},
    "--only-failed": {
        "--force": ", which replaces the output itself",
        "--max-failed": ", which adds no failed row",
    },
}


@click.command(cls=ReportingCommand, context_settings={"allow_extra_args": True})
@click.argument("model")
@click.argument("input_path", metavar="INPUT", type=PathOrUrl())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help=f"The file to write: {', '.join(FORMATS)}; or, with a / at its end, a folder of files that workers write: "
    f"{', '.join(f'{suffix}/' for suffix in IN_PARTS)}. Either may be a URL: s3://, gs:// or az://.",
)
@click.option(
    "--part-mib",
    type=click.IntRange(1),
    help=f"Of a folder: the size of its files, about.  [default: {PART_MIB}]",
)
@models_option
@click.option("--workers", type=click.IntRange(1), help="Children of the embedded worker.  [default: 2]")
@broker_option
@click.option(
    "--columns",
    multiple=True,
    metavar="[INPUT=]NAME[,NAME...]",
    help="The columns of INPUT to take, or of which to make an input of the model, as pixels=p0..p783; may be "
    "repeated.  [default: those that the model needs]",
)
@click.option("--array", metavar="NAME", help="The array of an .npz file or a Zarr group to take alone.")
@click.option(
    "--keep",
    metavar="NAME[,NAME...]",
    help="Columns of INPUT to write beside the predictions; `path` is that of a file, `row` the number of a row.",
)
@click.option("--dtype", help="What raw bytes in an .npy or .npz file are, such as bfloat16.")
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
@priority_option
@timeout_option
@click.option("--detach", is_flag=True, help="Leave the job with the broker and print its id; `fetch` has the output.")
@click.option(
    "--ttl-seconds",
    type=click.IntRange(LEAST_TTL_SECONDS),
    help="How long the broker keeps a detached job.  [default: CELERIAC_JOB_TTL_SECONDS]",
)
@click.option(
    "--job",
    metavar="NAME",
    callback=lambda _, __, name: check_name(name),
    help="Do it once, however often and on however many machines it is begun by this name: wait for who runs it, "
    "continue what did not end well, do nothing where it was done.",
)
@click.option("--resume", is_flag=True, help="Continue a run that did not end well, where its rows are safe.")
@click.option(
    "--only-failed",
    is_flag=True,
    help="With --resume: predict the failed rows of a finished OUTPUT again, and put them at their place.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="With --resume or --job: go on though INPUT or a model has changed, as where the cause of a failed row was "
    "mended; OUTPUT.ledger.json says so.",
)
@click.option("--force", is_flag=True, help="Replace an output that exists, or rows that an earlier run has left.")
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
    input_path: Path | str,
    output: str | None,
    part_mib: int | None,
    manifest: Path,
    workers: int | None,
    broker_url: str | None,
    columns: tuple[str, ...],
    array: str | None,
    dtype: str | None,
    keep: str | None,
    contents: bool,
    chunk_rows: int | None,
    store: StoreName | None,
    compression: Compression | None,
    on_error: OnError | None,
    max_failed: MaxFailed,
    on_nonfinite: OnNonfinite,
    priority: float | None,
    worker_timeout_seconds: float,
    detach: bool,
    ttl_seconds: int | None,
    job: str | None,
    resume: bool,
    only_failed: bool,
    accept_changes: bool,
    force: bool,
    is_dry: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict every row of INPUT with MODEL, or with several: MODEL,MODEL.

    MODEL is a name of the manifest, or, embedded, the model's own file or folder, such as digits.keras.

    INPUT is an .npy, .npz, .parquet, .csv, .jsonl, .arrow, .feather, .tfrecord, .tar, .h5, .hdf5 or .zarr file, a
    folder, a pattern such as 'images/*.jpg', in quotes, or the URL of one of these.

    Without a broker everything is embedded: a private Redis and a worker, both gone afterwards.

    One of several models that fails ends the job, unless OUTPUT is .npz or .zarr: it is then left out, the others go
    on, and the exit code is 4.

    With --on-error skip or fill a row that fails costs itself alone: OUTPUT.failures.jsonl says which rows did and why,
    and the exit code is 0 as long as --max-failed is kept. When the cause is mended, --resume --only-failed predicts
    them again. OUTPUT.ledger.json says what became of all rows.

    Whatever ends it early, the rows that were written by then are kept beside OUTPUT, in hidden files: the same command
    with --resume continues there, as long as INPUT and the models are the same, or --accept-changes says that they may
    differ. Chunks, stores and workers may, but not chunks of models with independent_rows = false.

    With --job NAME the work is done once: whoever begins it while it runs waits for its end, and ends the same; when it
    has ended well there is nothing to do, and the exit code is 0; what was killed or has failed goes on, as with
    --resume. A name is for one INPUT, the same models and one OUTPUT.

    With --detach the command ends as soon as the whole job is with the broker; `celeriac fetch JOB -o OUTPUT` writes
    its output, from any machine. With -o OUTPUT/ too, workers write the outputs there, and `celeriac fetch JOB` puts
    the files in place.

    With --dry-run the input is opened and held against the models, one batch goes through every stage, and what the
    whole run would take is told; errors are those that it would end with. Nothing is written, and no job stays.
    """
    context = click.get_current_context()
    if context.args:
        raise click.UsageError(
            f"INPUT is one argument, and {context.args[0]!r} is another; if the shell has made many of a pattern, "
            "quote it, as 'images/*.jpg'"
        )
    goes_on = on_error not in (None, "raise")
    if not detach and output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if not detach and ttl_seconds is not None:
        raise click.UsageError("--ttl-seconds is for --detach; an attached job ends with its command")
    if only_failed and not resume and not detach:
        raise click.UsageError("--only-failed is for --resume: it continues with the failed rows of a finished output")
    if accept_changes and not (resume or job):
        raise click.UsageError("--accept-changes is for --resume and --job: it continues what was begun otherwise")
    _check_excluded(
        {
            "--detach": detach,
            "--detach without --output": detach and not output,
            "--dry-run": is_dry,
            "--only-failed": only_failed,
            "--job": job,
        }
        | {"--resume": resume, "--force": force, "--workers": workers}
        | {"--on-error": goes_on, "--max-failed": max_failed is not None, "--keep": keep}
    )
    if detach and output and not output.endswith("/"):
        raise click.UsageError(
            f"--output makes sense with --detach as a folder alone, which workers write: end it with a / "
            f"({', '.join(IN_PARTS)}), or leave it out, and `celeriac fetch JOB -o {output}` writes it"
        )
    if detach and not broker_url:
        raise click.UsageError(
            "--detach needs a broker: the embedded system ends with the command; give --broker or set "
            "CELERIAC_BROKER_URL"
        )
    if broker_url and workers:
        raise click.UsageError("--workers is for the embedded system; with a broker, workers are running already")
    if broker_url and is_on_command_line(context, "manifest"):
        raise click.UsageError(
            "--models is for the embedded system; with a broker, workers have manifests of their own"
        )
    if max_failed is not None and not goes_on:
        raise click.UsageError("--max-failed is for --on-error skip or fill; else any row that fails ends the job")
    if not broker_url:
        model, manifest = named_or_file(model, manifest)
    request = PredictRequest(
        models=_names(model),
        input_path=input_path,
        input_options=input_options(columns, array, dtype, contents),
        manifest=manifest,
        workers=workers,
        broker_url=broker_url,
        worker_timeout_seconds=worker_timeout_seconds,
        on_error=on_error,
        run=RunOptions(
            chunk_rows,
            store,
            compression,
            max_failed,
            on_nonfinite,
            priority,
            quiet,
            keep.split(",") if keep else (),
            part_mib,
        ),
        as_json=as_json,
        job=job,
    )
    if output is None:
        options = JobOptions(
            chunk_rows=chunk_rows,
            store=store,
            compression=compression,
            policy=ErrorBudget(on_nonfinite=on_nonfinite),
            priority=priority,
            detach=True,
            ttl_seconds=ttl_seconds,
            job=None if job is None else JobName.of(job, fingerprint(input_path) | request.input_options),
        )
        return dry_run_detached(request, options) if is_dry else leave_job(request, options)
    path, in_parts = output_path(output) if is_url(output) else Path(output), output.endswith("/")
    if detach and not is_dry:
        return leave_with_output(request, path, ttl_seconds, force=force)
    if is_dry:
        return dry_run(request, path, force, in_parts=in_parts)
    if only_failed:
        summary = predict_failed_rows(request, path, accept_changes=accept_changes)
    else:
        summary = predict_to_output(
            request, path, resume=resume, force=force, accept_changes=accept_changes, in_parts=in_parts
        )
    report(summary, summary.as_line(), quiet=quiet, as_json=as_json, on_nonfinite=on_nonfinite)


def _check_excluded(given: Mapping[str, object]) -> None:
    for option, excluded in _EXCLUDED.items():
        for other, reason in excluded.items():
            if given[option] and given[other]:
                raise click.UsageError(f"{other} makes no sense with {option}{reason}")


def _names(models: str) -> list[str]:
    names = models.split(",")
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"the models are {models!r}; name at least one, and each one once, as MODEL,MODEL")
    return names
