"""The job that makes files of the parts which the workers of another job have left: one chunk for each file.

MergeOrder --MergeFeed.add--> chunk --> a worker, which writes the file --> Part with the file's name, in order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from producer.job.chunk_feeds import Feed
from producer.job.factory import make_job
from producer.rows.part import StoredPart
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.job_options import JobOptions, JobSpec
from tasks.datasets.rows import Rows
from tasks.outputs.parts import MergeOrder
from tasks.protocol.messages import MergeReply, StoreName, pack
from worker_config.errors import OutputError
from worker_config.settings import Settings


class MergeFeed(Feed):
    """Orders, each a chunk of one row, as they are added; used by two threads."""

    def __init__(self, label: str) -> None:
        super().__init__(f"parts of {label}", None, 0, 0)
        self._orders: deque[MergeOrder] = deque()
        self._ended = False

    def add(self, order: MergeOrder) -> None:
        """One more file is to be made."""
        self._orders.append(order)

    def end(self) -> None:
        """No more files."""
        self._ended = True

    def restart(self, first_row: int) -> None:
        """No model runs, so no executor can be found to differ."""
        return

    def _cut(self, rows: int, fixed: bool) -> tuple[Rows | None, int] | None:
        if not self._orders:
            return None
        return np.frombuffer(pack(self._orders.popleft()), np.uint8)[None], 1

    def _is_used_up(self) -> bool:
        return self._error is not None or (self._ended and not self._orders)


class Merged(Protocol):
    """The job whose parts are merged: the context of an attached one, or what a detached one tells of its workers."""

    @property
    def spec(self) -> JobSpec:
        """Its models, and who runs them."""

    @property
    def settings(self) -> Settings:
        """As of `make_job`."""

    @property
    def worker_timeout_seconds(self) -> float:
        """As of `make_job`."""

    @property
    def watch(self) -> Callable[[], None]:
        """As of `make_job`."""


class MergeJob:
    """The job that makes files of the parts of another one, on its workers and with its weight."""

    def __init__(self, context: Merged, label: str, reply: MergeReply) -> None:
        self._feed = MergeFeed(label)
        options = JobOptions(priority=context.spec.options.priority, fail_together=True, write_to=reply)
        store: StoreName = "redis" if context.spec.store == "redis" else "files"
        spec = replace(context.spec, options=options, in_place=None, store=store, kept=None, kept_in_place=None)
        sizer = ChunkSizer(1, fixed_rows=1)
        self._job = make_job(context.settings, spec, self._feed, sizer, context.worker_timeout_seconds, context.watch)
        self._files = self._job.parts()
        self._job.start(lambda: None)

    def add(self, order: MergeOrder) -> None:
        """One more file is to be made."""
        self._feed.add(order)
        self._job.wake()

    def end(self) -> None:
        """No more files; returns when nothing of it is left in Redis, but for its record."""
        self._feed.end()
        self._job.wake()
        for _ in self._files:
            pass
        self._job.wait()

    def is_ready(self) -> bool:
        """Whether `take` would not wait."""
        return self._job.has_part

    def take(self) -> StoredPart:
        """The next file, in the order of the orders; raises the error that the job ended with."""
        part = next(self._files, None)
        if part is None or part.stored is None:
            raise OutputError(f"job {self._job.id} ended before all parts were merged; continue with --resume")
        return part.stored

    def close(self) -> None:
        """Nobody wants the rest."""
        self._job.cancel()
        self._job.wait(timeout_seconds=2.0)
