"""What a worker's main process tells of itself, in a file of its run folder that it keeps up to date.

    main process --every two seconds--> /tmp/celeriac-worker-.../status --> `python -m tasks.health`, metrics

Whoever reads it asks nobody, so that also a main process that hangs is seen: its file gets old. Times are those of
`time.monotonic`, which all processes of a machine share, and nobody sets back.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from tasks.transport import run_folder
from worker_config.broker import address_of
from worker_config.decodable import decodable
from worker_config.files import write_whole
from worker_config.foreign_errors import UNDECODABLE


class ChildStatus(msgspec.Struct, frozen=True):
    """One child, or the place of one that is to come.

    Attributes:
        pid: 0 where there is none at the moment.
        since: when it became what `ready` says.
        leaving: it ends after its chunk, and is no slot any more.
        chunk: what it runs, for people; empty where it runs nothing.
        chunk_since: when it began with that.
        chunks, requests: that it has answered.
        rows: of these.
    """

    slot: int
    pid: int
    ready: bool
    since: float
    leaving: bool = False
    chunk: str = ""
    chunk_since: float = 0.0
    chunks: int = 0
    requests: int = 0
    rows: int = 0

    def in_words(self, now: float) -> str:
        """What it does, for people."""
        if not self.ready:
            return f"not ready for {now - self.since:.1f} s"
        runs = f"runs {self.chunk} for {now - self.chunk_since:.1f} s" if self.chunk else "ready"
        return f"leaves, {runs}" if self.leaving else runs


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker.

    Attributes:
        born: the kernel's time of the main process's start; its pid alone may be that of another one by now.
        broker: tells brokers apart, without their URL.
        since: when `state` began.
        written_at: when this was written.
        chunk_limit: seconds that a chunk may run.
        chunks: that all its children have answered, those that are gone too.
        finished_at: when one was answered last.
        waiting: chunks in the worker's queues that nobody has taken.
        waiting_since: since when there have been such.
        redis_lost_at: since when Redis is out of reach; None while it is not.
        doing: what a worker that starts does now, for people; `doing_since`: when it began with that.
    """

    node: str
    pid: int
    born: int
    broker: str
    state: Literal["starting", "serving", "draining"]
    since: float
    written_at: float
    chunk_limit: float
    children: list[ChildStatus] = []
    chunks: int = 0
    finished_at: float | None = None
    waiting: int = 0
    waiting_since: float | None = None
    redis_lost_at: float | None = None
    doing: str = ""
    doing_since: float = 0.0

    @property
    def staying(self) -> list[ChildStatus]:
        """The children that are to go on, and those that are to come."""
        return [child for child in self.children if not child.leaving]

    @property
    def ready(self) -> int:
        """How many of these are ready."""
        return sum(child.ready for child in self.staying)

    @property
    def running(self) -> int:
        """How many children run a chunk, those that go too."""
        return sum(bool(child.chunk) for child in self.children)


def starting(node: str, broker_url: str, chunk_limit: float) -> WorkerStatus:
    """The status of a worker that has just begun, which this process is."""
    now = time.monotonic()
    pid = os.getpid()
    return WorkerStatus(node, pid, run_folder.born(pid), mark_of(broker_url), "starting", now, now, chunk_limit)


def write(folder: Path, status: WorkerStatus) -> None:
    """Leave a status in place of the one before."""
    with suppress(OSError):  # a full disk: the status gets old, which is told
        write_whole(run_folder.status_path(folder), msgspec.json.encode(status))


def read_all() -> list[WorkerStatus]:
    """Of all workers of this user on this machine, or in this container, whose main process lives."""
    found = filter(None, map(read, run_folder.own_folders()))
    return [status for status in found if run_folder.born(status.pid) == status.born]


def read(folder: Path) -> WorkerStatus | None:
    """Of the worker with this run folder; None where there is none, or that of another version."""
    try:
        return msgspec.json.decode(run_folder.status_path(folder).read_bytes(), type=decodable(WorkerStatus))
    except (OSError, *UNDECODABLE):
        return None


def mark_of(broker_url: str) -> str:
    """Short, and the same for the same server, however its URL is spelled."""
    return hashlib.sha256(repr(address_of(broker_url)).encode()).hexdigest()[:16]
