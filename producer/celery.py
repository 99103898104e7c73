"""A job as a task of the caller's own Celery app, to stand in chains, groups and chords with tasks of that app.

    predict_job.s(data, models)   a message of that app --> its worker, light, without TensorFlow
        first delivery            submit detached, named by the task's id --> a look at the job
        not done                  Celery's retry, after a pause: nothing waits in a slot
        done                      the output file, if one is wanted --> a reference, as JSON --> the chain's next task

Delivered twice, it finds the job of its name and computes nothing again. Revoked, or failed while the job runs, it
cancels the job. The task is a shared one, as of any library: each app of a process that imports this has it, ours has
not (`worker_config/celery_app.py`). The broker of the models' workers is `CELERIAC_BROKER_URL` of the light worker;
it may be the caller's own, and is not in any message.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypedDict

import numpy as np
from celery import Task, shared_task
from celery.signals import task_failure, task_revoked

from producer.client import Client
from producer.detached.detached_job import DetachedJob
from producer.outputs.fetch_to_output import fetch_to_output
from producer.outputs.sidecar_files import ledger_path
from producer.outputs.summary import PredictionFailedError
from producer.records.job_store import JobState
from producer.rows.part import OutputTree
from producer.sinks import check_output
from producer.sources import BatchSource, Source, open_source
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnNonfinite, StoreName
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    CeleriacError,
    InputError,
    JobCancelledError,
    NoWorkerError,
    RowsFailedError,
    UsageError,
)

logger: logging.Logger = logging.getLogger(__name__)

TASK_NAME = "celeriac.predict_job"
# How long a delivery looks at a job before it leaves its slot to others: small jobs end within it.
LOOK_SECONDS = 2.0
# Between two looks; doubled each time. Well below any visibility timeout, after which Redis would deliver again.
LONGEST_PAUSE_SECONDS = 15


class Reference(TypedDict):
    """What a task hands on: where the predictions are, and what became of the rows."""

    job: str
    models: list[str]
    rows: int
    output: str | None
    ledger: dict[str, int]
    seconds: float


# Redelivered where the light worker's child, or host, has died: the job is found by its name.
@shared_task(name=TASK_NAME, bind=True, max_retries=None, acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def predict_job(
    self: Task,
    data: object,
    models: str | Sequence[str],
    output: str | None = None,
    *,
    force: bool = False,
    input_options: Mapping[str, Any] | None = None,
    chunk_rows: int | None = None,
    store: StoreName | None = None,
    compression: Compression | None = None,
    on_nonfinite: OnNonfinite = "warn",
    ttl_seconds: int | None = None,
) -> Reference:
    """Predict a data set, and give a reference to the predictions; `load` gives the arrays.

    Args:
        data: a path that the light worker can open; or few rows as lists, or a dict of lists by input name. It comes
            first, so that the task before this one in a chain may give it.
        models: a model's name, or several.
        output: the file to write, by the light worker; left out, the predictions stay with the broker alone.
        force: replace an output that exists.
        input_options: what `producer.sources.open_source` takes besides the path, such as `columns`.
        chunk_rows, store, compression, on_nonfinite, ttl_seconds: as of `Client.submit`.
    """
    try:
        if self.request.called_directly or self.request.is_eager:
            look_seconds, name = None, self.request.id
        else:
            look_seconds, name = LOOK_SECONDS if self.request.retries == 0 else 0.0, self.request.id
        with Client() as client:
            job_id = client.find(name) if name else None
            if job_id is None:
                if output is not None:
                    check_output(output, force)
                job_id = client.submit(
                    models,
                    _opened(data, input_options or {}),
                    chunk_rows=chunk_rows,
                    store=store,
                    compression=compression,
                    detach=True,
                    on_nonfinite=on_nonfinite,
                    ttl_seconds=ttl_seconds,
                    job=name,
                )
            job = client.attach(job_id)
            if job.wait(look_seconds):
                return _finish(job, output, force)
            _check_moves(job)
    except BrokerRefusedError:
        raise
    except BrokerError as error:
        # What was left with a Redis that is away for a while is there when it is back.
        if not self.request.retries and not (self.request.delivery_info or {}).get("redelivered"):
            raise
        logger.warning("%s; the task looks again", error)
    except MemoryError:
        # Celery would end the whole worker, and the next one that the message comes to.
        raise InputError("not enough memory on this worker to read the data or to write the output") from None
    _look_again(self)


def load(reference: Reference) -> OutputTree:
    """The predictions that a task has handed on, as `Client.predict` gives them; they are there until the job expires.

    Raises:
        UsageError: it is no reference.
        UnknownJobError: the job has expired; the output file, if there is one, stays.
    """
    if not isinstance(reference, Mapping) or not isinstance(reference.get("job"), str):
        raise UsageError(f"{reference!r:.100} is no reference; give what predict_job returned")
    with Client() as client:
        return client.attach(reference["job"]).result()


def _look_again(task: Task) -> NoReturn:
    pause = min(LONGEST_PAUSE_SECONDS, 2 ** min(task.request.retries, 10))
    raise task.retry(countdown=pause)


def _check_moves(job: DetachedJob) -> None:
    """Looks keep a job alive: one that no worker takes up would be waited for without end."""
    record = job.record
    if record.plan and time.time() - record.updated_at > record.plan.ttl_seconds:
        raise NoWorkerError(
            f"job {job.id} has had no answer for {record.plan.ttl_seconds} seconds; see with `celeriac doctor` why no "
            "worker takes it up, and send the task again"
        )


def _opened(data: object, options: Mapping[str, Any]) -> Source | BatchSource:
    if isinstance(data, str):
        return open_source(data, **options)
    if isinstance(data, Mapping):
        return open_source({name: _array(rows) for name, rows in data.items()}, **options)
    return open_source(_array(data), **options)


def _array(rows: object) -> Any:
    if not isinstance(rows, list | tuple | np.ndarray):
        raise InputError(f"data is {rows!r:.100}; give a path, lists of rows, or a dict of lists by input name")
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise InputError(f"rows of data have not all the same shape: {error}") from None
    return array.astype(object) if array.dtype.kind == "U" else array


def _finish(job: DetachedJob, output: str | None, force: bool) -> Reference:
    """What is known of a job that has ended; its output is written first, unless an earlier delivery did that."""
    record = job.record
    if job.state is JobState.FAILED:
        raise RowsFailedError(f"job {job.id} failed: {record.error}")
    if job.state is JobState.CANCELLED:
        raise JobCancelledError(f"job {job.id} was cancelled; a new task computes it again")
    ledger, seconds = record.ledger, round(record.updated_at - record.submitted_at, 6)
    if output is not None and not _is_written(Path(output), job.id):
        try:
            ledger = fetch_to_output(job, Path(output), force, quiet=True).ledger
        except PredictionFailedError as failed:
            raise failed.error from None
    path = None if output is None else str(Path(output).absolute())
    return {
        "job": job.id,
        "models": record.models,
        "rows": job.rows_out,
        "output": path,
        "ledger": ledger,
        "seconds": seconds,
    }


def _is_written(output: Path, job_id: str) -> bool:
    try:
        told = json.loads(ledger_path(output).read_bytes())
    except (OSError, ValueError):
        return False
    return output.exists() and isinstance(told, dict) and told.get("job") == job_id


@task_revoked.connect  # type: ignore[untyped-decorator]
def _end_revoked(sender: Task, request: Any, **_: object) -> None:
    if sender.name == TASK_NAME:
        _cancel(request.id, only_running=False)


# Also in the main process, for a task that Celery has killed at its time limit.
@task_failure.connect  # type: ignore[untyped-decorator]
def _end_failed(sender: Task, task_id: str, **_: object) -> None:
    if sender.name == TASK_NAME:
        _cancel(task_id, only_running=True)


def _cancel(name: str, *, only_running: bool) -> None:
    """End the job of a task that nobody waits for any more; what is done stays for `celeriac fetch`."""
    try:
        with Client() as client:
            if job_id := client.find(name):
                job = client.attach(job_id)
                if job.state is JobState.RUNNING or not only_running:
                    job.cancel()
    except CeleriacError as error:
        logger.warning("the job of task %s is not cancelled: %s", name, error)
