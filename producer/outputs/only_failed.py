"""Failed rows of a finished output are predicted again, and put at their place: `celeriac predict --only-failed`.

    failed rows --job--> answers -+
    OUTPUT --blocks of rows-------+--> a new OUTPUT, which takes its name in one step; of a folder, those of its files

Until then the output stays as it was; and so it does when anything goes wrong, or no row goes through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from producer.job.progress_bar import shown
from producer.outputs.mending import mending_of
from producer.outputs.predict_to_sink import JobClient, check_same_models, end_by
from producer.outputs.run_options import RunOptions, kept_columns
from producer.outputs.sidecar_files import OutputLedger, failures_path, read_beside
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.ledger import Ledger
from producer.rows.part import Part
from producer.rows.widen import widened_part
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.job_options import JobOptions
from producer.sinks import JournalHead
from producer.sinks.changes import check_same
from producer.sinks.journal_files import lock
from producer.sinks.mending.mended_files import complete
from producer.sinks.mending.patch_rows import Repredicted, rows_before
from producer.sources import BatchSource, Source
from producer.sources.picked import pick
from tasks.datasets.rebatcher import count_rows
from tasks.protocol.codec import Array
from tasks.protocol.messages import FailureRecord
from worker_config.errors import CeleriacError, ExecutorDifferedError, OutputError, UsageError
from worker_config.object_urls import is_url


@dataclass(frozen=True)
class Finished:
    """A finished output of which rows failed; made by `finished_output`."""

    path: Path
    sidecar: OutputLedger
    records: Sequence[FailureRecord]

    @property
    def rows(self) -> int:
        """Rows of the data set."""
        return self.sidecar.ledger["rows"]

    def failed(self) -> Array:
        """The numbers of the rows that failed."""
        return np.concatenate([np.arange(record.start, record.stop) for record in self.records])

    def check_same(self, source: Source | BatchSource, head: JournalHead, *, accept_changes: bool = False) -> list[str]:
        """Raise OutputError where the data set, a model or the policy is another one than before.

        With `accept_changes` give what the user has accepted: in another data set of as many rows, and other models.
        """
        if source.rows is not None:
            check_same(self.path, {"rows": self.rows}, {"rows": source.rows})
        then = msgspec.to_builtins(self.sidecar)
        changes = check_same(self.path, then, head.as_dict(), accept_changes=accept_changes)
        if changes and source.rows is None:  # read to its end, as the failed rows may come before what is new
            with closing(source.batches()) as batches:
                check_same(self.path, {"rows": self.rows}, {"rows": sum(map(count_rows, batches))})
        return [f"{change}; {self.sidecar.ledger['predicted']} rows are from before" for change in changes]


@contextmanager
def finished_output(output: Path) -> Iterator[Finished]:
    """A finished output with rows that failed, which no other process may mend until the end of the block.

    Raises:
        UsageError: it is behind a URL.
        OutputError: there is no such output, no row of it failed, or another process mends it.
    """
    if is_url(output):
        raise UsageError(f"{output}: --only-failed is for files of this machine; predict all rows again with --force")
    path = Path(os.path.realpath(output))
    if not path.exists():
        raise OutputError(f"{path}: is not there, so no row of it has failed; predict it without --only-failed")
    with _locked(path):
        complete(path)
    with _locked(path):
        sidecar, records = read_beside(path)
        if not records:
            raise OutputError(f"{path}: no row of it has failed; nothing is left to predict again")
        if sidecar.ledger["skipped"]:
            raise OutputError(
                f"{path}: {sidecar.ledger['skipped']} rows of it were left out on purpose, and nobody knows which; "
                "predict all rows again with --force"
            )
        yield Finished(path, sidecar, records)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    names = failures_path(path)
    with names.open("rb") if names.exists() else nullcontext() as file:
        if file:
            lock(path, file.fileno())
        yield


def predict_failed(
    client: JobClient,
    models: Sequence[str],
    source: Source | BatchSource,
    finished: Finished,
    head: JournalHead,
    run: RunOptions,
    changes: Sequence[str] = (),
) -> Summary:
    """Predict the failed rows, and write the output anew with those that went through; `changes` were accepted."""
    started = time.monotonic()
    path, failed = finished.path, finished.failed()
    names = [name for name in models if name not in finished.sidecar.failed_models]
    fill = finished.sidecar.fill
    picked = pick(source, failed)
    kept = kept_columns(picked, run, models, path, failed)
    left_out = head.on_error == "skip"
    before = rows_before(finished.rows, failed, left_out)
    mark = fill.mark if fill else ""
    with mending_of(path, finished.rows, before, mark, left_out=left_out) as mending:
        options = JobOptions(
            chunk_rows=run.chunk_rows,
            store=run.store,
            compression=run.compression,
            fail_together=True,
            policy=ErrorBudget("skip", on_nonfinite=run.on_nonfinite),
            priority=run.priority,
            numbers=failed,
        )
        job = client._begin_job(names, picked, options)

        def answers() -> Iterator[Part]:
            with shown(job, len(failed), run.quiet):
                for part in job.parts():
                    part = widened_part(part)  # as it is in the file
                    named = len(names) < len(models) and len(names) == 1  # the outputs of a single model have no name
                    part = replace(part, outputs={names[0]: part.outputs}) if named else part
                    yield kept.beside(part, job.output_name) if kept else part

        def summary(error: CeleriacError | None = None) -> Summary:
            is_new = error is None or mending.committed
            return Summary(
                job=job.id,
                ledger=_ledger(finished, job.ledger).as_dict() if is_new else job.ledger.as_dict(),
                seconds=round(time.monotonic() - started, 6),
                output=str(path) if is_new else None,
                error=str(error) if error else None,
                failed_models=finished.sidecar.failed_models,
                failures=len(mending.failures if is_new else finished.records),
                fill=fill,
                dependent=job.dependent,
                accepted_changes=[*finished.sidecar.accepted_changes, *changes],
            )

        try:
            check_same_models(job, head.models)
            mended = Repredicted(answers(), failed)
            mending.mend(mended, job.output_name, kept.names if kept else ())
            mended.end()
            if differed := list(job.differed.items()):
                name, one = differed[0]
                raise ExecutorDifferedError(
                    f"job {job.id}: model {name}: {one}: rows that were predicted before may not be the model's own; "
                    "predict all rows again with --force"
                )
            told = summary()
            mending.commit(lambda at: told.write_beside(head, mending.failures, at))
        except (KeyboardInterrupt, CeleriacError) as cause:
            error = end_by(cause, job, len(failed))
            error.args = (f"{error}; {path} {'is complete' if mending.committed else 'is as it was'}",)
            told = summary(error)
            if mending.committed:
                with suppress(CeleriacError):  # the first one is told
                    told.write_beside(head, mending.failures)
            raise PredictionFailedError(error, told) from error
    return told


def _ledger(finished: Finished, again: Ledger) -> Ledger:
    """Of the whole output: rows that went through now are no longer failed ones."""
    before = finished.sidecar.ledger
    predicted = before["predicted"] + again.predicted
    ledger = replace(
        again,
        rows=before["rows"],
        predicted=predicted,
        failed=before["failed"] - again.predicted,
        written=predicted,
        resumed=before["predicted"],
        nonfinite_inputs=before.get("nonfinite_inputs", 0) + again.nonfinite_inputs,
        nonfinite_outputs=before.get("nonfinite_outputs", 0) + again.nonfinite_outputs,
    )
    ledger.check()
    return ledger
