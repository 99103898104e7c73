"""A job that runs, as injuries see it: how far it is, its workers, its producer: `Client.submit` or the command."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import redis
import zarr

from producer import Client, JobState
from producer.records import job_store
from producer.records.ledger import Ledger
from producer.sources import from_batches
from tasks.protocol.records import JobRecord
from tests.acceptance.commands import Celeriac
from tests.chaos.arena import Arena
from tests.chaos.calls import Calls
from tests.chaos.schedule import Schedule
from tests.output_sets import assert_nothing_beside, read_folder
from tests.seals import SEALER
from tests.systems import System, Worker
from tests.waiting import wait_for_job, wait_until
from worker_config.errors import CeleriacError, ExitCode
from worker_config.settings import Settings

MODEL = "digits"
BLOCK_ROWS = 1_000
WORKER_TIMEOUT_SECONDS = 120.0
END_TIMEOUT_SECONDS = 180.0


class Scene(ABC):
    """One job of a schedule in an arena.

    Attributes:
        doubled: answers that came twice.
        dead_jobs: those whose producer was killed.
    """

    def __init__(self, arena: Arena, schedule: Schedule) -> None:
        self.arena = arena
        self.schedule = schedule
        self.doubled = 0
        self.dead_jobs: list[str] = []

    @property
    def system(self) -> System:
        return self.arena.system

    @property
    def server(self) -> redis.Redis:
        return self.arena.server

    @property
    def calls(self) -> Calls:
        return self.arena.calls

    @property
    def spool(self) -> Path:
        return self.arena.spool

    def workers(self) -> list[Worker]:
        """Those that take chunks."""
        return self.arena.ready_workers()

    def victims(self) -> list[Worker]:
        """Those of them that may be ended."""
        return [worker for worker in self.workers() if worker is not self.arena.spared]

    def start_worker(self) -> Worker:
        return self.arena.start_worker()

    def is_ready(self, worker: Worker) -> bool:
        return self.arena.is_ready(worker)

    @abstractmethod
    def job_id(self) -> str: ...

    @abstractmethod
    def predicted_rows(self) -> int: ...

    def predicted_chunks(self) -> int:
        return self.predicted_rows() // self.schedule.chunk_rows

    @abstractmethod
    def is_over(self) -> bool: ...

    @abstractmethod
    def end(self) -> tuple[Any, Ledger]:
        """Wait for the end: the outputs, and the ledger of the job that ended."""

    @abstractmethod
    def abandon(self) -> None:
        """End it somehow, after a failure."""

    def kill_producer(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def stop_producer(self) -> int:
        """Let it stand still; returns its pid."""
        raise NotImplementedError

    def continue_producer(self) -> None:
        raise NotImplementedError


class SubmittedJob(Scene):
    """A job of `Client.submit`, whose parts a thread takes as they come."""

    def __init__(self, arena: Arena, schedule: Schedule) -> None:
        super().__init__(arena, schedule)
        self._enough = threading.Event()
        spool = arena.spool if schedule.store == "files" else None
        settings = Settings(spool=spool, job_ttl_seconds=arena.job_ttl_seconds)
        self._client = Client(arena.url, worker_timeout_seconds=WORKER_TIMEOUT_SECONDS, settings=settings)
        self._job = self._client.submit(
            MODEL, self._source(), chunk_rows=schedule.chunk_rows, store=cast("Any", schedule.store)
        )
        self._threads = ThreadPoolExecutor(1)
        self._outputs = self._threads.submit(lambda: [part.outputs for part in self._job.parts()])

    def _source(self) -> object:
        if self.schedule.source == "iterator":
            return from_batches(self._blocks(), label="blocks")
        rows = self.arena.rows_of(self.schedule.chunk_rows)
        return str(self.arena.file_of(self.schedule.chunk_rows)) if self.schedule.source == "file" else rows

    def _blocks(self) -> Iterator[np.ndarray]:
        """All rows, again and again, until it is enough."""
        start = 0
        while not self._enough.is_set():
            yield self.arena.rows[start : start + BLOCK_ROWS]
            start = (start + BLOCK_ROWS) % len(self.arena.rows)

    def job_id(self) -> str:
        return self._job.id

    def predicted_rows(self) -> int:
        return self._job.ledger.predicted

    def is_over(self) -> bool:
        return self._job.state is not JobState.RUNNING

    def end(self) -> tuple[Any, Ledger]:
        self._enough.set()
        outputs = np.concatenate(self._outputs.result(END_TIMEOUT_SECONDS))
        wait_for_job(self._job)
        self._job.ledger.check()
        assert self._job.state is JobState.DONE
        assert not self._job.failures()
        self._client.close()
        self._threads.shutdown()
        return outputs, self._job.ledger

    def abandon(self) -> None:
        self._enough.set()
        self._client.close()
        self._threads.shutdown(wait=False)

    def __str__(self) -> str:
        return f"{self._job.progress()}; {self._job.ledger}"


class CommandedJob(Scene):
    """A job of `celeriac predict`, which may be killed and resumed; how far it is stands in Redis, a second late."""

    def __init__(self, arena: Arena, schedule: Schedule) -> None:
        super().__init__(arena, schedule)
        self.celeriac = Celeriac(arena.new_folder())
        self.output = self.celeriac.folder / f"scores{schedule.output.rstrip('/')}"
        self._seen: JobRecord | None = None
        self._begin()

    def _begin(self, *more: str) -> None:
        known = {record.id for _, record in job_store.read_all(self.server, SEALER)[0]}
        store, chunk_rows = self.schedule.store, self.schedule.chunk_rows
        environ = {"CELERIAC_SPOOL": str(self.spool)} if store == "files" else {}
        environ["CELERIAC_JOB_TTL_SECONDS"] = str(self.arena.job_ttl_seconds)
        output = f"{self.output}/" if self.schedule.output.endswith("/") else self.output
        words = ["predict", MODEL, self.arena.file_of(chunk_rows), "-o", output, "--broker", self.arena.url]
        words += ["--chunk-rows", chunk_rows, "--store", store, "--quiet", "--json"]
        words += ["--worker-timeout-seconds", WORKER_TIMEOUT_SECONDS, *more]
        self._running = self.celeriac.start(*words, fresh=True, **environ)

        def begun() -> bool:
            self._look()
            return self.is_over() or (self._seen is not None and self._seen.id not in known)

        wait_until(begun, "the job has begun")

    def _look(self) -> None:
        """Remember the newest record of the rows; of others are jobs that go on beside."""
        try:
            jobs = [record for _, record in job_store.read_all(self.arena.hasty, SEALER)[0]]
        except (redis.RedisError, CeleriacError):
            return
        jobs = [record for record in jobs if record.input == self.arena.file_of(self.schedule.chunk_rows).name]
        self._seen = max(jobs, key=lambda record: record.submitted_at, default=self._seen)

    def job_id(self) -> str:
        assert self._seen is not None
        return self._seen.id

    def predicted_rows(self) -> int:
        self._look()
        assert self._seen is not None
        return self._seen.ledger.get("predicted", 0)

    def is_over(self) -> bool:
        return self._running.process.poll() is not None

    def kill_producer(self) -> None:
        self.dead_jobs.append(self.job_id())
        self.arena.orphans.append(self.job_id())
        self._running.process.kill()
        self._running.process.wait()

    def resume(self) -> None:
        self._begin("--resume")

    def stop_producer(self) -> int:
        self._running.process.send_signal(signal.SIGSTOP)
        return self._running.pid

    def continue_producer(self) -> None:
        self._running.process.send_signal(signal.SIGCONT)

    def end(self) -> tuple[Any, Ledger]:
        ended = self._running.end()
        assert ended.code == ExitCode.OK, ended
        assert not self.celeriac.processes()
        assert self.celeriac.hidden_names() == set(), "no journal and no rows beside the output"
        assert not self.celeriac.temporary_names()
        ledger = Ledger(**ended.json["ledger"])
        ledger.check()
        return self._outputs(), ledger

    def _outputs(self) -> Any:
        if not self.schedule.output.endswith("/"):
            return np.load(self.output)
        assert_nothing_beside(self.output)
        if self.output.suffix == ".zarr":
            return zarr.open_array(self.output, mode="r")[:]
        table = read_folder(self.output)
        np.testing.assert_array_equal(table["row"].to_numpy(), np.arange(len(table)))
        return table.column(table.num_columns - 1).combine_chunks().flatten().to_numpy().reshape(len(table), -1)

    def abandon(self) -> None:
        self.celeriac.stop()

    def __str__(self) -> str:
        return f"{self._seen}"


def begin(arena: Arena, schedule: Schedule) -> Scene:
    """Start the job of a schedule."""
    return CommandedJob(arena, schedule) if schedule.by_command else SubmittedJob(arena, schedule)
