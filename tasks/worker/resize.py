"""Makes a worker's pool larger or smaller while it runs: `control pool_grow` and `pool_shrink`.

grow     new child --loads its models--> slot in Redis; only then does the worker take a chunk more at a time
shrink   child's slot goes at once --no further chunk--> ends what it runs --> is stopped

Celery's own commands of these names would take chunks for a child that still loads, and refuse to shrink a pool in
which every child runs something, as all do while there is work.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from tasks.child.child_pipe import ChildPipe
from worker_config.errors import UsageError


class Resize:
    """The number of children of one worker; made when all that it began with are ready."""

    def __init__(self, controller: Any, reports: ChildPipe) -> None:
        self._controller = controller
        self._reports = reports
        self._leaving: set[int] = set()
        # Children for which the worker takes chunks.
        self._counted = self.target

    @property
    def target(self) -> int:
        """How many children there should be."""
        return int(self._pool._processes)

    @property
    def staying(self) -> list[Any]:
        """The processes that are to go on, ready or not."""
        return [process for process in self._pool._pool if process.pid not in self._leaving]

    @property
    def leaving(self) -> list[Any]:
        """The processes that still run a chunk, and then end."""
        return [process for process in self._pool._pool if process.pid in self._leaving]

    def is_ready(self, process: Any) -> bool:
        """Whether a child has told Celery that it takes chunks; it does so when it holds its models."""
        return self._pool._fileno_to_inq.get(process.inqW_fd) is process

    def grow(self, n: int) -> None:
        """Let `n` more children come; raises UsageError where the number makes no sense."""
        self._check(n)
        self._set_prefetch(self._counted)  # no connection takes chunks for those that load
        self._controller.pool.grow(n)
        # At once; Celery looks after a while.
        self._pool.maintain_pool()

    def shrink(self, n: int) -> None:
        """Let `n` children go: those that do not run anything first.

        Raises:
            UsageError: none would be left.
        """
        self._check(n)
        if n >= self.target:
            raise UsageError(f"{self.target} children are up, and one must stay; `control drain` stops all work")
        pool = self._pool
        for _ in range(n):  # as billiard does it
            pool._processes -= 1
            pool._putlock.shrink()
        # Fewer than `n` have to go where one has just died.
        surplus = max(0, len(self.staying) - self.target)
        for process in sorted(self.staying, key=lambda one: (self.is_ready(one), self._is_busy(one)))[:surplus]:
            if not self.is_ready(process):
                self._reports.forks -= 1  # not one that has died while it loaded
            self._leaving.add(process.pid)
            # What the pool gives chunks to, and what it counts as occupied; see `AsynPool._create_write_handlers`.
            pool._all_inqueues.discard(process.inqW_fd)
            pool._busy_workers.discard(process.inqW_fd)
        self._set_prefetch(min(self._counted, self.target))
        self.look()

    def look(self) -> None:
        """Stop children whose chunk is done, and take chunks for those that have become ready."""
        pool = self._pool
        self._leaving.intersection_update([process.pid for process in pool._pool])
        for process in self.leaving:
            pool._all_inqueues.discard(process.inqW_fd)  # it may have become ready meanwhile
            if not self._is_busy(process):
                process._controlled_termination = True
                with suppress(ProcessLookupError):
                    # It runs nothing. SIGTERM may be ignored: REMAP_SIGTERM makes billiard do so.
                    os.kill(process.pid, signal.SIGKILL)
        ready = sum(map(self.is_ready, self.staying))
        if self._counted < min(ready, self.target):
            self._set_prefetch(min(ready, self.target))

    @property
    def _pool(self) -> Any:
        return self._controller.pool._pool

    def _set_prefetch(self, children: int) -> None:
        consumer = self._controller.consumer
        more, self._counted = children - self._counted, children
        consumer.counted = children
        consumer.initial_prefetch_count = consumer.max_prefetch_count  # for a new connection
        if more and getattr(consumer, "qos", None) is not None:
            consumer._update_qos_eventually(more)

    def _is_busy(self, process: Any) -> bool:
        return any(
            process is (job._write_to or job._scheduled_for) or process.pid in job.worker_pids()
            for job in self._pool._cache.values()
        )

    def _check(self, n: int) -> None:
        if getattr(self._controller, "autoscaler", None):
            raise UsageError("the worker runs with --autoscale, which changes its children itself: `control autoscale`")
        if n < 1:
            raise UsageError(f"{n} children cannot come or go; give a number from 1 on")
