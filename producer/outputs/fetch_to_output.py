"""The predictions of a job that was left with the broker --> an output, by whoever fetches them.

outputs, by way of Redis --> a sink --> OUTPUT                a fetch that was killed begins anew
parts that workers have written --> a sink --merged--> OUTPUT/    one that was killed is continued, by its journal
"""

from __future__ import annotations

import logging
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from producer.detached.detached_job import DetachedJob
from producer.detached.left_output import clear_up
from producer.job.progress_bar import paced
from producer.merging.merge_here import MergeHere
from producer.merging.merge_job import MergeJob
from producer.outputs.predict_to_sink import OTHERS_WOULD_GO_ON
from producer.outputs.sidecar_files import RunRecord, is_told_of, read_beside
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.rows.kept import ROW
from producer.rows.part import Part, title_of
from producer.scheduling.error_budget import ErrorBudget, make_policy
from producer.sinks import (
    JournalHead,
    Sink,
    begin_again,
    check_output,
    is_there,
    is_unfinished,
    open_sink,
    output_path,
)
from producer.sinks.folder import Merges
from producer.sinks.journal import job_in_journal
from tasks.protocol.messages import MergeReply
from tasks.protocol.plan import LeftOutput
from tasks.protocol.records import JobRecord
from worker_config.errors import (
    CeleriacError,
    ExecutorDifferedError,
    ExitCode,
    JobCancelledError,
    OutputError,
    RowsFailedError,
    UnknownJobError,
)

_NONE = ErrorBudget()

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


def complete_output(job: DetachedJob, left: LeftOutput, quiet: bool) -> Summary:
    """Have the files made of the parts that workers write; goes on where an earlier fetch has ended.

    Raises:
        OutputInUseError: another process does so.
        OutputError: the output is of another job by now, or is not on this machine.
        PredictionFailedError: as `fetch_to_sink`; what is safe by then stays so.
    """
    path = output_path(left.path)
    if not is_unfinished(path):
        return _done(job, path)
    if is_told_of(path) and read_beside(path)[0].job == job.id:
        clear_up(path)
        return _done(job, path)
    if (other := job_in_journal(path)) != job.id:
        by = f"job {other} writes it" if other else "a run with --resume has begun to go on"
        raise OutputError(f"{path}/: {by} in the place of job {job.id}: fetch that one, or continue with --resume")
    head = JournalHead.of(left.head)
    sink = open_sink(path, left.rows, True, journal=head, resume=True, in_parts=True, job=job.id)
    try:
        while sink.folder:
            sink.folder.begin_merges = partial(_begin_merges, job, path.name)
            if left.part_mib:
                sink.folder.part_bytes = left.part_mib * 2**20
            try:
                return fetch_to_sink(job, sink, quiet, head, make_policy(left.on_error, left.max_failed))
            except PredictionFailedError as failed:
                if not isinstance(failed.error, ExecutorDifferedError):
                    raise
                logger.warning("%s; that is done now", failed.error)
            sink = begin_again(sink, left.rows, head)
            sink.note_job(job.id)
    finally:
        sink.abort()
    raise OutputError(f"{path}/ is no folder that workers write")


def _begin_merges(job: DetachedJob, label: str, reply: MergeReply) -> Merges:
    """By the job's workers; by this process where none of them is up."""
    workers = job.workers_now()
    return MergeJob(workers, label, reply) if workers else MergeHere(reply)


def _done(job: DetachedJob, path: Path) -> Summary:
    """What an earlier fetch has done."""
    if not is_there(path):
        if job.state is JobState.CANCELLED:
            raise JobCancelledError(f"job {job.id} was cancelled, and has no output")
        raise OutputError(
            f"{path}/: neither the output of job {job.id} is on this machine, nor what workers have left of it: fetch "
            "it where the folder is; if it was removed, submit the job again"
        )
    ledger, _ = read_beside(path)
    if ledger.job != job.id:
        raise OutputError(f"{path}/: is the output of another job by now, {ledger.job}")
    known = {name: getattr(ledger, name) for name in RunRecord.__struct_fields__}
    return Summary(**known, output=str(path), error=None, done_before=True)


