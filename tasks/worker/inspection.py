"""What a running worker's main process knows of its children, and what it is told to do with them.

inspect ready, inspect models     --> told from the pool, from what children share, from what Celery runs now
inspect stats                     --> as Celery does, without passwords
control drain, resume             --> `tasks/worker/drain.py`
control pool_grow, pool_shrink    --> `tasks/worker/resize.py`
every two seconds                 --> the status file, for `python -m tasks.health`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal

import msgspec
from celery import bootsteps
from celery.worker import state

from tasks.child.child_pipe import ChildPipe
from tasks.models import memory
from tasks.preparation.model_set import ModelSet
from tasks.protocol.chunk_args import chunk_id, describe
from tasks.protocol.records import Running, WorkerFacts
from tasks.telemetry import status_file
from tasks.telemetry.counters import Counters
from tasks.telemetry.status_file import ChildStatus, WorkerStatus
from tasks.transport import worker_registry
from tasks.worker.drain import Drain
from tasks.worker.resize import Resize
from worker_config.broker import redacted
from worker_config.errors import MessageError
from worker_config.retry_policy import STATUS_SECONDS, STORE_TOLD_SECONDS

LOOK_SECONDS = 0.2


class Inspection:
    """One worker, as `inspect` and `control` see it; made when its first children are ready.

    Args:
        controller: Celery's worker.
        models: of the worker.
        reports: what its children tell.
        counters: what they have answered.
        status: the worker's status so far.
        heartbeat: tell Redis which slots are up.
    """

    def __init__(
        self,
        controller: Any,
        models: ModelSet,
        reports: ChildPipe,
        counters: Counters,
        status: WorkerStatus,
        heartbeat: Callable[[], None],
    ) -> None:
        self._models = models
        self._counters = counters
        self._status = status
        self.heartbeat = heartbeat
        self._told_waits: set[int] = set()
        self._told_at = 0.0
        self.size = Resize(controller, reports)
        self.drain = Drain(controller, models, heartbeat)

    def look(self) -> None:
        """Do what is wanted, and tell of it now and then; called often."""
        self.size.look()
        self.drain.look()
        self._tell_waits()
        changed = self._status.state != self._state or self._status.redis_lost_at is not None
        if changed or time.monotonic() - self._status.written_at > STATUS_SECONDS:
            self._refreshed()

    def redis_is_lost(self) -> None:
        """Called while the main process waits for Redis, and does nothing else."""
        if time.monotonic() - self._status.written_at > STATUS_SECONDS / 2:
            self._refreshed(redis_lost_at=self._status.redis_lost_at or time.monotonic())

    def waiting(self, chunks: int) -> None:
        """Take note of how many chunks nobody has taken."""
        since = (self._status.waiting_since or time.monotonic()) if chunks else None
        self._status = msgspec.structs.replace(self._status, waiting=chunks, waiting_since=since)

    def ready(self) -> dict[str, Any]:
        """The answer to `inspect ready`."""
        status, now = self._refreshed(), time.monotonic()
        return {
            "state": status.state,
            "children": self.size.target,
            "ready": status.ready,
            "running": status.running,
            "slots": {str(one.slot): one.in_words(now) for one in status.children},
        }

    def models(self) -> dict[str, Any]:
        """The answer to `inspect models`."""
        status, now = self._refreshed(), time.monotonic()
        records = {one.pid: self._models.updated(one) for one in worker_registry.saved_slots(self._models.folder)}
        sizes = memory.of_processes(one.pid for one in status.children if one.pid)
        children = []
        for child in status.children:
            infos = records[child.pid].models if child.ready and child.pid in records else []
            own, pss = (round(size / 2**20, 1) for size in sizes[child.pid]) if child.pid in sizes else (None, None)
            children.append(
                {
                    "slot": child.slot,
                    "pid": child.pid,
                    "ready": child.ready,
                    "state": child.in_words(now),
                    "models": [
                        {"name": one.name, "version": one.digest[:8], "digest": one.digest, "executor": one.executor}
                        for one in infos
                    ],
                    "memory_own_mib": own,
                    "memory_pss_mib": pss,
                    "chunks": child.chunks,
                    "requests": child.requests,
                    "rows": child.rows,
                    "runs": child.chunk or None,
                    "runs_for_seconds": round(now - child.chunk_since, 1) if child.chunk else None,
                }
            )
        return {"state": status.state, "children": children}

    def told(self, facts: WorkerFacts) -> WorkerFacts:
        """What is known of the worker, with what its children are at."""
        slots, now, running = self._slots, time.monotonic(), {}
        for request, since in _running():
            with suppress(KeyError, MessageError):  # of a child that ends at this moment, of another version
                slot, chunk = slots[request.worker_pid], chunk_id(request.args)
                waits = self._waits_of(slot, request.worker_pid, now)
                running[slot] = Running(
                    chunk.job, describe(request.args), round(now - since, 1), chunk.index, waits[1], round(waits[0], 1)
                )
        return msgspec.structs.replace(facts, running=running, draining=self.drain.is_on)

    def _tell_waits(self) -> None:
        """That a child waits for a store, or no more, Redis is told at once, as the next heartbeat may be far."""
        now = time.monotonic()
        if now - self._told_at < STORE_TOLD_SECONDS:
            return
        waits = {slot for pid, slot in self._slots.items() if self._waits_of(slot, pid, now)[1]}
        if waits != self._told_waits:
            self._told_at, self._told_waits = now, waits
            self.heartbeat()

    def _waits_of(self, slot: int, pid: int, now: float) -> tuple[float, str]:
        """How long a child has waited for a store by now, and for what; no text where that is not worth a word."""
        since, what = self._counters.wait_of(slot, pid)
        return (now - since, what) if since and now - since >= STORE_TOLD_SECONDS else (0.0, "")

    @property
    def _slots(self) -> dict[int, int]:
        """The slots of the children that there are, by pid."""
        return {process.pid: process.index for process in (*self.size.staying, *self.size.leaving)}

    @property
    def _state(self) -> Literal["serving", "draining"]:
        return "draining" if self.drain.is_on else "serving"

    def _refreshed(self, redis_lost_at: float | None = None) -> WorkerStatus:
        """The status as it is at this moment; also in its file."""
        now, state, totals = time.monotonic(), self._state, self._counters.totals()
        self._status = msgspec.structs.replace(
            self._status,
            state=state,
            since=self._status.since if state == self._status.state else now,
            written_at=now,
            children=self._children(now),
            chunks=totals.counts.chunks,
            finished_at=totals.last_at or None,
            redis_lost_at=redis_lost_at,
        )
        status_file.write(self._models.folder, self._status)
        return self._status

    def _children(self, now: float) -> list[ChildStatus]:
        """All children, those that go and those that are to come too, by slot."""
        running = {request.worker_pid: (describe(request.args), since) for request, since in _running()}
        before = {one.slot: one for one in self._status.children}

        def since(slot: int, ready: bool) -> float:
            """Of a slot whose children die while they load: not since the last one."""
            return before[slot].since if slot in before and before[slot].ready == ready else now

        found: dict[int, ChildStatus] = {}
        leaving = self.size.leaving
        for process in (*self.size.staying, *leaving):
            slot, ready = process.index, self.size.is_ready(process)
            chunk, chunk_since = running.get(process.pid, ("", 0.0))
            chunks, requests, rows = self._counters.of(slot, process.pid)
            found[slot] = ChildStatus(
                slot,
                process.pid,
                ready,
                since(slot, ready),
                leaving=process in leaving,
                chunk=chunk,
                chunk_since=chunk_since,
                chunks=chunks,
                requests=requests,
                rows=rows,
            )
        missing = self.size.target - len(self.size.staying)
        free = [slot for slot in range(self.size.target + len(found)) if slot not in found][: max(0, missing)]
        found |= {slot: ChildStatus(slot, 0, False, since(slot, False)) for slot in free}
        return [found[slot] for slot in sorted(found)]


def _running() -> Iterator[tuple[Any, float]]:
    """Celery's requests of the chunks that children run, and since when they do."""
    now, today = time.monotonic(), time.time()
    for request in tuple(state.active_requests):
        yield request, now - (today - (request.time_start or today))


class BrokerInfo(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tells `inspect stats` of the connection to Redis after Celery has, which leaves some passwords in it."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def info(self, consumer: Any) -> dict[str, Any]:
        """The broker's part of the reply; empty while there is no connection."""
        return {"broker": without_passwords(consumer.connection.info())} if consumer.connection else {}


def without_passwords(value: Any) -> Any:
    """The same without entries that are named so, with `***` in URLs; what JSON does not know as text."""
    if isinstance(value, dict):
        return {name: without_passwords(one) for name, one in value.items() if "password" not in name}
    if isinstance(value, list | tuple):
        return [without_passwords(one) for one in value]
    if isinstance(value, str):
        return redacted(value)
    return value if value is None or isinstance(value, bool | int | float) else type(value).__name__
