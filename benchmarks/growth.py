"""Does anything stay behind of what is done, a chunk or a request: in the worker, in the client, in Redis?

One long job of chunks of one row, through a model that gives it back; then as many requests of one row, by 16 threads.
The memory of each kind of process, without pages of files, is read after an eighth of them and at the end: all that is
made once has been made by then, and the timeline of the job has the 20,000 entries that it may have. Last come the keys
that they have left in Redis.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from benchmarks.chunk_cost import Processes, workers
from benchmarks.harness import check_equal
from benchmarks.meter import Memory
from benchmarks.report import Finding, report
from benchmarks.stage import ask, folder
from producer import Client
from tasks.protocol import keys
from tasks.transport.connection import connect
from worker_config.broker import KEY_PREFIX, QUEUE

COUNT, SLOTS, THREADS = 200_000, 4, 16
# Of requests, what a pool of threads is given: each has a future there.
_AT_ONCE = 1_000
_SETTLE_SECONDS = 30.0
AIM_MB = 2.0
# What Celery has of queues, and what workers tell of themselves; a job leaves its record and its timeline, for a day.
_LASTING = (QUEUE + ".", "_kombu.", "workers", "worker:", "queues", "jobs", "unacked_mutex", "sharing")


def question(quick: bool) -> bool:
    """Run the job, then the requests."""
    count = COUNT // 40 if quick else COUNT
    with folder() as place, workers(place, SLOTS, 0.0) as (client, processes):
        lasting: set[str] = set()
        for what, run in {"chunks": _chunks, "requests": _requests}.items():
            its, before = run(client, count, processes)
            lasting |= its
            grown = {kind: now - before[kind] for kind, now in _megabytes(processes).items()}
            left = _keys_left(client.broker_url, lasting)
            findings = [
                Finding(kind, f"{more:+.1f} MB", f"<= {AIM_MB:.0f} MB", more <= AIM_MB) for kind, more in grown.items()
            ]
            report(
                f"growth: {what}",
                {what: count, "after": count // 8, "slots": SLOTS},
                [*findings, Finding("keys left", f"{len(left)}", "0", not left, ", ".join(left))],
                void=False,
                quick=quick,
                measured={"before": before, "grown": grown, "left": left},
            )
    return True


def _keys_left(url: str, lasting: set[str]) -> list[str]:
    """Keys that stay; the last messages are acknowledged a moment after their answers."""
    until = time.monotonic() + _SETTLE_SECONDS
    with connect(url) as server:
        while True:
            found = {key.decode() for key in server.scan_iter(f"{KEY_PREFIX}*")} - lasting
            left = sorted(key for key in found if not key.removeprefix(KEY_PREFIX).startswith(_LASTING))
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)


def _chunks(client: Client, count: int, processes: Processes) -> tuple[set[str], dict[str, float]]:
    """Run a job of so many; the keys that it leaves for a day, and what processes had after an eighth."""
    before: dict[str, float] = {}
    rows = np.arange(count, dtype=np.float32).reshape(-1, 1)
    job = client.submit("sleep", _one_by_one(rows), chunk_rows=1)
    for part in job.parts():
        check_equal(part.outputs, rows[part.start : part.stop])
        if part.stop == count // 8:
            before = _megabytes(processes)
    job.wait()
    return {keys.job(job.id), keys.timeline(job.id)}, before


def _requests(client: Client, count: int, processes: Processes) -> tuple[set[str], dict[str, float]]:
    """Ask for so many rows; they leave no key."""
    before: dict[str, float] = {}

    def ask(number: int) -> None:
        row = np.full((1, 1), number, np.float32)
        check_equal(client.predict("sleep", row), row)

    with ThreadPoolExecutor(THREADS) as threads:
        for start, stop in (0, count // 8), (count // 8, count):
            for first in range(start, stop, _AT_ONCE):
                list(threads.map(ask, range(first, min(first + _AT_ONCE, stop))))
            if not start:
                before = _megabytes(processes)
    return set(), before


def _one_by_one(rows: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """The rows as they are asked for: a data set in memory would be mapped page by page as it is read."""
    yield from rows


def _megabytes(processes: Processes) -> dict[str, float]:
    """Of the process that has most, by kind."""
    return {kind: max(Memory.of(one.pid).own for one in found) / 1e6 for kind, found in processes.by_kind().items()}


if __name__ == "__main__":
    ask(question, __doc__)
