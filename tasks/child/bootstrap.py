"""A worker's child from its fork to its first chunk: threads, models, warm-up, sign of readiness.

    fork --set threads--> load and warm each model --register in Redis--> tell the main process --> take chunks

A child that cannot load its models tells its main process why and exits; it never takes a chunk.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis
from billiard import current_process, pool

from tasks.child.child_pipe import report
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.model_cache import ModelCache
from tasks.models.devices import settle
from tasks.models.tensorflow_import import settle_keras
from tasks.preparation.model_set import ModelSet
from tasks.protocol.records import SlotRecord
from tasks.telemetry.counters import Counters
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport import worker_registry
from tasks.transport.connection import connect
from tasks.transport.run_folder import draining_path
from worker_config.errors import ExitCode, ModelError
from worker_config.retry_policy import CHILD_COMMAND_RETRIES

if TYPE_CHECKING:
    from tasks.telemetry.chunk_spans import ChunkTrace


@dataclass(frozen=True)
class ChildSettings:
    """Settings of a worker that its children need; memory in bytes, without limit where that is 0."""

    broker_url: str
    job_ttl_seconds: int
    memory_limit: int
    threads: int
    places: Places
    pin_cores: bool = False
    trace_exporters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Child:
    """A slot that is ready."""

    worker: str
    slot: int
    model_cache: ModelCache
    client: redis.Redis
    payloads: PayloadStore
    counters: Counters = field(default_factory=Counters)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    trace: ChunkTrace | None = None  # where traces are wanted

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


def start(worker: str, models: ModelSet, counters: Counters, report_fd: int, settings: ChildSettings) -> None:
    """Load the model set into this child, or tell the main process why not and exit."""
    global _this
    try:
        slot = current_process().index
        settle(slot, threads=settings.threads, pin_cores=settings.pin_cores)
        model_cache = ModelCache(models.current.served.values(), models.folder, settings.memory_limit)
        model_cache.preload()
        if "keras" in sys.modules:  # imported by a function in whose own module nothing says so
            settle_keras()
        # Celery replaces a child whose memory is above 1 KiB after a chunk: here, one that says so.
        pool.mem_rss = lambda: 2 if model_cache.recycle else 1
        # A chunk outlives a short outage of Redis: about a minute of tries.
        client = connect(settings.broker_url, retries=CHILD_COMMAND_RETRIES, waits_for_room=True)
        watch, trace = Stopwatch(cells=counters.begin(slot)), None
        if settings.trace_exporters:
            from tasks.telemetry import chunk_spans

            trace = chunk_spans.begin(settings.trace_exporters, watch, f"{worker}/{slot}")
        payloads = PayloadStore(client, settings.job_ttl_seconds, settings.places)
        _this = Child(worker, slot, model_cache, client, payloads, counters, watch, trace)
        record = SlotRecord(
            worker=worker,
            slot=slot,
            pid=os.getpid(),
            ready_at=time.time(),
            queue=models.current.queue,
            models=model_cache.infos(),
            spool_mark=settings.places.spool_mark,
            data_roots=[str(root) for root in settings.places.data_roots],
            older=models.older_sets(),
        )
        worker_registry.save_slot(models.folder, record)
        if not draining_path(models.folder).exists():
            worker_registry.register_slots(client, [record])
    except BaseException as error:
        report(report_fd, failed=str(error) or type(error).__name__)
        # Not an exception: Celery would log and swallow it, and send chunks.
        os._exit(getattr(error, "exit_code", ExitCode.INTERNAL))
    report(report_fd, ready=_this.slot)
