"""A worker's child from its fork to its first chunk: threads, models, warm-up, sign of readiness.

    fork --set threads--> load and warm each model --register in Redis--> tell the main process --> take chunks

A child that cannot load its models tells its main process why and exits; it never takes a chunk.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import redis
from billiard import current_process, pool

from tasks.child.child_pipe import report
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.model_cache import ModelCache
from tasks.datasets.formats import readable
from tasks.models.devices import settle
from tasks.models.tensorflow_import import settle_keras
from tasks.preparation.model_set import ModelSet
from tasks.protocol.messages import MESSAGE_VERSION
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import Sealer
from tasks.storage import waits
from tasks.telemetry.counters import Counters
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport import worker_registry
from tasks.transport.connection import connect
from tasks.transport.run_folder import draining_path
from worker_config.errors import ExitCode
from worker_config.retry_policy import CHILD_COMMAND_RETRIES
from worker_config.settings import Settings

if TYPE_CHECKING:
    from tasks.telemetry.chunk_spans import ChunkTrace


@dataclass
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
    no_requests_in: str = ""  # the queue of the last chunk, where its answer told that no request waits

    def __str__(self) -> str:
        return f"{self.worker}/{self.slot}"


def start(
    worker: str,
    models: ModelSet,
    places: Places,
    counters: Counters,
    report_fd: int,
    settings: Settings,
    memory_limit: int,
) -> Child:
    """Load the model set into this child, or tell the main process by its pipe why not, and exit.

    The settings have the broker and the threads as they are for this worker; `memory_limit` is as of `ModelCache`.
    """
    try:
        slot = current_process().index
        settle(slot, threads=settings.intra_op_threads, pin_cores=settings.pin_cores)
        model_cache = ModelCache(models.current.served.values(), models.folder, memory_limit)
        model_cache.preload()
        if "keras" in sys.modules:  # imported by a function in whose own module nothing says so
            settle_keras()
        # Celery replaces a child whose memory is above 1 KiB after a chunk: here, one that says so.
        pool.mem_rss = lambda: 2 if model_cache.recycle else 1
        # A chunk outlives a short outage of Redis: about a minute of tries.
        client = connect(settings.broker_url or "", retries=CHILD_COMMAND_RETRIES, waits_for_room=True)
        watch, trace = Stopwatch(cells=counters.begin(slot)), None
        waits.tell_to(partial(counters.waits, slot))
        if settings.trace_exporters:
            from tasks.telemetry import chunk_spans

            trace = chunk_spans.begin(settings.trace_exporters, watch, f"{worker}/{slot}")
        payloads = PayloadStore(client, settings.job_ttl_seconds, places, Sealer(settings.signing_key))
        child = Child(worker, slot, model_cache, client, payloads, counters, watch, trace)
        record = SlotRecord(
            worker=worker,
            slot=slot,
            pid=os.getpid(),
            ready_at=time.time(),
            queue=models.current.queue,
            models=model_cache.infos(),
            spool_mark=places.spool_mark,
            data_roots=list(map(str, places.data_roots)),
            output_roots=list(map(str, places.output_roots)),
            reads=readable(),
            older=models.older_sets(),
            message_version=MESSAGE_VERSION,
            key_ids=payloads.sealer.key_ids,
        )
        worker_registry.save_slot(models.folder, record)
        if not draining_path(models.folder).exists():
            worker_registry.register_slots(client, [record])
    except BaseException as error:
        report(report_fd, failed=str(error) or type(error).__name__)
        # Not an exception: Celery would log and swallow it, and send chunks.
        os._exit(getattr(error, "exit_code", ExitCode.INTERNAL))
    report(report_fd, ready=slot)
    return child
