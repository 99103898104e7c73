"""What does a chunk cost each process, where its model does nothing; and are many slots kept busy in spite of it?

A chunk is one row, and its model sleeps. Two workers share a private Redis. The processor time of
each kind of process is read before and after a job: the workers' main processes, their children, the producer, Redis.

Busy: the share of the job's time in which slots sleep, with many more of them than cores, and chunks of the usual time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import check_equal, is_quiet
from benchmarks.report import Finding, control, report
from benchmarks.stage import ask, folder
from producer import Client, local
from producer.embedded.local import worker_command
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots
from worker_config.environment import for_worker

WORKERS = 2
SLOTS, MANY_SLOTS = 16, 96
CHUNKS, SECONDS = 3_000, 0.05
MANY_SECONDS = 0.25
# Milliseconds of processor time a chunk.
AIMS = {"main processes": 1.0, "producer": 0.4}
AIM_IN_ALL = 2.5
AIM_BUSY = 0.85

_MODEL = """
import time


def sleep(rows):
    time.sleep({seconds})
    return rows
"""


@dataclass(frozen=True)
class Processes:
    """All that a job runs in."""

    redis: psutil.Process
    mains: list[psutil.Process]
    producer: psutil.Process

    def by_kind(self) -> dict[str, list[psutil.Process]]:
        """All of them."""
        children = [child for main in self.mains for child in main.children()]
        return {"main processes": self.mains, "children": children, "producer": [self.producer], "Redis": [self.redis]}

    def seconds(self) -> dict[str, float]:
        """Of processors, used up to now, by kind; no child may end between two calls."""
        return {kind: sum(map(_used, found)) for kind, found in self.by_kind().items()}


def question(quick: bool) -> bool:
    """Measure the cost, then how busy many slots are."""
    chunks = CHUNKS // 10 if quick else CHUNKS
    with folder() as place, workers(place, SLOTS, SECONDS) as (client, processes):
        _run(client, 4 * SLOTS)
        cost = _cost(client, processes, chunks)
        again = _cost(client, processes, chunks)
    in_all, twice = sum(cost.values()), sum(again.values())
    void = not is_quiet(twice / in_all)
    findings = [_at_most(kind, ms, AIMS.get(kind)) for kind, ms in cost.items()]
    report(
        "chunk_cost",
        {"chunks": chunks, "slots": SLOTS, "workers": WORKERS, "seconds of a chunk": SECONDS},
        [*findings, _at_most("in all", in_all, AIM_IN_ALL), control("control: the same twice", twice / in_all)],
        void=void,
        quick=quick,
        measured={"milliseconds": cost, "again": again},
    )
    slots = 4 * WORKERS if quick else MANY_SLOTS
    chunks = 10 * slots
    with folder() as place, workers(place, slots, MANY_SECONDS) as (client, processes):
        _run(client, 2 * slots)
        took = _run(client, chunks)
    busy = chunks * MANY_SECONDS / slots / took
    report(
        "chunk_cost: many slots",
        {"chunks": chunks, "slots": slots, "workers": WORKERS, "seconds of a chunk": MANY_SECONDS},
        [Finding("slots busy", f"{busy:.2f}", f">= {AIM_BUSY:.2f}", busy >= AIM_BUSY)],
        void=False,
        quick=quick,
        measured={"seconds": took},
    )
    return not void


def _cost(client: Client, processes: Processes, chunks: int) -> dict[str, float]:
    """Milliseconds of processor time a chunk, by kind of process."""
    before = processes.seconds()
    _run(client, chunks)
    return {kind: (now - before[kind]) / chunks * 1e3 for kind, now in processes.seconds().items()}


def _run(client: Client, chunks: int) -> float:
    """Seconds of a job."""
    data = np.arange(chunks, dtype=np.float32).reshape(-1, 1)
    started = time.monotonic()
    check_equal(client.predict("sleep", data, chunk_rows=1), data)
    return time.monotonic() - started


def _at_most(what: str, milliseconds: float, aim: float | None) -> Finding:
    if aim is None:
        return Finding(what, f"{milliseconds:.2f} ms")
    return Finding(what, f"{milliseconds:.2f} ms", f"<= {aim:.1f} ms", milliseconds <= aim)


def _used(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):  # one that a main process forks for a moment
        return float(sum(process.cpu_times()[:2]))
    return 0.0


def _is_redis(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # one that tells of a worker's start ends with it
        return "redis-server" in process.name()
    return False


@contextmanager
def workers(
    place: Path, slots: int, seconds: float, model: str = _MODEL, count: int = WORKERS
) -> Iterator[tuple[Client, Processes]]:
    """An embedded system, and a second worker beside its own, unless `count` is 1; they share the slots alike.

    Args:
        seconds: for which the model sleeps, as its text has them.
    """
    (place / "sleeping.py").write_text(model.format(seconds=seconds))
    models = place / "models.toml"
    models.write_text('[models.sleep]\npath = "sleeping:sleep"\nbatch_rows = 1\n')
    this = psutil.Process()
    others = set(filter(_is_redis, this.children(recursive=True)))
    with local(models, slots // count) as client:
        (redis,) = set(filter(_is_redis, this.children(recursive=True))) - others
        (first,) = [one for one in redis.parent().children() if one != redis]  # type: ignore[union-attr]
        if count == 1:
            yield client, Processes(redis, [first], this)
        else:
            with _second(place, models, client, slots) as second:
                yield client, Processes(redis, [first, second], this)


@contextmanager
def _second(place: Path, models: Path, client: Client, slots: int) -> Iterator[psutil.Process]:
    environ = {**for_worker(os.environ), "CELERIAC_BROKER_URL": client.broker_url, "CELERIAC_MODELS": str(models)}
    command = worker_command(slots // WORKERS, "--without-mingle", "--without-gossip", "-n", "second@%h")
    with (place / "second.log").open("wb") as log:
        second = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        with connect(client.broker_url) as server:
            while len(read_slots(server)) < slots:
                if second.poll() is not None:
                    raise RuntimeError((place / "second.log").read_text())
                time.sleep(0.1)
        yield psutil.Process(second.pid)
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()


if __name__ == "__main__":
    ask(question, __doc__)
