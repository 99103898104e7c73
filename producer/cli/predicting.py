"""This module takes a data set through a job into a sink, with a progress bar: what `predict` and `demo` both do."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from producer.client import Client
from producer.job import Job
from producer.sinks import Sink
from producer.sources import BatchSource, Source
from tasks.codec.compression import Compression
from tasks.messages import StoreName
from worker_config.errors import CeleriacError, JobCancelledError


@dataclass(frozen=True)
class Summary:
    """How a job went; `seconds` is from submit, with the rows at hand, to the output under its final name."""

    job: str
    ledger: dict[str, int]
    seconds: float
    output: str | None
    error: str | None = None

    @property
    def rows_per_second(self) -> float:
        """Predicted rows per second of the whole way."""
        return self.ledger["predicted"] / self.seconds if self.seconds else 0.0


class PredictionFailedError(CeleriacError):
    """A job that began and did not end well; carries the summary beside the error."""

    def __init__(self, error: CeleriacError, summary: Summary) -> None:
        super().__init__(str(error))
        self.error = error
        self.summary = summary


def predict_to_sink(
    client: Client,
    models: Sequence[str],
    source: Source | BatchSource,
    sink: Sink,
    *,
    chunk_rows: int | None = None,
    store: StoreName | None = None,
    compression: Compression | None = None,
    quiet: bool = False,
) -> Summary:
    """Predict all rows into `sink` and commit it; on any error nothing is written.

    Raises:
        PredictionFailedError: the job failed or was interrupted; nothing of it is left running.
    """
    started = time.monotonic()
    job = client.submit(models, source, chunk_rows=chunk_rows, store=store, compression=compression)
    try:
        with _bar(source.rows, quiet) as bar:
            for part in job.parts():
                sink.write(part)
                bar.update(part.stop - part.start)
        sink.commit()
    except KeyboardInterrupt:
        job.cancel()
        job.wait(timeout_seconds=2.0)
        predicted = f"{job.ledger.predicted} of {source.rows or '?'} rows were predicted"
        error = JobCancelledError(f"interrupted: job {job.id} was cancelled; {predicted}, nothing was written")
        raise PredictionFailedError(error, _summary(job, started, None, error)) from None
    except CeleriacError as error:
        job.cancel()
        job.wait(timeout_seconds=2.0)
        raise PredictionFailedError(error, _summary(job, started, None, error)) from error
    finally:
        sink.abort()
    return _summary(job, started, str(sink.path), None)


def _summary(job: Job, started: float, output: str | None, error: CeleriacError | None) -> Summary:
    seconds = round(time.monotonic() - started, 6)
    return Summary(job.id, job.ledger.as_dict(), seconds, output, str(error) if error else None)


def _bar(rows: int | None, quiet: bool) -> Any:
    """A live bar on a terminal, nothing elsewhere."""
    return tqdm(total=rows, unit=" rows", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True)
