"""Data set --job--> parts --> sink, with a progress bar where one is wanted."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from producer.job.job import Job
from producer.job.progress_bar import shown
from producer.merging.merge_job import MergeJob
from producer.outputs.run_options import MaxFailed, RunOptions
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.ledger import Ledger
from producer.rows.kept import KeptColumns
from producer.scheduling.error_budget import make_policy
from producer.scheduling.job_options import JobOptions
from producer.sinks import JournalHead, Sink, begin_again
from producer.sources import BatchSource, Source
from worker_config.errors import CeleriacError, JobCancelledError, ModelError, RowsFailedError

logger: logging.Logger = logging.getLogger(__name__)

# For errors of jobs whose output is of a format that cannot.
OTHERS_WOULD_GO_ON = "with .npz or .zarr the other models would go on"
_PLAIN = RunOptions()


class JobClient(Protocol):
    """What an output needs of a client."""

    def _begin_job(self, models: list[str], source: Source | BatchSource, options: JobOptions) -> Job:
        """Begin an attached job; raises as `Client.submit`."""


class InterruptedHereError(JobCancelledError):
    """By Ctrl-C, or a signal, in this process."""


@contextmanager
def ending(sink: Sink) -> Iterator[Sink]:
    """Abort the sink in the end, unless it was committed; an error, also an interrupt, says which rows are safe."""
    try:
        yield sink
    except PredictionFailedError:
        raise  # says it already
    except KeyboardInterrupt:
        error = InterruptedHereError("interrupted")
        _add_what_is_safe(error, sink)
        raise error from None
    except CeleriacError as error:
        _add_what_is_safe(error, sink)
        raise
    finally:
        sink.abort()


def predict_to_sink(
    client: JobClient,
    models: Sequence[str],
    source: Source | BatchSource,
    sink: Sink,
    head: JournalHead | None = None,
    run: RunOptions = _PLAIN,
    kept: KeptColumns | None = None,
    begun: Callable[[Job], None] = lambda _: None,
) -> Summary:
    """Predict the rows that `sink` does not have yet, and commit it; on any error it is aborted.

    Where an executor is found to differ from its model's own graph, all rows that are written, those of an earlier run
    too, are thrown away, and predicted from the first one on by the own graph.

    A model that fails alone is dropped from the sink, where its format can do that, and so it is from the start if an
    earlier run has dropped it; else the job fails.

    Args:
        head: what the sink's journal says; the models that the workers hold must be the same, rows that fail are
            treated so, and it is written beside the output. Left out: rows that fail end the job, nothing is written.
        kept: columns of the data set that are written beside the outputs.
        begun: is given the job when it has begun.
        run: how; `max_failed` counts rows of an earlier run too, `on_nonfinite` is for those of this run alone.

    Raises:
        PredictionFailedError: the job failed or was interrupted; nothing of it is left running.
    """
    started = time.monotonic()
    on_error = head.on_error if head else "raise"
    names = [name for name in models if name not in sink.dropped]
    options = JobOptions(
        chunk_rows=run.chunk_rows,
        store=run.store,
        compression=run.compression,
        first_row=sink.done_rows,
        fail_together=not sink.can_drop,
        policy=make_policy(on_error, run.max_failed, run.on_nonfinite),
        failed_before=sink.failed_rows,
        dropped_before=_dropped(sink, on_error),
        nonfinite_before=sink.nonfinite,
        priority=run.priority,
        write_to=sink.folder.reply if sink.folder else None,
        keep=kept.names if sink.folder and kept else (),
    )
    job = client._begin_job(names, source, options)
    if sink.folder:
        sink.folder.note_job(job.id)
        sink.folder.begin_merges = partial(MergeJob, job.context, sink.path.name)
    begun(job)
    dropped_before = dict(sink.dropped)

    def begin_from_first_row() -> None:
        nonlocal sink
        seen = "; ".join(f"model {name}: {one}" for name, one in job.differed.items())
        logger.warning("job %s begins again from the first row: %s", job.id, seen)
        sink = begin_again(sink, source.rows, head)
        for name, record in dropped_before.items():
            sink.drop(name, record)
        sink.output_name, sink.kept = job.output_name, kept.names if kept else ()

    try:
        sink.output_name, sink.kept = job.output_name, kept.names if kept else ()
        job.allow_again(begin_from_first_row, first_row=0)
        if head:
            check_same_models(job, head.models)
        with shown(job, source.rows, run.quiet, sink.done_rows):
            for part in job.parts():
                if len(names) > 1:
                    for name, record in job.failed_models.items():
                        sink.drop(name, record)
                elif len(models) > 1 and not sink.folder:  # the outputs of a single model have no name
                    part = replace(part, outputs={names[0]: part.outputs})
                is_whole = part.stored is not None and (part.stored.ref is not None or not part.rows)
                sink.write(kept.beside(part, job.output_name) if kept and not is_whole else part)
        sink.commit()
        summary = _summary(sink, started, job.ledger, job)
        if head:
            summary.write_beside(head, sink.failures)
        return summary
    except (KeyboardInterrupt, CeleriacError) as cause:
        error = end_by(cause, job, source.rows)
        alone = len(models) > 1 and any(record.model for record in job.failures())
        if isinstance(error, RowsFailedError) and on_error == "raise" and alone and not sink.can_drop:
            error.args = (f"{error}; {OTHERS_WOULD_GO_ON}",)
        _add_what_is_safe(error, sink)
        summary = _summary(sink, started, job.ledger, job, error)
        if head:
            with suppress(CeleriacError):  # which may be the error
                summary.write_beside(head, sink.failures)
        raise PredictionFailedError(error, summary) from error
    finally:
        sink.abort()
        if kept:
            kept.close()


def _dropped(sink: Sink, on_error: str) -> int:
    """Rows that an earlier run left out on purpose."""
    return sink.left_out - (sink.failed_rows if on_error == "skip" else 0)


def finish(sink: Sink, head: JournalHead, max_failed: MaxFailed = None) -> Summary:
    """Commit a sink that an earlier run had given all its rows, unless more of them failed than may."""
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
    summary = _summary(sink, started, ledger)
    summary.write_beside(head, sink.failures)
    return summary


def most_failed(max_failed: MaxFailed, rows: int) -> float:
    """How many rows may fail."""
    if isinstance(max_failed, str):
        return math.floor(rows * float(max_failed.removesuffix("%")) / 100)
    return math.inf if max_failed is None else max_failed


def end_by(cause: KeyboardInterrupt | CeleriacError, job: Job, rows: int | None) -> CeleriacError:
    """End a job, and give its error: the cause, or what to say of a job that the user has interrupted."""
    job.cancel()
    job.wait(timeout_seconds=2.0)
    if isinstance(cause, CeleriacError):
        return cause
    predicted = f"{job.ledger.predicted} of {'?' if rows is None else rows} rows were predicted"
    return InterruptedHereError(f"interrupted: job {job.id} was cancelled; {predicted}")


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
    """Raise ModelError unless a job runs with these models."""
    changed = [name for name, digest in job.digests.items() if digests[name] != digest]
    if changed:
        raise ModelError(f"model {', '.join(changed)} has changed since this command began; run it again")


def _summary(
    sink: Sink, started: float, ledger: Ledger, job: Job | None = None, error: CeleriacError | None = None
) -> Summary:
    return Summary(
        job=job.id if job else None,
        ledger=ledger.as_dict(),
        seconds=round(time.monotonic() - started, 6),
        output=str(sink.path) if sink.committed else None,
        error=str(error) if error else None,
        failed_models=dict(sink.dropped),
        failures=_count_failures(sink, ledger, job),
        fill=sink.fill,
        stages=job.stages if job else {},
        dependent=job.dependent if job else {},
        differed=job.differed if job else {},
        accepted_changes=sink.accepted,
    )


def _count_failures(sink: Sink, ledger: Ledger, job: Job | None) -> int:
    """Records of rows that failed: those beside an output, or, where there is none, those that the job has seen."""
    written = len(sink.failures)
    if sink.committed or job is None or ledger.failed <= written:
        return written
    return max(written, min(len(job.failures()) + job.more_failures, ledger.failed))
