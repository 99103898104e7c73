"""What does a chunk cost beyond the barest Celery task, and does its cost grow with the number of chunks?

Rows of 64 bytes, one in each chunk, through a model that gives them back: nearly all that is left is the chunk's way.
The rival is a Celery task that only pushes its number onto a list, with the same Celery settings, two prefork children
and a publisher that sends in batches of the same size; nothing is put in order, counted or sent again.

Growth: one long job; the time from part to part in its last tenth against its first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import bare_task
from benchmarks.harness import Arm, check_equal, compare
from benchmarks.report import Finding, at_least, report, report_comparison
from benchmarks.stage import CHILDREN, ask, folder, random_rows, system
from producer import Client
from producer.job.dispatcher import BATCH_CHUNKS
from tasks.transport.connection import connect
from worker_config.settings import Settings

AIM = 0.9
# The last tenth may take this much longer than the first.
GROWTH_AIM = 1.1


def question(quick: bool) -> bool:
    """Measure both; return whether the machine was quiet."""
    data = random_rows("small_identity", 3_000 if quick else 100_000)
    some = data[: 500 if quick else 2_000]
    with folder() as place, system(place) as client, _bare_worker(client.broker_url, place):
        ours = Arm(
            "celeriac",
            lambda: client.predict("small_identity", some, chunk_rows=1),
            partial(check_equal, expected=some),
        )
        numbers = np.arange(len(some))
        bare = Arm(
            "barest Celery task",
            lambda: _push_all(client.broker_url, len(some)),
            lambda pushed: check_equal(sorted(pushed), numbers),
        )
        comparison = compare(ours, [bare])
        sizes = {"row_bytes": some[0].nbytes, "chunk_rows": 1, "children": CHILDREN}
        quiet = report_comparison(
            "small_chunks: against the barest task",
            comparison,
            len(some),
            sizes,
            [at_least("celeriac / barest Celery task", comparison.speed_against(bare.name), AIM)],
            quick=quick,
        )
        gaps = _seconds_between_parts(client, data)
    first, last = (float(np.mean(tenth)) for tenth in (gaps[: len(gaps) // 10], gaps[-(len(gaps) // 10) :]))
    report(
        "small_chunks: growth with their number",
        {"rows": len(data), **sizes},
        [
            Finding("per chunk, first tenth", f"{first * 1e3:.2f} ms"),
            Finding(
                "last tenth / first tenth", f"{last / first:.2f}", f"<= {GROWTH_AIM:.2f}", last / first <= GROWTH_AIM
            ),
        ],
        void=False,
        quick=quick,
        measured={"seconds_by_tenth": [float(tenth.sum()) for tenth in np.array_split(gaps, 10)]},
    )
    return quiet


def _seconds_between_parts(client: Client, data: np.ndarray) -> np.ndarray:
    came = []
    output = np.empty_like(data)
    for part in client.submit("small_identity", data, chunk_rows=1).parts():
        came.append(time.monotonic())
        output[part.start : part.stop] = part.outputs
    check_equal(output, data)
    return np.diff(came)


def _push_all(url: str, count: int) -> list[int]:
    """Publish in batches; take the numbers as they come."""
    app = bare_task.make_bare_app(Settings(broker_url=url))
    pushed: list[bytes] = []
    with connect(url) as client, app.producer_pool.acquire(block=True) as producer:
        for start in range(0, count, BATCH_CHUNKS):
            with producer.batch():
                for number in range(start, min(start + BATCH_CHUNKS, count)):
                    app.send_task(bare_task.TASK, args=[number], producer=producer, ignore_result=True)
            pushed += client.lpop(bare_task.NUMBERS, count) or []
        while len(pushed) < count:
            pushed += [client.blpop([bare_task.NUMBERS])[1], *(client.lpop(bare_task.NUMBERS, count) or [])]
    app.close()
    return [int(number) for number in pushed]


@contextmanager
def _bare_worker(url: str, place: Path) -> Iterator[None]:
    """A worker for the barest task, on the same Redis, in a queue of its own."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.bare_task", "worker", "-c", str(CHILDREN)]
    command += ["-n", "bare@%h", "--without-mingle", "--without-gossip"]
    with (place / "bare.log").open("wb") as log:
        worker = subprocess.Popen(
            command, env={**os.environ, "CELERIAC_BROKER_URL": url}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _push_all(url, 1)  # returns when the worker is up
        yield
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


if __name__ == "__main__":
    ask(question, __doc__)
