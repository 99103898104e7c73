"""What do 600 MB of weights cost, with four children: memory of all of them together, and time to replace one?

The worker prefers memory (`prefer = "memory"`), so that all children share the weights. Memory is the children's
proportional share (PSS) after each has predicted. Then a child is killed with SIGKILL while the others stand still, so
that the first answer can only come from the one that took its place; the clock runs from the kill to that answer.
The outputs are held, bit by bit, against the same graph loaded plainly in one process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.harness import check_equal
from benchmarks.meter import Memory
from benchmarks.models import run_apart
from benchmarks.report import Finding, at_most, report
from benchmarks.stage import ask, folder
from producer import Client, local
from tasks.protocol.records import SlotRecord
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots

MB = 10**6
CHILDREN = 4
OWN_MB = 120
REPLACED_SECONDS = 2.0
BATCH_ROWS = 8


def question(quick: bool) -> bool:
    """Measure; there is no control, since bytes and a bound of seconds are no ratios."""
    os.environ["CELERIAC_INTRA_OP_THREADS"] = "1"
    # On a disk: files in memory would count as memory of who maps them.
    with folder(in_memory=False) as place:
        run_apart("benchmarks.weights_model", "write", str(place), "1024" if quick else "12288")
        rows = np.random.default_rng(1).standard_normal((CHILDREN * 16 * BATCH_ROWS, 1024), np.float32)
        np.save(place / "rows.npy", rows)
        run_apart("benchmarks.weights_model", "predict", str(place), str(BATCH_ROWS))
        expected = np.load(place / "expected.npy")
        with local(models=place / "models.toml", workers=CHILDREN) as client:
            weights = _slots(client)[0].models[0].shared_bytes
            executor = _slots(client)[0].models[0].executor
            exactly = executor == "graph"  # others may round otherwise
            check_equal(client.predict("large", rows, chunk_rows=BATCH_ROWS), expected, exactly=exactly)
            memory = [Memory.of(slot.pid) for slot in _slots(client)]
            times = [_replace(client, rows) for _ in range(3 if quick else 5)]
            check_equal(client.predict("large", rows, chunk_rows=BATCH_ROWS), expected, exactly=exactly)
    equal = "equal to the bit" if exactly else "within 1e-4"
    together = sum(one.pss for one in memory)
    bound = 1.15 * weights + CHILDREN * OWN_MB * MB
    report(
        "weights",
        {"weights": f"{weights / MB:.0f} MB", "children": CHILDREN, "executor": executor},
        [
            at_most("PSS of all children together", together / MB, bound / MB, "MB"),
            Finding("without the pages of files, each", " ".join(f"{one.own / MB:.0f}" for one in memory), note="MB"),
            at_most("SIGKILL to the replacement's first answer", median(times), REPLACED_SECONDS, "s"),
            Finding("outputs / the model's graph, loaded plainly", equal, "to the bit", exactly),
        ],
        void=False,
        quick=quick,
        measured={"memory": [vars(one) for one in memory], "seconds": times},
    )
    return True


def _replace(client: Client, rows: npt.NDArray[np.float32]) -> float:
    """Seconds from a child's death to an answer of the one in its place."""
    slots = _slots(client)
    with _standing_still(slots[1:]):
        started = time.monotonic()
        os.kill(slots[0].pid, signal.SIGKILL)
        # More chunks than there are children, as some go to those that stand still.
        job = client.submit("large", rows[: 2 * CHILDREN * BATCH_ROWS], chunk_rows=BATCH_ROWS)
        while not job.progress().predicted:
            time.sleep(0.005)
        seconds = time.monotonic() - started
    job.result()
    while len(_slots(client)) < CHILDREN:
        time.sleep(0.05)
    return seconds


@contextmanager
def _standing_still(slots: list[SlotRecord]) -> Iterator[None]:
    for slot in slots:
        os.kill(slot.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for slot in slots:
            os.kill(slot.pid, signal.SIGCONT)


def _slots(client: Client) -> list[SlotRecord]:
    with connect(client.broker_url) as redis:
        return read_slots(redis)


if __name__ == "__main__":
    ask(question, __doc__)
