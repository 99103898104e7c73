"""How soon is one row answered, and how many callers can be, against a plain Celery task that holds the model?

The rival (`benchmarks/plain_task.py`) is what people write themselves: two prefork children with the model as a graph,
Redis for messages and for results, `apply_async(...).get()` by the caller. Both systems stand on one Redis; the arms
take turns in blocks, each with all of its own callers, and every answer is held against one process.

`python -m benchmarks.requests [--quick]`
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks.requests_callers import PROCESSES, TASKS, callers
from benchmarks.requests_models import check_close, expected, write_models
from benchmarks.stage import CHILDREN, folder
from producer import Client, local

Predict = Callable[[np.ndarray], np.ndarray]

THREADS = 16
ONE_CALLER_AIM, ONE_CALLER_95_AIM = 0.7, 0.8
RATE_AIMS = {"digits": 5.0, "mobile": 2.5}
RATE_95_AIM = 0.5


@dataclass(frozen=True)
class Run:
    """Seconds of each request, in order; what all processes took together."""

    seconds: list[float]
    wall_seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.seconds) / self.wall_seconds

    def percentile(self, percent: float) -> float:
        """Of the seconds."""
        return float(np.percentile(self.seconds, percent))


def one_caller(predict: Predict, rows: np.ndarray, outputs: np.ndarray, count: int) -> list[float]:
    """One row each time, one after the other; the answers are looked at afterwards, as that takes as long as asking."""
    seconds, answers = [], []
    for number in range(count):
        at = number % len(rows)
        began = time.perf_counter()
        answers.append(predict(rows[at : at + 1]))
        seconds.append(time.perf_counter() - began)
    check_close(np.concatenate(answers), outputs, 0)
    return seconds


def threads(predict: Predict, rows: np.ndarray, outputs: np.ndarray, count: int) -> list[float]:
    """The same by many threads at once, `count` requests in all."""
    seconds: list[float] = []
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            own = np.roll(rows, number, axis=0), np.roll(outputs, number, axis=0)
            seconds.extend(one_caller(predict, *own, count // THREADS))
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return seconds


def timed(ask: Callable[[], list[float]]) -> Run:
    """Run it, and count what the machine did meanwhile."""
    before, began = psutil.cpu_times(), time.perf_counter()
    seconds = ask()
    wall, after = time.perf_counter() - began, psutil.cpu_times()
    return Run(seconds, wall, after.user + after.system - before.user - before.system)


@contextmanager
def plain_worker(url: str, model: Path) -> Iterator[Predict]:
    """The rival, ready."""
    os.environ["PLAIN_URL"] = url.replace("unix://", "redis+socket://")
    environ = {**os.environ, "PLAIN_MODEL": str(model), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.plain_task", "worker", "-c", str(CHILDREN)]
    command += ["-n", "plain@%h", "--without-mingle", "--without-gossip"]
    with model.with_suffix(".log").open("wb") as log:
        worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    # Its app is of the broker that it was imported with.
    sys.modules.pop("benchmarks.plain_task", None)
    from benchmarks.plain_task import ask

    try:
        yield ask
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def question(quick: bool) -> None:
    """Measure and print."""
    blocks, count = (2, 200) if quick else (5, 800)
    with folder() as place:
        write_models(place)
        for name in RATE_AIMS:
            rows, outputs = expected(place, name)
            with local(place / "models.toml", CHILDREN) as client:
                ours = _ours(client, name)
                with plain_worker(client.broker_url, place / f"{name}.keras") as plain:
                    plain(rows[:1])
                    ours(rows[:1])
                    arms = {"celeriac": ours, "plain": plain}
                    for what, ask in (("one caller", one_caller), (f"{THREADS} threads", threads)):
                        asks = {arm: partial(ask, predict, rows, outputs) for arm, predict in arms.items()}
                        show(name, what, in_turns(asks, blocks, count))
                    with ExitStack() as stack:
                        url = client.broker_url
                        loops = {arm: stack.enter_context(callers(arm, url, place, name)) for arm in arms}
                        what = f"{PROCESSES} loops, {TASKS} tasks each"
                        show(name, what, in_turns(loops, blocks, 2 * count // 64 * 64))


def in_turns(asks: dict[str, Callable[[int], list[float]]], blocks: int, count: int) -> dict[str, list[Run]]:
    """Runs of both arms, block by block."""
    runs: dict[str, list[Run]] = {arm: [] for arm in asks}
    for block in range(blocks):
        for arm in list(asks)[:: 1 if block % 2 else -1]:
            runs[arm].append(timed(partial(asks[arm], count)))
    return runs


def _ours(client: Client, name: str) -> Predict:
    return lambda rows: client.predict(name, rows)  # type: ignore[return-value]


def show(name: str, what: str, runs: dict[str, list[Run]]) -> None:
    """Print both arms and their ratios."""
    for arm, its in runs.items():
        print(
            f"{name:8} {what:11} {arm:9} {median(run.rate for run in its):7.0f}/s  "
            f"median {1e3 * median(run.percentile(50) for run in its):6.2f} ms  "
            f"95th {1e3 * median(run.percentile(95) for run in its):6.2f} ms  "
            f"{1e3 * median(run.cpu_seconds / len(run.seconds) for run in its):6.2f} ms of processors each",
            flush=True,
        )
    pairs = list(zip(runs["celeriac"], runs["plain"], strict=True))
    print(
        f"{name:8} {what:11} ratios: rate {median(a.rate / b.rate for a, b in pairs):.2f}, "
        f"median {median(a.percentile(50) / b.percentile(50) for a, b in pairs):.2f}, "
        f"95th {median(a.percentile(95) / b.percentile(95) for a, b in pairs):.2f}, "
        f"processors {median(a.cpu_seconds / len(a.seconds) / (b.cpu_seconds / len(b.seconds)) for a, b in pairs):.2f}",
        flush=True,
    )


if __name__ == "__main__":
    question("--quick" in sys.argv)
