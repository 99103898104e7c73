"""Sets the stage for the costs of capacity plans, and for what these are held against: chunks sleep as rows say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.chunk_cost import Processes, workers
from benchmarks.harness import check_equal
from benchmarks.meter import Load
from producer import Client

Rows = npt.NDArray[np.float32]

_MODEL = """
import time


def sleep(rows):
    time.sleep(float(rows[:, 0].sum()))
    return rows[:, :2]


SECONDS = {seconds}
"""
MODEL = "sleep"
# Of rows that ride in messages, and of those that go by a key of Redis.
INLINE_BYTES, STORED_BYTES = 60 * 2**10, 2**20


@dataclass(frozen=True)
class Stage:
    """A system that is up, with so many slots."""

    client: Client
    processes: Processes
    slots: int


@dataclass(frozen=True)
class Run:
    """A job: its chunks, seconds, processor seconds by kind of process, and the share of cores that others took."""

    chunks: int
    seconds: float
    processor_seconds: dict[str, float]
    others: float

    @property
    def cores(self) -> float:
        """That it used."""
        return sum(self.processor_seconds.values()) / self.seconds


@contextmanager
def system(place: Path, slots: int, count: int) -> Iterator[Stage]:
    """One worker, or two, with so many slots together; warm."""
    with workers(place, slots, 0, _MODEL, count) as (client, processes):
        stage = Stage(client, processes, slots)
        run(stage, 4 * slots, 0.0)
        yield stage


def rows_of(chunks: int, seconds: float, row_bytes: int = 8) -> Rows:
    """Rows that sleep so long each; told apart by their second value."""
    rows = np.zeros((chunks, max(2, row_bytes // 4)), np.float32)
    rows[:, 0], rows[:, 1] = seconds, np.arange(chunks)
    return rows


def run(stage: Stage, chunks: int, seconds: float, row_bytes: int = 8) -> Run:
    """A job of chunks of one row."""
    rows = rows_of(chunks, seconds, row_bytes)
    before, load, began = stage.processes.seconds(), Load(), time.monotonic()
    predict(stage.client, rows)
    took = time.monotonic() - began
    others = load.since()[1]
    used = {kind: now - before[kind] for kind, now in stage.processes.seconds().items()}
    return Run(chunks, took, used, others)


def predict(client: Client, rows: Rows) -> None:
    """A job of these rows, a chunk each, by way of Redis where they are large; its outputs are checked."""
    check_equal(client.submit(MODEL, rows, chunk_rows=1, store="redis").result(), rows[:, :2])


def check_job(client: Client, rows: Rows, on_part: Callable[[int], None]) -> None:
    """The same, part by part; `on_part` is told how many have come."""
    parts = client.submit(MODEL, rows, chunk_rows=1, store="redis").parts()
    came: list[Rows] = []
    for part in parts:
        came.append(part.outputs)  # type: ignore[arg-type]
        on_part(len(came))
    check_equal(np.concatenate(came), rows[:, :2])


def cores() -> int:
    """Of this machine."""
    return len(os.sched_getaffinity(0))
