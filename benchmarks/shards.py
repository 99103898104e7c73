"""Is each of several Redis servers spared, when a job spreads over them; and what is late when one of them dies?

One, two and four servers, each time with four workers, which share them among themselves; chunks of a row, whose model
does nothing. Servers share the machine's processors with all else, so what is counted is the processor time that each
spends: chunks for a second of the one that has spent most. The same jobs run in turns, five of each.

Then chunks that sleep: halfway one server of two is killed, and what was on it comes late.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import Interval, bootstrap, check_equal, ratios
from benchmarks.report import Finding, at_least, report
from benchmarks.stage import ask, folder
from producer import Client
from producer.embedded.local import worker_command
from producer.embedded.redis_server import find_redis_server
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots
from worker_config.environment import for_worker

SERVERS = (1, 2, 4)
WORKERS, CHILDREN = 4, 2
CHUNKS, TURNS = 4_000, 5
AIMS = {2: 1.7, 4: 3.0}
SLEEP_SECONDS = 0.1
KILLED_CHUNKS = 400

_MODEL = """
import time


def nothing(rows):
    return rows


def sleep(rows):
    time.sleep({seconds})
    return rows
"""


@dataclass
class Setup:
    """Some servers, and the workers that share them."""

    client: Client
    servers: list[psutil.Process]

    def seconds(self) -> list[float]:
        """Of processors, that each server has spent by now."""
        return [sum(server.cpu_times()[:2]) for server in self.servers]

    def chunks_per_second(self, chunks: int) -> float:
        """Chunks of a job for each second that the busiest server spends on it."""
        before = self.seconds()
        _run(self.client, "nothing", chunks)
        return chunks / max(now - then for now, then in zip(self.seconds(), before, strict=True))


def question(quick: bool) -> bool:
    """Measure both."""
    chunks, turns = (CHUNKS // 4, 5) if quick else (CHUNKS, TURNS)
    rates: dict[int, list[float]] = {count: [] for count in SERVERS}
    again: list[float] = []
    with folder() as place, ExitStack() as all_setups:
        setups = {count: all_setups.enter_context(_setup(place / str(count), count)) for count in SERVERS}
        for setup in setups.values():
            _run(setup.client, "nothing", chunks // 4)
        for turn in range(turns):
            for count in SERVERS if turn % 2 else reversed(SERVERS):
                rates[count].append(setups[count].chunks_per_second(chunks))
            again.append(setups[1].chunks_per_second(chunks))
    against = {count: bootstrap(ratios(rates[count], rates[1])) for count in SERVERS[1:]}
    same = bootstrap(ratios(again, rates[1]))
    report(
        "shards",
        {"chunks": chunks, "workers": WORKERS, "children": CHILDREN, "turns": turns},
        [
            *(at_least(f"chunks/s of {count} servers, of one's", against[count], AIMS[count]) for count in against),
            Finding("one server, chunks for a processor second", f"{np.median(rates[1]):,.0f}"),
            Finding("control: one server against itself", str(same)),
        ],
        void=not _is_quiet(same),
        quick=quick,
        measured={"chunks for a processor second": {str(count): rate for count, rate in rates.items()}},
    )
    _report_killed(quick)
    return True


def _report_killed(quick: bool) -> None:
    """How many chunks are sent again, and what the job takes longer, where one of two servers dies halfway."""
    chunks = KILLED_CHUNKS // 4 if quick else KILLED_CHUNKS
    with folder() as place, _setup(place / "killed", 2) as setup:
        whole = _run(setup.client, "sleep", chunks)
        rows = _rows(chunks)
        began = time.monotonic()
        job = setup.client.submit("sleep", rows, chunk_rows=1)
        while job.ledger.chunks_answered < chunks / 2:
            time.sleep(SLEEP_SECONDS / 10)
        # Half of these; and some may leave before the server does.
        share = (job.ledger.chunks_sent - job.ledger.chunks_answered + WORKERS * CHILDREN) // 2
        setup.servers[1].kill()
        check_equal(job.result(), rows)
        seconds = time.monotonic() - began
        job.wait()
        again = job.ledger.chunks_sent_again
    report(
        "shards: one of two is killed",
        {"chunks": chunks, "workers": WORKERS, "children": CHILDREN, "seconds of a chunk": SLEEP_SECONDS},
        [
            Finding("chunks sent again", str(again), f"<= {share}, its share", again <= share),
            # Half of the slots do the second half.
            Finding("seconds, of those without", f"{seconds / whole:.2f}", "1.5 by slots"),
        ],
        void=False,
        quick=quick,
        measured={"whole": whole, "killed": seconds},
    )


def _is_quiet(same: Interval) -> bool:
    return abs(same.median - 1) <= 0.05


def _rows(chunks: int) -> np.ndarray:
    return np.arange(chunks, dtype=np.float32).reshape(-1, 1)


def _run(client: Client, model: str, chunks: int) -> float:
    """Seconds of a job."""
    rows, began = _rows(chunks), time.monotonic()
    check_equal(client.predict(model, rows, chunk_rows=1), rows)
    return time.monotonic() - began


@contextmanager
def _setup(place: Path, count: int) -> Iterator[Setup]:
    """So many servers, and all workers; everything ends with the block."""
    place.mkdir()
    (place / "shard_models.py").write_text(_MODEL.format(seconds=SLEEP_SECONDS))
    manifest = place / "models.toml"
    manifest.write_text("".join(f'[models.{name}]\npath = "shard_models:{name}"\n' for name in ("nothing", "sleep")))
    urls = [f"unix://{place}/{number}.sock" for number in range(count)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        servers = [_start_server(place, number) for number in range(count)]
        processes += servers
        environ = {**for_worker(os.environ), "CELERIAC_BROKER_URL": ",".join(urls), "CELERIAC_MODELS": str(manifest)}
        for number in range(WORKERS):
            _wait_for(urls, number * CHILDREN)  # each sees those before it, and takes another shard
            command = worker_command(CHILDREN, "--without-mingle", "--without-gossip", "-n", f"{number}@%h")
            with (place / f"{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(command, env=environ, cwd=place, stdout=log, stderr=log, start_new_session=True)
                )
        _wait_for(urls, WORKERS * CHILDREN)
        with Client(",".join(urls)) as client:
            yield Setup(client, [psutil.Process(server.pid) for server in servers])
    finally:
        for process in reversed(processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start_server(place: Path, number: int) -> subprocess.Popen[bytes]:
    command = [find_redis_server(), "--port", "0", "--unixsocket", f"{place}/{number}.sock", "--save", ""]
    with (place / f"redis{number}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=place, stdout=log, stderr=log, start_new_session=True)


def _wait_for(urls: list[str], slots: int) -> None:
    """Until the shards have so many slots together."""
    while True:
        found = 0
        for url in urls:
            with connect(url) as server:
                found += len(read_slots(server))
        if found >= slots:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    ask(question, __doc__)