def fetch_to_sink(
    job: DetachedJob, sink: Sink, quiet: bool, head: JournalHead | None = None, budget: ErrorBudget = _NONE
) -> Summary:
    """Write all parts and commit; PredictionFailedError where the job has no whole output, or nobody waited for it.

    Rows that the sink has from an earlier fetch are not written again; where these have become void, all are.
    `head` is what is known of a job whose workers write the output, and `budget` how many of its rows may fail.
    """
    written, record = 0, job.record
    sink.output_name = job.output_name
    try:
        with progress_bar(record.rows, quiet) as bar, closing(job.parts()) as parts:
            for part in parts:
                if len(record.models) > 1 and _models_in(part, record) < len(record.models) - len(sink.dropped):
                    for name, failure in job.failed_models.items():
                        if not sink.can_drop:
                            raise RowsFailedError(f"job {job.id}: {failure}; {OTHERS_WOULD_GO_ON}")
                        sink.drop(name, failure)
                if part.start >= sink.done_rows:
                    _check_kept(part, head)
                    sink.write(part)
                elif sink.folder and not sink.folder.has(part):
                    raise ExecutorDifferedError(f"job {job.id}: rows that are written were predicted again since")
                budget.check(sink.failed_rows, record.rows)
                written += part.predicted_rows
                bar.update(part.stop - part.start)
        if not written and sink.failures:
            raise RowsFailedError(f"no row was predicted; {sink.failures[0]}")
        record = _counted(job.record, sink, written)

        def tell() -> None:
            _summary(record, sink, written).write_beside(head or _head(record), sink.failures)

        sink.commit(tell)
        return _summary(record, sink, written)
    except (KeyboardInterrupt, CeleriacError) as cause:
        if isinstance(cause, CeleriacError):
            error = cause
            with suppress(CeleriacError):  # what was known before will do
                record = job.record
        else:
            error = NotWaitedForError(f"interrupted: {written} of {record.rows} rows were fetched")
        if sink.committed:
            error.args = (f"{error}; {sink.path} is complete",)
        elif sink.folder and head and not isinstance(error, ExecutorDifferedError):
            error.args = (f"{error}; {_what_is_left(job, sink, error)}",)
        elif error is not cause:
            error.args = (f"{error}, nothing was written; job {job.id} stays in the system: fetch it again",)
        failures = len(job.failures()) if record.ledger.get("failed") else 0
        summary = _summary(record, sink, written, error, min(failures, record.ledger.get("failed", 0)))
        with suppress(CeleriacError):  # which may be the error
            summary.write_beside(head or _head(record), sink.failures)
        raise PredictionFailedError(error, summary) from error


def _models_in(part: Part, record: JobRecord) -> int:
    """How many models have outputs in a part; all, where none of its rows has any."""
    if part.stored is None:
        return len(part.outputs)
    outputs = part.stored.ref.outputs if part.stored.ref else []
    return len({one.key[0] for one in outputs}) if outputs else len(record.models)


def _check_kept(part: Part, head: JournalHead | None) -> None:
    """Columns beside fillers are in a part, or with who has the data set."""
    has_none = part.stored is not None and part.stored.ref is None and part.rows
    if has_none and head and any(name != ROW for name in head.keep):
        raise RowsFailedError(f"{title_of(part)} failed, and no worker has read what is kept beside its rows")


def _what_is_left(job: DetachedJob, sink: Sink, error: CeleriacError) -> str:
    sink.abort()
    if isinstance(error, RowsFailedError | JobCancelledError | UnknownJobError):
        return f"what workers have left is beside {sink.path}/: continue it by `celeriac predict` with --resume"
    return f"{sink.safe_rows or 0} rows are safe beside {sink.path}/, and job {job.id} stays: fetch it again"


def _counted(record: JobRecord, sink: Sink, written: int) -> JobRecord:
    """The record of a job all of whose rows were read, with what was counted of them here, not by who writes to Redis.

    Raises:
        CeleriacError: they are not all rows.
    """
    inputs, outputs = sink.nonfinite
    counts = {"predicted": written, "failed": sink.failed_rows, "skipped": 0}
    counts |= {"nonfinite_inputs": inputs, "nonfinite_outputs": outputs}
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
        failures=len(sink.failures) if sink.committed else failures,
        fill=sink.fill,
        dependent=record.dependent,
        differed=record.differed,
    )


def progress_bar(rows: int | None, quiet: bool) -> Any:
    """A live bar on a terminal, nothing elsewhere."""
    hidden = quiet or not sys.stderr.isatty()
    return paced(tqdm)(total=rows, unit=" rows", disable=hidden, dynamic_ncols=True)
