"""This module is a worker's child from its fork to its first chunk: threads, models, warm-up, sign of readiness.

    fork --set threads--> load and warm each model --announce in Redis--> tell the main process --> take chunks

A child that cannot load its models tells its main process why and exits; it never takes a chunk.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis
from billiard import current_process

from tasks import slots
from tasks.connection import connect
from tasks.digest import entry_digest
from tasks.messages import SlotRecord
from tasks.models import LoadedModel, load_model
from tasks.reports import report
from tasks.scratch import Scratch
from worker_config.errors import ExitCode, ModelError, ModelLoadError
from worker_config.manifest import ModelEntry


@dataclass(frozen=True)
class Places:
    """Where a worker may look for rows besides Redis, and how producers see that they share the spool folder."""

    spool: Path | None = None
    spool_mark: str = ""
    data_roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Child:
    """A slot that is ready; `wanted` tells until when a job need not be asked for again (`time.monotonic`)."""

    worker: str
    slot: int
    models: dict[str, LoadedModel]
    client: redis.Redis
    job_ttl_seconds: int
    places: Places
    scratch: Scratch = field(default_factory=Scratch)
    wanted: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.worker}/{self.slot}"


_this: Child | None = None


def current_child() -> Child:
    """The child that this process is.

    Raises:
        ModelError: this process holds no models.
    """
    if _this is None:
        raise ModelError("this process holds no models; chunks run in the children of `celery -A tasks worker` alone")
    return _this


def start(
    worker: str,
    entries: dict[str, ModelEntry],
    digests: dict[str, str],
    *,
    threads: int,
    broker_url: str,
    job_ttl_seconds: int,
    places: Places,
    report_fd: int,
) -> None:
    """Load the model set into this child, or tell the main process why not and exit."""
    global _this
    try:
        _limit_threads(threads)
        models = {name: _load(name, entry, digests[name]) for name, entry in entries.items()}
        # A chunk outlives a short outage of Redis: about a minute of tries.
        client = connect(broker_url, retries=30)
        _this = Child(worker, current_process().index, models, client, job_ttl_seconds, places)
        infos = [model.info for model in models.values()]
        roots = [str(root) for root in places.data_roots]
        record = SlotRecord(worker, _this.slot, os.getpid(), time.time(), infos, places.spool_mark, roots)
        slots.announce(client, [record])
    except BaseException as error:
        report(report_fd, failed=str(error) or type(error).__name__)
        # Not an exception: Celery would log and swallow it, and send chunks.
        os._exit(getattr(error, "exit_code", ExitCode.INTERNAL))
    report(report_fd, ready=_this.slot)


def _load(name: str, entry: ModelEntry, digest: str) -> LoadedModel:
    model = load_model(name, entry, digest)
    # Jobs are pinned to the files that the worker began with; a child that comes later may find others.
    if entry_digest(entry) != digest:
        raise ModelLoadError(
            f"model {name} cannot be loaded from {entry.path}: its files have changed since the worker started; "
            "start it again"
        )
    return model


def _limit_threads(threads: int) -> None:
    import tensorflow as tf

    # The cores are shared by processes, not by the operations of one.
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
