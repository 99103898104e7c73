"""What is no request: all outputs of a job, for a caller who waits for nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from producer.job.job import Job
from producer.rows.kept import KeptColumns
from producer.rows.returned import Form
from producer.rows.source import BatchSource, Source
from producer.sources import open_source


def outputs_by_job(
    begin: Callable[[], Job],
    names: list[str],
    source: Source | BatchSource,
    keep: str | Sequence[str],
    until: float | None,
    form: Form,
) -> Any:
    """The outputs of a job that `begin` gives, beside the columns to `keep`; raises what the job ends with.

    The caller's time is up at `until`, by `time.monotonic`.
    """
    wanted = keep.split(",") if isinstance(keep, str) else keep
    kept = KeptColumns(open_source(source), wanted, names) if keep else None
    job = begin()
    try:
        with job.time_limit(until):
            outputs = job.result()
        if kept:
            return kept.beside_all(outputs, job.row_numbers, job.output_name)
        return form.of(outputs, lambda: job.row_numbers, job.output_name)
    finally:
        job.cancel()  # when interrupted; a job that has ended does not mind
        if kept:
            kept.close()
