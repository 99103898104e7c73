"""The predictions of a job that was left with the broker --> an output, by whoever fetches them."""

from __future__ import annotations

import logging
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from producer.detached.detached_job import DetachedJob
from producer.job.progress_bar import paced
from producer.merging.merge_here import MergeHere
from producer.outputs.predict_to_sink import OTHERS_WOULD_GO_ON
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.ledger import Ledger
from producer.sinks import JournalHead, Sink, check_output, open_sink
from tasks.protocol.records import JobRecord
from worker_config.errors import CeleriacError, ExecutorDifferedError, ExitCode, RowsFailedError

logger: logging.Logger = logging.getLogger(__name__)


class NotWaitedForError(CeleriacError):
    """Whoever waited for a job did not wait for its end; the job goes on."""

    exit_code = ExitCode.CANCELLED


def fetch_to_output(job: DetachedJob, output: Path, force: bool, quiet: bool, *, in_parts: bool = False) -> Summary:
    """As `fetch_to_sink`; from the first row again, where those that were read have become void.

    The files of a folder are made here, as the outputs come here; a fetch that was killed is not continued.
    """
    check_output(output, force, in_parts=in_parts)
    journal = _head(job.record) if in_parts else None
    while True:
        with open_sink(output, job.rows_out, force or in_parts, journal=journal, in_parts=in_parts) as sink:
            if sink.folder:
                sink.folder.begin_merges = MergeHere
            try:
                return fetch_to_sink(job, sink, quiet)
            except PredictionFailedError as failed:
                if not isinstance(failed.error, ExecutorDifferedError):
                    raise
                logger.warning("%s; that is done now", failed.error)
            finally:
                sink.discard()


def fetch_to_sink(job: DetachedJob, sink: Sink, quiet: bool) -> Summary:
    """Write all parts and commit; PredictionFailedError where the job has no whole output, or nobody waited for it."""
    written, record = 0, job.record
    sink.output_name = job.output_name
    try:
        with progress_bar(record.rows, quiet) as bar, closing(job.parts()) as parts:
            for part in parts:
                if len(record.models) > 1 and len(part.outputs) < len(record.models) - len(sink.dropped):
                    for name, failure in job.failed_models.items():
                        if not sink.can_drop:
                            raise RowsFailedError(f"job {job.id}: {failure}; {OTHERS_WOULD_GO_ON}")
                        sink.drop(name, failure)
                sink.write(part)
                written += part.predicted_rows
                bar.update(part.stop - part.start)
        record = _counted(job.record, sink, written)
        sink.commit()
        summary = _summary(record, sink, written)
        summary.write_beside(_head(record), sink.failures)
        return summary
    except (KeyboardInterrupt, CeleriacError) as cause:
        if isinstance(cause, CeleriacError):
            error = cause
            with suppress(CeleriacError):  # what was known before will do
                record = job.record
        else:
            error = NotWaitedForError(f"interrupted: {written} of {record.rows} rows were fetched")
        if sink.committed:
            error.args = (f"{error}; {sink.path} is complete",)
        elif error is not cause:
            error.args = (f"{error}, nothing was written; job {job.id} stays in the system: fetch it again",)
        failures = len(job.failures()) if record.ledger.get("failed") else 0
        summary = _summary(record, sink, written, error, min(failures, record.ledger.get("failed", 0)))
        with suppress(CeleriacError):  # which may be the error
            summary.write_beside(_head(record), sink.failures)
        raise PredictionFailedError(error, summary) from error


def _counted(record: JobRecord, sink: Sink, written: int) -> JobRecord:
    """The record of a job all of whose rows were read, with what was counted of them here, not by who writes to Redis.

    Raises:
        CeleriacError: they are not all rows.
    """
    inputs, outputs = sink.nonfinite
    counts = {"predicted": written, "failed": 0, "skipped": 0, "nonfinite_inputs": inputs, "nonfinite_outputs": outputs}
    record = msgspec.structs.replace(record, ledger=record.ledger | counts)
    Ledger(**record.ledger | {"written": written}).check()
    return record


def _head(record: JobRecord) -> JournalHead:
    """What is written beside the output; of the data set nobody here knows more than its name."""
    models = record.plan.models if record.plan else ()
    return JournalHead({"input": record.input}, {model.name: model.digest for model in models})


def _summary(
    record: JobRecord, sink: Sink, written: int, error: CeleriacError | None = None, failures: int = 0
) -> Summary:
    """As of `predict`; `seconds` are those from the job's submission to its last answer."""
    return Summary(
        job=record.id,
        ledger=record.ledger | {"written": written if sink.committed else 0},
        seconds=round(record.updated_at - record.submitted_at, 6),
        output=str(sink.path) if sink.committed else None,
        error=str(error) if error else None,
        failed_models=record.failed_models,
        failures=failures,
        dependent=record.dependent,
        differed=record.differed,
    )


def progress_bar(rows: int | None, quiet: bool) -> Any:
    """A live bar on a terminal, nothing elsewhere."""
    hidden = quiet or not sys.stderr.isatty()
    return paced(tqdm)(total=rows, unit=" rows", disable=hidden, dynamic_ncols=True)
