"""What a running worker's main process knows of its children, and what it is told to do with them.

inspect ready, inspect models     --> told from the pool, from what children share, from what Celery runs now
control drain, resume             --> `tasks/worker/drain.py`
control pool_grow, pool_shrink    --> `tasks/worker/resize.py`
every two seconds                 --> the status file, for `python -m tasks.health`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from celery.worker import state

from tasks.child.child_pipe import ChildPipe
from tasks.models import memory
from tasks.preparation.model_set import ModelSet
from tasks.protocol.chunk_args import describe
from tasks.telemetry import status_file
from tasks.telemetry.counters import Counters
from tasks.telemetry.status_file import ChildStatus, WorkerStatus
from tasks.transport import worker_registry
from tasks.worker.drain import Drain
from tasks.worker.resize import Resize
from worker_config.retry_policy import STATUS_SECONDS

LOOK_SECONDS = 0.2
# A child's memory takes milliseconds to look at, while no chunk is taken; those beyond it are told without.
MEMORY_SECONDS = 0.3


class Inspection:
    """One worker, as `inspect` and `control` see it; made when its first children are ready.

    Args:
        controller: Celery's worker.
        models: of the worker.
        reports: what its children tell.
        tally: what they have answered.
        told: the worker's status so far.
        refresh: tell Redis which slots are up.
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
        # By slot: whether its child was ready when last seen, and since when.
        self._since: dict[int, tuple[bool, float]] = {}
        self._chunks_of: dict[int, int] = {}
        self.heartbeat = heartbeat
        self.size = Resize(controller, reports)
        self.drain = Drain(controller, models, heartbeat)

    def look(self) -> None:
        """Do what is wanted, and tell of it now and then; called often."""
        self.size.look()
        self.drain.look()
        changed = self._status.state != self._state or self._status.redis_lost_at is not None
        if changed or time.monotonic() - self._status.written_at > STATUS_SECONDS:
            self._tell(redis_lost_at=None)

    def redis_is_lost(self) -> None:
        """Called while the main process waits for Redis, and does nothing else."""
        if time.monotonic() - self._status.written_at > STATUS_SECONDS / 2:
            self._tell(redis_lost_at=self._status.redis_lost_at or time.monotonic())

    def waiting(self, chunks: int) -> None:
        """Take note of how many chunks nobody has taken."""
        since = (self._status.waiting_since or time.monotonic()) if chunks else None
        self._status = msgspec.structs.replace(self._status, waiting=chunks, waiting_since=since)

    def children(self) -> list[ChildStatus]:
        """All children, those that go and those that are to come too, by slot."""
        now, running = time.monotonic(), dict(_running())
        found: list[ChildStatus] = []
        processes = [*self.size.staying, *self.size.leaving]
        leaving = {process.pid for process in self.size.leaving}
        for process in processes:
            done = self._counters.of(process.index, process.pid)
            chunk, chunk_since = running.get(process.pid, ("", 0.0))
            ready = self.size.is_ready(process)
            found.append(
                ChildStatus(
                    slot=process.index,
                    pid=process.pid,
                    ready=ready,
                    since=self._when(process.index, ready, now),
                    leaving=process.pid in leaving,
                    chunk=chunk,
                    chunk_since=chunk_since,
                    chunks=done.chunks,
                    rows=done.rows,
                )
            )
            self._chunks_of[process.index] = done.slot_chunks
        free = (slot for slot in range(self.size.wanted + len(found)) if slot not in {one.slot for one in found})
        for _ in range(self.size.wanted - len(self.size.staying)):
            slot = next(free)
            found.append(ChildStatus(slot, 0, False, self._when(slot, False, now)))
        self._since = {one.slot: self._since[one.slot] for one in found}
        return sorted(found, key=lambda one: one.slot)

    def ready(self) -> dict[str, Any]:
        """The answer to `inspect ready`."""
        children = self.children()
        now = time.monotonic()
        return {
            "state": self._state,
            "children": self.size.wanted,
            "ready": sum(one.ready and not one.leaving for one in children),
            "running": sum(bool(one.chunk) for one in children),
            "slots": {str(one.slot): _in_words(one, now) for one in children},
        }

    def models(self) -> dict[str, Any]:
        """The answer to `inspect models`."""
        now = time.monotonic()
        records = {
            record.pid: self._models.updated(record) for record in worker_registry.saved_slots(self._models.folder)
        }
        children = []
        for one in self.children():
            record = records.get(one.pid) if one.ready else None
            own, pss = _memory_of(one.pid) if time.monotonic() - now < MEMORY_SECONDS else (None, None)
            children.append(
                {
                    "slot": one.slot,
                    "pid": one.pid,
                    "ready": one.ready,
                    "state": _in_words(one, now),
                    "models": [
                        {
                            "name": info.name,
                            "version": info.digest[:8],
                            "digest": info.digest,
                            "executor": info.executor,
                        }
                        for info in (record.models if record else [])
                    ],
                    "memory_own_mib": own,
                    "memory_pss_mib": pss,
                    "chunks": one.chunks,
                    "rows": one.rows,
                    "runs": one.chunk or None,
                    "runs_for_seconds": round(now - one.chunk_since, 1) if one.chunk else None,
                }
            )
        return {"state": self._state, "children": children}

    @property
    def _state(self) -> str:
        return "draining" if self.drain.is_on else "serving"

    def _tell(self, redis_lost_at: float | None) -> None:
        now = time.monotonic()
        children = self.children()
        finished = [done.last_at for one in children if (done := self._counters.of(one.slot, one.pid)).last_at]
        changed = self._status.state != self._state
        self._status = msgspec.structs.replace(
            self._status,
            state=self._state,
            since=now if changed else self._status.since,
            written_at=now,
            children=children,
            chunks=sum(self._chunks_of.values()),
            finished_at=max([*finished, self._status.finished_at or 0.0]) or None,
            redis_lost_at=redis_lost_at,
        )
        status_file.write(self._models.folder, self._status)

    def _when(self, slot: int, ready: bool, now: float) -> float:
        """Since when the slot is what it is; of one whose children die while they load, not since the last one."""
        if self._since.get(slot, (not ready, now))[0] != ready:
            self._since[slot] = (ready, now)
        return self._since[slot][1]


def _running() -> Iterator[tuple[int, tuple[str, float]]]:
    """By child: the chunk that it runs, for people, and since when."""
    now, today = time.monotonic(), time.time()
    for request in tuple(state.active_requests):
        yield request.worker_pid, (describe(request.args), now - (today - (request.time_start or today)))


def _in_words(child: ChildStatus, now: float) -> str:
    if not child.ready:
        return f"not ready for {now - child.since:.1f} s"
    runs = f"runs {child.chunk} for {now - child.chunk_since:.1f} s" if child.chunk else "ready"
    return f"leaves, {runs}" if child.leaving else runs


def _memory_of(pid: int) -> tuple[float | None, float | None]:
    try:
        own, pss = memory.of_process(pid)
    except ProcessLookupError:
        return None, None
    return round(own / 2**20, 1), round(pss / 2**20, 1)
