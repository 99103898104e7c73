"""This module takes a data set through a job into a sink, with a progress bar: what `predict` and `demo` both do."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import msgspec
from tqdm import tqdm

from producer.cli.sidecar_files import OutputLedger, write_beside
from producer.client import Client
from producer.job.job import Job
from producer.job.progress_bar import paced, shown
from producer.records.failures import told as told_models
from producer.records.ledger import Ledger, told_nonfinite
from producer.sinks import JournalHead, Sink, begin_again
from producer.sinks.marks import Fill
from producer.sources import BatchSource, Source
from tasks.protocol.codec import Compression
from tasks.protocol.messages import Differed, FailureRecord, OnNonfinite, StoreName
from worker_config.errors import CeleriacError, JobCancelledError, ModelError, RowsFailedError

# A number of rows, or a share of them such as "5%"; None for any number.
MaxFailed: TypeAlias = int | str | None

# For errors of jobs whose output is of a format that cannot.
OTHERS_WOULD_GO_ON = "with .npz or .zarr the other models would go on"


@dataclass(frozen=True)
class Summary:
    """How a job went; `seconds` is from submit, with the rows at hand, to the output under its final name.

    `job` is None where an earlier run had predicted all rows already; `failed_models` are not in the output; so many
    `failures` are records of rows that have no prediction; `fill` is how they are marked, where they are filled;
    `stages` are seconds of slots by what they did; `dependent` are models whose rows are not independent, each with
    what a prediction depends on besides its row; `differed` are models of which an executor gave other outputs than
    their own graphs, which have predicted all rows.
    """

    job: str | None
    ledger: dict[str, int]
    seconds: float
    output: str | None
    error: str | None = None
    failed_models: dict[str, FailureRecord] = field(default_factory=dict)
    failures: int = 0
    fill: Fill | None = None
    stages: dict[str, float] = field(default_factory=dict)
    dependent: dict[str, str] = field(default_factory=dict)
    differed: dict[str, Differed] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """Rows that this run predicted, per second of the whole way."""
        rows = self.ledger["predicted"] - self.ledger["resumed"]
        return rows / self.seconds if self.seconds else 0.0

    def as_json(self) -> str:
        """The summary as one line."""
        return msgspec.json.encode(self).decode()

    def write_beside(self, head: JournalHead, failures: Sequence[FailureRecord]) -> None:
        """Tell beside the output, which is complete, what became of its rows.

        Raises:
            OutputError: the disk refuses.
        """
        if self.output is None:
            return
        told = OutputLedger(
            job=self.job,
            source=dict(head.source),
            models=dict(head.models),
            on_error=head.on_error,
            ledger=self.ledger,
            seconds=self.seconds,
            failed_models=self.failed_models,
            failures=len(failures),
            fill=self.fill,
            dependent=self.dependent,
            differed=self.differed,
        )
        write_beside(Path(self.output), told, failures)

    def tell_nonfinite(self) -> None:
        """One line on stderr, if rows that were predicted are not finite."""
        if told := told_nonfinite(self.ledger):
            click.echo(f"celeriac: {told}; `predict --on-nonfinite fail` has them fail, `allow` says nothing", err=True)

    def check_no_model_failed(self) -> None:
        """Raise RowsFailedError if a model failed alone: the output is complete, and without it."""
        if self.failed_models:
            raise RowsFailedError(
                f"{told_models(self.failed_models)} of {self.output}, which is complete with the others"
            )


class PredictionFailedError(CeleriacError):
    """A job that began and did not end well; carries the summary beside the error."""

    def __init__(self, error: CeleriacError, summary: Summary) -> None:
        super().__init__(str(error))
        self.error = error
        self.summary = summary


@contextmanager
def ending(sink: Sink) -> Iterator[Sink]:
    """End with the sink aborted, unless it was committed; an error then says which rows are safe.

    Raises:
        JobCancelledError: in the place of KeyboardInterrupt.
    """
    try:
        yield sink
    except PredictionFailedError:
        raise  # says it already
    except KeyboardInterrupt:
        error = JobCancelledError("interrupted")
        _add_what_is_safe(error, sink)
        raise error from None
    except CeleriacError as error:
        _add_what_is_safe(error, sink)
        raise
    finally:
        sink.abort()


def predict_to_sink(
    client: Client,
    models: Sequence[str],
    source: Source | BatchSource,
    sink: Sink,
    *,
    chunk_rows: int | None = None,
    store: StoreName | None = None,
    compression: Compression | None = None,
    head: JournalHead | None = None,
    max_failed: MaxFailed = None,
    on_nonfinite: OnNonfinite = "warn",
    quiet: bool = False,
) -> Summary:
    """Predict the rows that `sink` does not have yet, and commit it; on any error it is aborted.

    Where an executor is found to differ from its model's own graph, all rows that are written, those of an earlier run
    too, are thrown away, and predicted from the first one on by the own graph.

    A model that fails alone is dropped from the sink, where its format can do that, and so it is from the start if an
    earlier run has dropped it; else the job fails.

    Args:
        head: what the sink's journal says; the models that the workers hold must be the same, rows that fail are
            treated so, and it is told beside the output. Left out: rows that fail end the job, nothing is told.
        max_failed: how many rows may fail, those of an earlier run included.
        on_nonfinite: what rows that are not finite do, those of an earlier run excluded.

    Raises:
        PredictionFailedError: the job failed or was interrupted; nothing of it is left running.
    """
    started = time.monotonic()
    on_error = head.on_error if head else "raise"
    names = [name for name in models if name not in sink.dropped]
    job = client.submit(
        names,
        source,
        chunk_rows=chunk_rows,
        store=store,
        compression=compression,
        first_row=sink.done_rows,
        fail_together=not sink.can_drop,
        on_error=on_error,
        max_failed=max_failed,
        on_nonfinite=on_nonfinite,
        failed_before=sink.failed_rows,
        dropped_before=_dropped(sink, on_error),
        nonfinite_before=sink.nonfinite,
    )
    dropped_before = dict(sink.dropped)

    def anew() -> None:
        nonlocal sink
        seen = "; ".join(f"model {name}: {one}" for name, one in job.differed.items())
        click.echo(f"celeriac: job {job.id} begins again from the first row: {seen}", err=True)
        sink = begin_again(sink, source.rows, head)
        for name, record in dropped_before.items():
            sink.drop(name, record)

    try:
        job.allow_again(anew, first_row=0)
        if head:
            check_same_models(job, head.models)
        with shown(job, source.rows, quiet, sink.done_rows):
            for part in job.parts():
                if len(names) > 1:
                    for name, record in job.failed_models.items():
                        sink.drop(name, record)
                elif len(models) > 1:  # the outputs of a single model have no name
                    part = replace(part, outputs={names[0]: part.outputs})
                sink.write(part)
        sink.commit()
        summary = _summary(job, started, sink, None)
        if head:
            summary.write_beside(head, sink.failures)
        return summary
    except (KeyboardInterrupt, CeleriacError) as cause:
        job.cancel()
        job.wait(timeout_seconds=2.0)
        error = cause if isinstance(cause, CeleriacError) else interrupted(job, source.rows)
        alone = len(models) > 1 and any(record.model for record in job.failures())
        if isinstance(error, RowsFailedError) and on_error == "raise" and alone and not sink.can_drop:
            error.args = (f"{error}; {OTHERS_WOULD_GO_ON}",)
        _add_what_is_safe(error, sink)
        summary = _summary(job, started, sink, error)
        if head:
            with suppress(CeleriacError):  # which may be the error
                summary.write_beside(head, sink.failures)
        raise PredictionFailedError(error, summary) from error
    finally:
        sink.abort()


def _dropped(sink: Sink, on_error: str) -> int:
    """Rows that an earlier run left out on purpose."""
    return sink.left_out - (sink.failed_rows if on_error == "skip" else 0)


def finish(sink: Sink, head: JournalHead, max_failed: MaxFailed = None) -> Summary:
    """Commit a sink that an earlier run had given all its rows.

    Raises:
        RowsFailedError: more of them failed than may.
    """
    started = time.monotonic()
    rows, failed = sink.done_rows, sink.failed_rows
    if failed > most_failed(max_failed, rows):
        raise RowsFailedError(f"{failed} of {rows} rows failed, at most {max_failed} may")
    sink.commit()
    dropped = _dropped(sink, head.on_error)
    predicted = rows - failed - dropped
    ledger = Ledger(
        rows,
        predicted=predicted,
        failed=failed,
        skipped=dropped,
        written=predicted,
        resumed=predicted,
        nonfinite_inputs=sink.nonfinite[0],
        nonfinite_outputs=sink.nonfinite[1],
    )
    seconds = round(time.monotonic() - started, 6)
    summary = Summary(
        None,
        ledger.as_dict(),
        seconds,
        str(sink.path),
        failed_models=dict(sink.dropped),
        failures=len(sink.failures),
        fill=sink.fill,
    )
    summary.write_beside(head, sink.failures)
    return summary


def most_failed(max_failed: MaxFailed, rows: int) -> float:
    """How many rows may fail."""
    if isinstance(max_failed, str):
        return math.floor(rows * float(max_failed.removesuffix("%")) / 100)
    return math.inf if max_failed is None else max_failed


def interrupted(job: Job, rows: int | None) -> JobCancelledError:
    """What to say of a job that the user has interrupted."""
    predicted = f"{job.ledger.predicted} of {'?' if rows is None else rows} rows were predicted"
    return JobCancelledError(f"interrupted: job {job.id} was cancelled; {predicted}")


def _add_what_is_safe(error: CeleriacError, sink: Sink) -> None:
    """Abort a sink, and let the error's text tell what can be continued; that nothing can, to who ended the work."""
    sink.abort()
    if sink.committed:
        safe = f"{sink.path} is complete"
    elif sink.safe_rows is not None:
        safe = f"{sink.safe_rows} rows are safe beside {sink.path}; continue with --resume"
    elif isinstance(error, JobCancelledError):
        safe = "nothing was left behind"
    else:
        return
    error.args = (f"{error}; {safe}",)


def check_same_models(job: Job, digests: Mapping[str, str]) -> None:
    """Make sure that a job runs with these models.

    Raises:
        ModelError: it does not.
    """
    changed = [name for name, digest in job.digests.items() if digests[name] != digest]
    if changed:
        raise ModelError(f"model {', '.join(changed)} has changed since this command began; run it again")


def _summary(job: Job, started: float, sink: Sink, error: CeleriacError | None) -> Summary:
    seconds = round(time.monotonic() - started, 6)
    output = str(sink.path) if sink.committed else None
    return Summary(
        job.id,
        job.ledger.as_dict(),
        seconds,
        output,
        str(error) if error else None,
        failed_models=dict(sink.dropped),
        failures=len(sink.failures),
        fill=sink.fill,
        stages=job.stages,
        dependent=job.dependent,
        differed=job.differed,
    )


def progress_bar(rows: int | None, quiet: bool) -> Any:
    """A live bar on a terminal, nothing elsewhere."""
    hidden = quiet or not sys.stderr.isatty()
    return paced(tqdm)(total=rows, unit=" rows", disable=hidden, dynamic_ncols=True)
