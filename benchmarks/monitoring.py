"""What does it cost to be watched: metrics, seconds by stage, the timeline, Celery's events, all at once?

The same job twice, from rows in memory to ordered outputs, through two systems that stand side by side. Of the one,
worker and producer serve metrics, which are asked for every second; children time their stages and count; the producer
keeps a timeline; Celery's events are sent, and somebody listens. The other one has none of it: what has no switch is
taken out (in the worker by `benchmarks/unwatched.py`). Who asks and listens is a thread of the producer's process, and
so a part of the cost; a real Prometheus would stand elsewhere.

Chunks of ordinary size, of 0.1 to 0.25 s of model time; and the smallest that there are, of one row of 64 bytes.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.harness import MIN_BLOCKS, Arm, WrongOutputError, check_equal, compare
from benchmarks.models import in_one_process, write_models
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.stage import CHILDREN, ask, folder, random_rows, rival_system
from producer import Client, local, serve_metrics
from producer.records import timeline_store
from producer.records.throughput import Throughput
from producer.records.timeline import Timeline
from tasks.transport.connection import connect
from tests.ports import free_port

AIM = 0.98
# What is sought is smaller than what the same arm differs from itself: more blocks narrow it.
BLOCKS = 11
EVERY_SECONDS = 1.0
# name: (rows, rows when quick, rows in a chunk)
JOBS = {"mlp": (16_384, 2_048, 512), "small_identity": (2_000, 500, 1)}


@dataclass
class Watched:
    """A system that is watched, and how often it was."""

    client: Client
    worker_port: int
    producer_port: int
    scrapes: int = 0
    events: int = 0
    stages: dict[str, float] = field(default_factory=dict)


def question(quick: bool) -> bool:
    """Compare ordinary chunks and small ones; return whether the machine was quiet each time."""
    with folder() as place:
        models = write_models(place)
        with _watched(models) as watched, rival_system(models, "benchmarks.unwatched") as unwatched:
            quiet = [_compare(watched, unwatched, place, name, quick) for name in JOBS]
            _check_watched(watched)
    return all(quiet)


def _compare(watched: Watched, unwatched: Client, place: Path, name: str, quick: bool) -> bool:
    many, few, chunk_rows = JOBS[name]
    data = random_rows(name, few if quick else many)
    expected = data if name == "small_identity" else in_one_process(place, name, data)
    check = partial(check_equal, expected=expected, exactly=name == "small_identity")
    on = Arm("watched", partial(_run_watched, watched, name, data, chunk_rows), check)
    off = Arm("not watched", partial(_run_unwatched, unwatched, name, data, chunk_rows), check)
    comparison = compare(on, [off], MIN_BLOCKS if quick else BLOCKS)
    speed = comparison.speed_against(off.name)
    what = "on / off"
    return report_comparison(
        f"monitoring: {name}",
        comparison,
        len(data),
        {"children": CHILDREN, "chunk rows": chunk_rows},
        [Finding(what, str(speed)) if chunk_rows == 1 else at_least(what, speed, AIM)],
        quick=quick,
    )


def _run_watched(watched: Watched, name: str, data: npt.NDArray[np.float32], chunk_rows: int) -> Any:
    job = watched.client.submit(name, data, chunk_rows=chunk_rows)
    outputs = job.result()
    watched.stages = job.stages
    return outputs


def _run_unwatched(client: Client, name: str, data: npt.NDArray[np.float32], chunk_rows: int) -> Any:
    with ExitStack() as stack:
        for place, function, replacement in NOT_MEASURED:
            stack.enter_context(patch.object(place, function, replacement))
        job = client.submit(name, data, chunk_rows=chunk_rows)
        outputs = job.result()
    if job.stages:
        raise WrongOutputError(f"the system that is not watched told of its stages: {job.stages}")
    return outputs


def _nothing(*_: object) -> None:
    pass


# What a producer measures; the rival's worker is `benchmarks/unwatched.py`.
NOT_MEASURED: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (Timeline, "answered", _nothing),
    (Timeline, "look", _nothing),
    (timeline_store, "write", _nothing),
    (Throughput, "count_stages", _nothing),
    (Throughput, "put", _nothing),
    (Throughput, "taken", _nothing),
    (Throughput, "answered", _nothing),
    (Throughput, "joining", lambda _: nullcontext()),
)


@contextmanager
def _watched(models: Path) -> Iterator[Watched]:
    """An embedded system with everything on: what its worker is told, what this process does, who looks on."""
    worker_port, producer_port = free_port(), free_port()
    with ExitStack() as stack:
        with patch.dict(os.environ, {"CELERIAC_METRICS_PORT": str(worker_port)}):
            client = stack.enter_context(local(models, CHILDREN))
        watched = Watched(client, worker_port, producer_port)
        stack.enter_context(serve_metrics(producer_port))
        for looks_on in LOOKING_ON:
            stack.enter_context(looks_on(watched))
        yield watched


@contextmanager
def _scraping(watched: Watched) -> Iterator[None]:
    """As Prometheus does."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(EVERY_SECONDS):
            for port in (watched.worker_port, watched.producer_port):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    answer.read()
            watched.scrapes += 1

    with _thread(scrape, ended):
        yield


@contextmanager
def _listening(watched: Watched) -> Iterator[None]:
    """As `celery events` and Flower do, but for what they make of it."""
    ended = threading.Event()

    def listen() -> None:
        with connect(watched.client.broker_url) as server, cast("Any", server.pubsub()) as channel:
            channel.psubscribe("*celeryev*")
            while not ended.is_set():
                message = channel.get_message(timeout=0.5)
                # Subscribing itself is answered, too; and workers tell now and then that they live.
                watched.events += bool(message and message["type"] == "pmessage" and b"task" in message["channel"])

    with _thread(listen, ended):
        yield


# Who looks on while the one system works; what else watches a job has its place here.
LOOKING_ON: Sequence[Callable[[Watched], AbstractContextManager[None]]] = (_scraping, _listening)


@contextmanager
def _thread(work: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _check_watched(watched: Watched) -> None:
    """Make sure that the one system was watched: else we measured something else."""
    told = {"scrapes": watched.scrapes, "events": watched.events, "stages": len(watched.stages)}
    if missing := [what for what, count in told.items() if not count]:
        raise WrongOutputError(f"the system that is watched was not, by its {', '.join(missing)}")


if __name__ == "__main__":
    ask(question, __doc__)
