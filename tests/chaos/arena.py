"""Where schedules are run: a Redis that keeps its data, workers, rows, and what one process makes of them."""

from __future__ import annotations

import functools
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import redis

from producer import Client
from tests.chaos.calls import Calls
from tests.chaos.network import WORKER_HOSTS, Network
from tests.chaos.pacing import NUMBERS, PACE, WIDER
from tests.chaos.schedule import CHUNKS, LARGE
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import REPOSITORY, RedisServer, System, Worker, shared_folders
from tests.waiting import descendants_of, is_alive, wait_until

WORKERS, CHILDREN = 2, 2
# The same model without pace, for requests.
NOW = "now"
# What a chunk takes besides its model.
PACE_SECONDS = 0.04
# Written before Redis answers: what it has acknowledged survives its process.
PERSISTENT = ("--appendonly", "yes", "--appendfsync", "no")


class Arena:
    """A system for many schedules, one after the other; two workers are up when each begins.

    Attributes:
        server: a connection for tests.
        hasty: another, which does not try again while Redis is away.
        model: its file.
        wider: how often the paced model repeats its outputs.
        rows, expected: all rows, and what the workers' model gives for them when nothing happens.
        pids: of every process that was started.
        spool, data: folders that all share, and that workers may read.
        temporary: the folder for temporary files of workers.
        dismissed: workers that were killed, or asked to end.
        orphans: jobs whose producer was killed, of all schedules so far.
        job_ttl_seconds: how long Redis keeps what is left of a job.
        spared: a worker that no injury ends, nor any of its children.
    """

    spared: Worker | None = None

    def __init__(
        self,
        folder: Path,
        model: Path,
        network: Network | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        job_ttl_seconds: int = 86_400,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.job_ttl_seconds = job_ttl_seconds
        self.network = network
        self.temporary = self.new_folder()
        self._environ = shared_folders(folder) | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.temporary)}
        self._environ |= {"CELERIAC_OUTPUT_ROOTS": str(folder), "CELERIAC_JOB_TTL_SECONDS": str(job_ttl_seconds)}
        self._environ |= environ or {}
        self.spool, self.data = folder / "spool", folder / "data"
        self.set_pace(0)
        self.calls = Calls(folder)
        self.pids: set[int] = set()
        self.system = System(self.start_redis(), folder)
        self.dismissed: list[Worker] = []
        self._ready: set[int] = set()
        self.orphans: list[str] = []
        self.server: redis.Redis = self.system.admin(retries=5)
        self.hasty: redis.Redis = self.system.admin(retries=0, timeout_seconds=0.2)
        steps = {"preprocess": "tests.chaos.pacing:paced", "postprocess": "tests.chaos.pacing:widened"}
        digits = {"path": model, "batch_rows": 64}
        self.manifest = write_manifest(folder, {"digits": digits | steps, NOW: digits})
        self.rows, self.model, self.wider = all_rows(), model, WIDER

    def start_redis(self) -> RedisServer:
        """A server that runs."""
        network = self.network
        options, prefix = (network.redis_options, network.on("redis")) if network else ((), ())
        server = RedisServer(self.folder, PERSISTENT + options, prefix=prefix).start()
        self.pids.add(server.pid)
        return server

    @property
    def url(self) -> str:
        """What producers are given."""
        return self.system.url

    def start(self) -> None:
        """Start the workers, and see what they make of all rows in peace."""
        self.bring_up(WORKERS)
        with Client(self.url) as client:
            self.expected = client.predict("digits", self.rows, chunk_rows=8 * LARGE)
        np.testing.assert_allclose(self.expected, alone(self.model), rtol=1e-4, atol=1e-6)

    def bring_up(self, count: int) -> None:
        """So many workers are ready, and no others are there."""
        self.check_workers()
        there = [worker for worker in self.system.workers if worker not in self.dismissed]
        for worker in there[count:]:
            self.dismiss(worker)
        wait_until(lambda: all(worker.process.poll() is not None for worker in self.dismissed), "others have left")
        there = there[:count] + [self.start_worker() for _ in range(count - len(there))]
        wait_until(lambda: all(map(self.is_ready, there)), "the workers are ready")

        def all_are_known() -> bool:
            self.check_workers()
            return len(self.system.slots()) == count * CHILDREN

        wait_until(all_are_known, "all slots, and no others, are known")

    def check_workers(self) -> None:
        """No worker has ended but those that were to."""
        for worker in self.system.workers:
            if worker not in self.dismissed:
                assert worker.process.poll() is None, f"a worker has ended by itself: {worker.output()[-3000:]}"

    def dismiss(self, worker: Worker) -> None:
        """Ask a worker to end."""
        self.dismissed.append(worker)
        worker.process.send_signal(signal.SIGTERM)

    def kill(self, worker: Worker) -> list[int]:
        """Kill a worker with its children; returns their pids, which are dead."""
        pids = [worker.pid, *descendants_of(worker.pid)]
        self.pids |= set(pids)
        self.dismissed.append(worker)
        worker.stop()
        wait_until(lambda: not any(map(is_alive, pids)), "the worker and its children are dead")
        return pids

    def start_worker(self) -> Worker:
        """Start one without waiting for it; in a network they take turns on two hosts."""
        number, environ, prefix = len(self.system.workers), self._environ, ()
        if self.network:
            host = WORKER_HOSTS[number % len(WORKER_HOSTS)]
            environ, prefix = environ | {"CELERIAC_BROKER_URL": self.network.url(host)}, self.network.on(host)
        worker = self.system.start_worker(
            self.manifest, CHILDREN, "-n", f"w{number}@%h", environ=environ, prefix=prefix
        )
        self.pids.add(worker.pid)
        return worker

    def is_ready(self, worker: Worker) -> bool:
        """Whether it takes chunks."""
        if worker.pid in self._ready or " ready." in worker.output():
            self._ready.add(worker.pid)
            return True
        assert worker.process.poll() is None, worker.output()
        return False

    def ready_workers(self) -> list[Worker]:
        ready = [one for one in self.system.workers if one.process.poll() is None and self.is_ready(one)]
        self.pids |= {pid for one in ready for pid in descendants_of(one.pid)}
        return ready

    def set_pace(self, seconds: float) -> None:
        """How long each chunk takes from now on, besides its model."""
        new = self.folder / f"{PACE}.new"
        new.write_text(str(seconds))
        new.replace(self.folder / PACE)

    def rows_of(self, chunk_rows: int) -> np.ndarray:
        """The rows of a job with chunks of this size."""
        return self.rows[: CHUNKS * chunk_rows]

    def file_of(self, chunk_rows: int) -> Path:
        """The same as a file that workers may open."""
        path = self.data / f"{chunk_rows}.npy"
        if not path.exists():
            np.save(path, self.rows_of(chunk_rows))
        return path

    def expect(self, outputs: np.ndarray) -> None:
        """Outputs of the rows from the first on, again and again, are what they are in peace, to the bit."""
        assert outputs.dtype == self.expected.dtype
        for start in range(0, len(outputs), len(self.rows)):
            some = outputs[start : start + len(self.rows)]
            np.testing.assert_array_equal(some, self.expected[: len(some)])

    def new_folder(self) -> Path:
        """An empty one with a short name."""
        number = len(list(self.folder.glob("n*")))
        path = self.folder / f"n{number}"
        path.mkdir()
        return path

    def stop(self, *, check: bool = True) -> None:
        """Ask the workers to end, and see that no process is left; kill what is left where nobody checks."""
        try:
            if check:
                self.bring_up(0)
        finally:
            for worker in self.system.workers:
                if worker.process.poll() is None:
                    self.pids |= set(descendants_of(worker.pid))
            self.system.stop()
        if check:
            wait_until(lambda: not any(map(is_alive, self.pids)), "no process is left")


@functools.cache
def all_rows() -> np.ndarray:
    """Random rows; the first value of each tells its number."""
    rows = np.random.default_rng(7).random((CHUNKS * LARGE, 64), np.float32)
    rows[:, 0] = np.arange(len(rows)) / NUMBERS
    return rows


@functools.cache
def alone(model: Path) -> np.ndarray:
    """What one process makes of all rows."""
    return np.tile(in_one_process(model, all_rows(), batch_rows=LARGE), WIDER)
