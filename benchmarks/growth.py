"""Does anything stay behind of a chunk that is done: in the worker, in the client, in Redis?

One long job of chunks of one row, through a model that gives it back. The memory of each kind of process, without pages
of files, is read after an eighth of them and at the end: all that is made once has been made by then, and the timeline
of the job has the 20,000 entries that it may have. Last come the keys that the job has left in Redis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.chunk_cost import Processes, workers
from benchmarks.harness import check_equal
from benchmarks.meter import Memory
from benchmarks.report import Finding, report
from benchmarks.stage import ask, folder
from tasks.protocol import keys
from tasks.transport.connection import connect
from worker_config.queue_names import KEY_PREFIX, QUEUE

CHUNKS, SLOTS = 200_000, 4
AIM_MB = 2.0
# What Celery has of queues, and what workers tell of themselves; a job leaves its record and its timeline, for a day.
_LASTING = (QUEUE + ".", "_kombu.", "workers", "worker:", "queues", "jobs", "unacked_mutex")


def question(quick: bool) -> bool:
    """Run the job."""
    chunks = CHUNKS // 40 if quick else CHUNKS
    with folder() as place, workers(place, SLOTS, 0.0) as (client, processes):
        rows = np.arange(chunks, dtype=np.float32).reshape(-1, 1)
        job = client.submit("sleep", _one_by_one(rows), chunk_rows=1)
        before: dict[str, float] = {}
        for part in job.parts():
            check_equal(part.outputs, rows[part.start : part.stop])
            if part.stop == chunks // 8:
                before = _megabytes(processes)
        grown = {kind: now - before[kind] for kind, now in _megabytes(processes).items()}
        job.wait()
        with connect(client.broker_url) as server:
            found = {key.decode() for key in server.scan_iter(f"{KEY_PREFIX}*")}
        found -= {keys.job(job.id), keys.timeline(job.id)}
        left = sorted(key for key in found if not key.removeprefix(KEY_PREFIX).startswith(_LASTING))
    findings = [Finding(kind, f"{more:+.1f} MB", f"<= {AIM_MB:.0f} MB", more <= AIM_MB) for kind, more in grown.items()]
    report(
        "growth",
        {"chunks": chunks, "after": chunks // 8, "slots": SLOTS},
        [*findings, Finding("keys left", f"{len(left)}", "0", not left, ", ".join(left))],
        void=False,
        quick=quick,
        measured={"before": before, "grown": grown, "left": left},
    )
    return True


def _one_by_one(rows: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """The rows as they are asked for: a data set in memory would be mapped page by page as it is read."""
    yield from rows


def _megabytes(processes: Processes) -> dict[str, float]:
    """Of the process that has most, by kind."""
    return {kind: max(Memory.of(one.pid).own for one in found) / 1e6 for kind, found in processes.by_kind().items()}


if __name__ == "__main__":
    ask(question, __doc__)
