"""How do jobs on the same workers share them? How long does a request, or a small job, wait beside a large one; do
equal jobs end together; and what is left for a bulk job?

Chunks that sleep, so that a slot is taken and no processor: a detached job of 5,000 chunks of 0.25 s on two children,
and meanwhile requests that take no time, then normal jobs of one chunk, one after the other; first in, first out,
each would wait for the whole of it. Ten equal jobs, submitted together, each held against what it must give. A bulk
job beside two interactive ones without end, and beside requests without end. One job alone: how many of its slots'
seconds are used. Waits are from submit to result, by the caller's clock.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import check_equal
from benchmarks.report import Finding, report
from benchmarks.stage import CHILDREN, ask, folder
from producer import Client, Job, local

Rows = npt.NDArray[np.float64]

# A function as a model: each row says for how long it sleeps, and has a number to be told by.
_MODEL = """
import time


def sleeping(rows):
    time.sleep(float(rows[:, 0].sum()))
    return rows * 2
"""
# A request waits for the chunk that runs, at most.
REQUEST_AIM_SECONDS = 0.03
# Of one chunk: what waits before it is a window of the others, and that of a job alone is four chunks for each slot.
WAIT_AIM_CHUNKS = 6.0
GATE_SECONDS = 15.0
TOGETHER_AIM = 1.25
BULK_AIM = 0.1
USED_AIM = 0.9


def question(quick: bool) -> bool:
    """Measure all four; their figures are of sleeping chunks, and a machine that is not quiet only makes them worse."""
    seconds, chunks, samples = (0.1, 150, 10) if quick else (0.25, 5_000, 100)
    with folder() as place, _system(place) as client:
        alone = [_one_chunk(client, seconds) for _ in range(samples)]
        requests, waits, left = _waits_beside(client, seconds, chunks, samples)
        spread, starts = _ten_equal(client, seconds / 2, 40 if quick else 100)
        bulk = _bulk_share(client, seconds / 5, 5 if quick else 60)
        beside_requests = _share_beside_requests(client, seconds / 5, 5 if quick else 60)
        used = {detach: _used_alone(client, seconds / 2, 100 if quick else 1_000, detach) for detach in (False, True)}
    p95 = float(np.percentile(waits, 95))
    request_p95 = float(np.percentile(requests, 95))
    report(
        "fair_shares",
        {"chunk_seconds": seconds, "chunks": chunks, "children": CHILDREN, "samples": samples},
        [
            Finding("one chunk on idle workers, p50 / p95", _percentiles(alone)),
            Finding(
                "one request beside the detached job, p50 / p95",
                _percentiles(requests),
                f"<= {seconds + REQUEST_AIM_SECONDS:.2f} s",
                request_p95 <= seconds + REQUEST_AIM_SECONDS,
            ),
            Finding("one chunk beside the detached job, p50 / p95", _percentiles(waits)),
            Finding(
                "the same in chunks' times, p95",
                f"{p95 / seconds:.1f}",
                f"<= {WAIT_AIM_CHUNKS:.0f}",
                p95 <= WAIT_AIM_CHUNKS * seconds,
            ),
            Finding("of the detached job left meanwhile", f"{left:.0%}", "> 0 %", left > 0),
            Finding(
                "ten equal jobs, last end / first end", f"{spread:.2f}", f"<= {TOGETHER_AIM}", spread <= TOGETHER_AIM
            ),
            Finding("bulk beside interactive, of all chunks", f"{bulk:.0%}", f">= {BULK_AIM:.0%}", bulk >= BULK_AIM),
            Finding(
                "bulk beside requests, of all slots' time",
                f"{beside_requests:.0%}",
                f">= {BULK_AIM:.0%}",
                beside_requests >= BULK_AIM,
            ),
            *(
                Finding(
                    f"slots used by one {'detached' if detach else 'attached'} job alone",
                    f"{share:.0%}",
                    f">= {USED_AIM:.0%}",
                    share >= USED_AIM,
                )
                for detach, share in used.items()
            ),
        ],
        void=False,
        quick=quick,
        measured={"alone": alone, "requests": requests, "waits": waits, "ends": starts},
    )
    return True


@contextmanager
def _system(place: Path) -> Iterator[Client]:
    (place / "sleeping_model.py").write_text(_MODEL)
    (place / "models.toml").write_text('[models.sleeping]\npath = "sleeping_model:sleeping"\nbatch_rows = 1\n')
    sys.path.insert(0, str(place))
    with local(models=place / "models.toml", workers=CHILDREN) as client:
        yield client


def _rows(seconds: float, count: int) -> Rows:
    return np.stack([np.full(count, seconds), np.arange(count)], axis=1)


def _one_chunk(client: Client, seconds: float) -> float:
    rows, began = _rows(seconds, 1), time.monotonic()
    check_equal(client.submit("sleeping", rows).result(), rows * 2)
    return time.monotonic() - began


def _one_request(client: Client, seconds: float) -> float:
    rows, began = _rows(seconds, 1), time.monotonic()
    check_equal(client.predict("sleeping", rows), rows * 2)
    return time.monotonic() - began


def _waits_beside(client: Client, seconds: float, chunks: int, samples: int) -> tuple[list[float], list[float], float]:
    """What requests, and jobs of one chunk, wait while a detached job runs; and what share of that is left then."""
    rows = _rows(seconds, chunks)
    job = client.attach(client.submit("sleeping", rows, chunk_rows=1, detach=True))
    requests = [_one_request(client, 0.0) for _ in range(2 * samples)]
    waits = [_one_chunk(client, seconds) for _ in range(samples)]
    left = 1 - job.ledger.chunks_answered / chunks
    check_equal(job.result(), rows * 2)
    return requests, waits, left


def _ten_equal(client: Client, seconds: float, chunks: int) -> tuple[float, list[float]]:
    """Of ten jobs, half of them detached, the time of the last end over that of the first; and all times.

    They are submitted while all slots sleep: none has begun before the last one is there.
    """
    ends: list[float] = []

    def join(job: Job, rows: Rows) -> None:
        check_equal(job.result(), rows * 2)
        ends.append(time.time())

    gate = client.submit("sleeping", _rows(GATE_SECONDS, CHILDREN), chunk_rows=1)
    data = [_rows(seconds, chunks) + np.array([0, 1_000 * number]) for number in range(10)]
    left = [client.submit("sleeping", rows, chunk_rows=1, detach=True, priority="normal") for rows in data[:5]]
    jobs = [client.submit("sleeping", rows, chunk_rows=1) for rows in data[5:]]
    gate.result()
    began = time.time()
    threads = [threading.Thread(target=join, args=one) for one in zip(jobs, data[5:], strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job_id, rows in zip(left, data, strict=False):
        job = client.attach(job_id)
        check_equal(job.result(), rows * 2)
        ends.append(job.record.updated_at)
    times = sorted(end - began for end in ends)
    return times[-1] / times[0], times


def _bulk_share(client: Client, seconds: float, for_seconds: float) -> float:
    """What a bulk job has of all chunks while two interactive ones never end."""
    over = threading.Event()

    def endless() -> Iterator[Rows]:
        while not over.is_set():
            yield _rows(seconds, 1)[0]

    jobs = [client.submit("sleeping", endless(), chunk_rows=1, priority="interactive") for _ in range(2)]
    threads = [threading.Thread(target=lambda job=job: [None for _ in job.parts()]) for job in jobs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    chunks = int(2 * for_seconds * CHILDREN / seconds)
    bulk = client.attach(client.submit("sleeping", _rows(seconds, chunks), chunk_rows=1, detach=True))
    time.sleep(for_seconds / 4)  # until windows are as they stay

    def answered() -> tuple[int, int]:
        return bulk.ledger.chunks_answered, sum(job.ledger.predicted for job in jobs)

    before = answered()
    time.sleep(for_seconds)
    ours, others = (now - then for now, then in zip(answered(), before, strict=True))
    over.set()
    for thread in threads:
        thread.join()
    bulk.cancel()
    return ours / (ours + others)


def _share_beside_requests(client: Client, seconds: float, for_seconds: float) -> float:
    """What share of all slots' time a bulk job has while requests never end."""
    over = threading.Event()

    def endless() -> None:
        while not over.is_set():
            _one_request(client, seconds)

    threads = [threading.Thread(target=endless) for _ in range(4 * CHILDREN)]
    for thread in threads:
        thread.start()
    chunks = int(2 * for_seconds * CHILDREN / seconds)
    bulk = client.attach(client.submit("sleeping", _rows(seconds, chunks), chunk_rows=1, detach=True))
    time.sleep(for_seconds / 4)
    before = bulk.ledger.chunks_answered
    time.sleep(for_seconds)
    answered = bulk.ledger.chunks_answered - before
    over.set()
    for thread in threads:
        thread.join()
    bulk.cancel()
    return answered * seconds / (for_seconds * CHILDREN)


def _used_alone(client: Client, seconds: float, chunks: int, detach: bool) -> float:
    """What share of its slots' time one job's chunks sleep, from its first answer to its last."""
    rows = _rows(seconds, chunks)
    if detach:
        job = client.attach(client.submit("sleeping", rows, chunk_rows=1, detach=True))
        while not (first := job.ledger.chunks_answered):
            time.sleep(seconds)
        began = time.time()
        job.wait()
        return (chunks - first) * seconds / CHILDREN / (job.record.updated_at - began)
    parts = client.submit("sleeping", rows, chunk_rows=1).parts()
    next(parts)
    began = time.time()
    count = sum(1 for _ in parts)
    return count * seconds / CHILDREN / (time.time() - began)


def _percentiles(waits: list[float]) -> str:
    return " / ".join(f"{np.percentile(waits, share):.2f}" for share in (50, 95)) + " s"


if __name__ == "__main__":
    ask(question, __doc__)
