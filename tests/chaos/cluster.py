"""Many hosts with a worker of many slots each, and a job that goes on while three of the hosts have trouble.

    w0  cut off for a while        redis     producer: celeriac predict, or predict --detach, then fetch
    w1  killed with all children
    w2  slow from the start        w3 ...    as they should be

Chunks sleep, so that two cores carry a hundred slots.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import redis

from producer.records.ledger import Ledger
from tests.acceptance.commands import Celeriac, Ended
from tests.chaos.calls import Call, Calls
from tests.chaos.network import PRODUCER_HOST, Network
from tests.chaos.pacing import NUMBERS, PACE, SLOWER, WIDER
from tests.manifests import write_manifest
from tests.systems import REPOSITORY, RedisServer, System, Worker
from tests.waiting import descendants_of, is_alive, wait_until
from worker_config.errors import ExitCode

CUT, KILLED, SLOW = "w0", "w1", "w2"
SLOW_TIMES = 3
CHUNK_ROWS, COLUMNS = 8, 64
# After which share of its chunks what happens to a job.
CUT_AT, KILLED_AT, MENDED_AT = 0.1, 0.25, 0.5
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Size:
    """How large a cluster and its job are."""

    hosts: int
    slots_each: int
    chunks: int
    chunk_seconds: float

    @property
    def slots(self) -> int:
        return self.hosts * self.slots_each


@dataclass(frozen=True)
class Marks:
    """When what happened, by the monotonic clock; without injuries nothing did."""

    cut: float = float("inf")
    killed: float = float("inf")
    mended: float = float("inf")


@dataclass(frozen=True)
class Run:
    """A job that has ended, and is right.

    Attributes:
        calls: the runs of its chunks.
        cut_off: the processes of the host that is cut off.
        first, last: when the first of them began, and the last ended that counted.
    """

    job: str
    ledger: Ledger
    calls: list[Call]
    marks: Marks
    cut_off: frozenset[int]

    @property
    def first(self) -> float:
        return min(call.begun for call in self.calls)

    @property
    def back(self) -> float:
        """When the host that was cut off began a chunk again."""
        return min(call.begun for call in self.calls if call.pid in self.cut_off and call.begun > self.marks.mended)

    @property
    def last(self) -> float:
        ends: dict[int, float] = {}
        for call in self.calls:
            if call.ended:
                ends[call.first] = min(call.ended, ends.get(call.first, call.ended))
        return max(ends.values())


@dataclass
class Cluster:
    """The hosts, and a worker on each."""

    folder: Path
    size: Size
    workers: dict[str, Worker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network = Network([f"w{number}" for number in range(self.size.hosts)])
        self.calls = Calls(self.folder)
        path = "tests.chaos.pacing:paced"
        model = {"path": path, "postprocess": "tests.chaos.pacing:widened", "batch_rows": CHUNK_ROWS}
        self._manifest = write_manifest(self.folder, {"paced": model})
        self._runs = 0
        self._temporary = self.folder / "t"
        self._temporary.mkdir()

    def start(self) -> Cluster:
        """All slots are there."""
        self.network.start()
        server = RedisServer(self.folder, self.network.redis_options, prefix=self.network.on("redis"))
        self.system = System(server.start(), self.folder)
        self.server: redis.Redis = self.system.admin(retries=5)
        self.bring_up()
        return self

    def bring_up(self) -> None:
        """Each host has a worker again, and Redis knows all slots."""
        self._set_pace(0)
        for host in self.network.hosts:
            if host != PRODUCER_HOST and host not in self.workers:
                environ = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self._temporary)}
                environ |= {"CELERIAC_BROKER_URL": self.network.url(host)}
                environ |= {SLOWER: str(SLOW_TIMES)} if host == SLOW else {}
                words, prefix = ("-n", f"{host}@%h"), self.network.on(host)
                self.workers[host] = self.system.start_worker(
                    self._manifest, self.size.slots_each, *words, environ=environ, prefix=prefix
                )

        def all_ready() -> bool:
            for host, worker in self.workers.items():
                assert worker.process.poll() is None, f"{host}: {worker.output()}"
            return len(self.system.slots()) == self.size.slots

        wait_until(all_ready, "all slots are known")

    def run(self, *, detached: bool, injured: bool) -> Run:
        """Run a job to its end, and see that it is right."""
        self._set_pace(self.size.chunk_seconds)
        self.calls.restart()
        rows = self._rows()
        self._runs += 1
        root = self.folder / f"c{self._runs}"
        root.mkdir()
        celeriac = Celeriac(root, prefix=self.network.on(PRODUCER_HOST))
        try:
            np.save(celeriac.folder / "rows.npy", rows)
            at = ["--broker", self.network.url(PRODUCER_HOST)]
            words: list[object] = ["predict", "paced", "rows.npy", *at, "--chunk-rows", CHUNK_ROWS, "--quiet"]
            if detached:
                left = celeriac.run(*words, "--detach")
                assert left.code == ExitCode.OK, left
                job = left.stdout.strip()
                words = ["fetch", job, *at, "--quiet"]
            else:
                words += ["--store", "redis", "--worker-timeout-seconds", 120]
            running = celeriac.start(*words, "-o", "scores.npy", "--json")
            marks = self._injure() if injured else Marks()
            ended = running.end()
            assert ended.code == ExitCode.OK, ended
            outputs = np.load(celeriac.folder / "scores.npy")
            job = ended.json["job"]
            if detached:  # what it holds is there for others to fetch
                celeriac.succeeds("cancel", job, *at)
        finally:
            celeriac.stop()
        np.testing.assert_array_equal(outputs, np.tile(rows, WIDER))
        return Run(job, _ledger(ended, len(rows)), self.calls.read(), marks, frozenset(self.pids_of(CUT)))

    def _injure(self) -> Marks:
        """Let happen what is to happen, as the job gets on."""
        chunks = self.size.chunks
        self._wait_for(CUT_AT * chunks)
        self.network.cut(CUT)
        marks = Marks(cut=time.monotonic())
        self._wait_for(KILLED_AT * chunks)
        self._kill(KILLED)
        marks = replace(marks, killed=time.monotonic())
        self._wait_for(MENDED_AT * chunks)
        self.network.mend(CUT)
        return replace(marks, mended=time.monotonic())

    def _wait_for(self, chunks: float) -> None:
        def ran() -> bool:
            return sum(call.ended is not None for call in self.calls.read()) >= chunks

        wait_until(ran, f"{chunks:.0f} chunks have run", 180, _LOOK_SECONDS)

    def _kill(self, host: str) -> None:
        """With chunks in hand: it stands still while one looks whether it has any."""
        worker = self.workers.pop(host)
        pids = [worker.pid, *descendants_of(worker.pid)]

        def caught() -> bool:
            os.killpg(worker.pid, signal.SIGSTOP)
            runs = any(call.ended is None and call.pid in pids for call in self.calls.read())
            if not runs:
                os.killpg(worker.pid, signal.SIGCONT)
            return runs

        wait_until(caught, "the worker runs a chunk")
        worker.stop()
        wait_until(lambda: not any(map(is_alive, pids)), "the worker and its children are dead")

    def pids_of(self, host: str) -> set[int]:
        """Of the children of a host's worker."""
        return set(descendants_of(self.workers[host].pid))

    def _set_pace(self, seconds: float) -> None:
        new = self.folder / f"{PACE}.new"
        new.write_text(str(seconds))
        new.replace(self.folder / PACE)

    def _rows(self) -> np.ndarray:
        """Random rows, of which the first value tells the number."""
        rows = np.random.default_rng(self._runs).random((self.size.chunks * CHUNK_ROWS, COLUMNS), np.float32)
        rows[:, 0] = np.arange(len(rows)) / NUMBERS
        return rows

    def stop(self) -> None:
        """Kill all, and take the hosts down."""
        try:
            self.system.stop()
        finally:
            self.network.stop()


def _ledger(ended: Ended, rows: int) -> Ledger:
    ledger = Ledger(**ended.json["ledger"])
    ledger.check()
    assert (ledger.predicted, ledger.written, ledger.failed, ledger.skipped) == (rows, rows, 0, 0)
    assert ledger.duplicates_differing == 0
    return ledger
