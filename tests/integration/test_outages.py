"""What is lost on the way is sent again: with Redis, with a child that stands still; nothing counts twice."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xxhash

from producer import Client, Job, JobState
from producer.broker.job_channel import JobChannel
from producer.job import collector
from producer.records import job_store
from tasks.protocol import codec, keys
from tasks.protocol.messages import ModelRef, Outputs
from tasks.protocol.records import JobRecord
from tasks.transport.spool import ReusableBuffer
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.seals import SEALER, outputs_ref, sealed_answer
from tests.systems import System, serving
from tests.waiting import wait_for_job, wait_until
from worker_config.broker import KEY_PREFIX
from worker_config.errors import BrokerError, ExitCode, JobCancelledError

ROWS = np.random.default_rng(3).random((400, 4), np.float32)
CHUNK_ROWS = 40
WAITS = "; the watch waits for it"
FUNCTIONS = """
from pathlib import Path


def plus(rows):
    return rows + 1


def gated(rows):
    if (rows == 42).any():
        (Path(__file__).parent / "gate").read_bytes()  # waits, where it is a pipe, until somebody opens its other end
    return rows + 1
"""


@contextmanager
def with_functions(folder: Path) -> Iterator[System]:
    """A Redis and a worker with two children."""
    (folder / "my_functions.py").write_text(FUNCTIONS)
    manifest = write_manifest(folder, {name: f"my_functions:{name}" for name in ("plus", "gated")})
    with serving(folder, manifest) as system:
        yield system


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """For tests whose Redis stays."""
    with with_functions(tmp_path_factory.mktemp("s")) as system:
        yield system


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """For a test that takes its Redis away."""
    with with_functions(tmp_path_factory.mktemp("s")) as system:
        yield system


@pytest.fixture
def shared_client(shared: System) -> Iterator[Client]:
    with Client(shared.url) as client:
        yield client


def check_whole(job: Job, rows: np.ndarray = ROWS) -> None:
    np.testing.assert_array_equal(job.result(), rows + 1)
    wait_for_job(job)
    job.ledger.check()
    assert job.ledger.predicted == len(rows)


def some_predicted(job: Job) -> bool:
    return 0 < job.ledger.predicted < len(ROWS)


def gated_rows(system: System, at: int) -> np.ndarray:
    """Rows of which one waits."""
    (system.folder / "gate").unlink(missing_ok=True)
    os.mkfifo(system.folder / "gate")
    rows = ROWS.copy()
    rows[at] = 42
    return rows


def open_gate(system: System) -> None:
    """For whoever waits there, and for those who come later."""
    closed = (system.folder / "gate").rename(system.folder / "closed")
    (system.folder / "gate").touch()
    with suppress(OSError):  # nobody waits
        os.close(os.open(closed, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("keeps", ["nothing", "everything", "its name alone"])
def test_a_job_waits_for_redis_and_goes_on(
    system: System, client: Client, celeriac: Celeriac, keeps: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = gated_rows(system, 200)
    job = client.submit("gated", rows, chunk_rows=4)
    wait_until(lambda: some_predicted(job), "some rows are predicted")
    watching = celeriac.start("watch", job.id, "--broker", system.url)
    wait_until(lambda: f"job {job.id} is running" in watching.stderr.read_text(), "somebody watches")
    if keeps == "everything":
        with system.admin() as server:
            server.save()
        system.redis.options = (*system.redis.options, "--dbfilename", "dump.rdb")
    system.redis.stop()
    wait_until(lambda: "waits: Redis at" in caplog.text, "the job says that it waits")
    wait_until(lambda: WAITS in watching.stderr.read_text(), "the watch says that it waits")
    open_gate(system)
    if keeps == "its name alone":  # which now leads to another server
        (system.folder / "other").mkdir()
        system.redis.folder = system.folder / "other"
        (system.folder / "redis.sock").unlink()
        (system.folder / "redis.sock").symlink_to(system.folder / "other" / "redis.sock")
    system.redis.start()
    check_whole(job, rows)
    assert "goes on" in caplog.text
    watched = watching.end()
    assert (watched.code, watched.stdout) == (ExitCode.OK, f"job {job.id} is done: 400 of 400 rows predicted\n")
    (line,) = (line for line in watched.lines if not line.startswith(f"job {job.id} is running"))
    assert line.endswith(WAITS)


def test_a_watch_goes_on_though_a_redis_has_lost_its_job_for_a_while(
    tmp_path_factory: pytest.TempPathFactory, celeriac: Celeriac
) -> None:
    counts = {"predicted": 9}
    job = JobRecord("0123456789ab", ["plus@0"], "rows.npy", "redis", 9, 0.0, time.time(), "there:1", counts)
    with serving(tmp_path_factory.mktemp("s")) as alone, alone.admin() as server:
        job_store.create(server, job, SEALER, 600)
        watching = celeriac.start("watch", job.id, "--broker", alone.url)
        wait_until(lambda: f"job {job.id} is running" in watching.stderr.read_text(), "somebody watches")
        server.flushall()
        looks = lambda: server.info("commandstats")["cmdstat_hgetall"]["calls"]  # noqa: E731
        before = looks()
        wait_until(lambda: looks() > before, "the watch has looked in vain")
        job_store.finish(server, job, SEALER, JobState.DONE, 600)
        watched = watching.end()
    assert (watched.code, watched.stdout) == (ExitCode.OK, f"job {job.id} is done: 9 of 9 rows predicted\n")


def test_what_is_asked_for_while_redis_is_away_waits_for_it(
    system: System, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that is in flight, as one that begins."""
    rows = gated_rows(system, 1)[:4]
    with ThreadPoolExecutor(2) as threads:
        in_flight = threads.submit(client.predict, "gated", rows)
        with system.admin() as server:
            wait_until(lambda: list(server.scan_iter(f"{KEY_PREFIX}taken:*")), "a child has taken the request")
        system.redis.stop()
        wait_until(lambda: "waits: Redis at" in caplog.text, "the request in flight waits for Redis")
        begun = threads.submit(client.predict, "plus", ROWS[:3])
        wait_until(lambda: caplog.text.count("waits: Redis at") > 1, "so does the other one")
        open_gate(system)
        system.redis.start()
        np.testing.assert_array_equal(in_flight.result(), rows + 1)
        np.testing.assert_array_equal(begun.result(), ROWS[:3] + 1)


def test_redis_is_waited_for_as_long_as_workers_are(system: System) -> None:
    with Client(system.url, worker_timeout_seconds=2) as client:
        system.redis.stop()
        with pytest.raises(BrokerError, match="cannot be reached"):
            client.predict("plus", ROWS)


def test_a_job_that_waits_for_redis_can_be_cancelled(
    system: System, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    job = client.submit("gated", gated_rows(system, 200), chunk_rows=4)
    wait_until(lambda: some_predicted(job), "some rows are predicted")
    system.redis.stop()
    wait_until(lambda: "waits: Redis at" in caplog.text, "the job says that it waits")
    job.cancel()
    wait_for_job(job)
    assert job.state == "cancelled"
    open_gate(system)


def test_a_full_redis_holds_the_job_up_and_no_more(
    shared: System, shared_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(4).random((2_000, 4_096), np.float32)
    with shared.admin() as server:
        job = shared_client.submit("plus", rows, chunk_rows=50, store="redis")
        wait_until(lambda: 0 < job.ledger.predicted < 2_000, "some rows are predicted")
        server.config_set("maxmemory", 1)
        wait_until(lambda: " is full" in caplog.text, "the job says that Redis is full")
        server.config_set("maxmemory", 0)
    check_whole(job, rows)


def test_outputs_that_redis_takes_along_are_no_damage(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load, killed = JobChannel.load, threading.Event()

    def killing(channel: JobChannel, answer: Outputs, buffer: ReusableBuffer | None = None) -> memoryview | None:
        if not killed.is_set():
            system.redis.stop()
            killed.set()
        return load(channel, answer, buffer)

    monkeypatch.setattr(JobChannel, "load", killing)
    monkeypatch.setattr(collector, "MAX_SENDS", 1)  # as if it had been late often
    rows = np.random.default_rng(4).random((20, 20_000), np.float32)
    with Client(system.url) as client:
        job = client.submit("plus", rows, chunk_rows=1)
        wait_until(lambda: "waits: Redis at" in caplog.text, "the job waits")
        system.redis.start()
        check_whole(job, rows)


def test_what_a_child_that_stands_still_has_is_run_by_another(shared: System, shared_client: Client) -> None:
    rows = gated_rows(shared, 200)
    job = shared_client.submit("gated", rows, chunk_rows=4)
    # The other child goes on until the window is full; a copy of the chunk stands before the gate, too.
    wait_until(lambda: job.ledger.chunks_sent_again, "the chunk is sent again")
    open_gate(shared)
    check_whole(job, rows)


def test_a_stopped_child_costs_no_row(shared: System, shared_client: Client) -> None:
    job = shared_client.submit("plus", ROWS, chunk_rows=1)
    wait_until(lambda: some_predicted(job), "some rows are predicted")
    victim = psutil.Process(shared.slots()[0].pid)
    victim.suspend()
    try:
        wait_until(lambda: victim.status() == psutil.STATUS_STOPPED, "it stands still")
        check_whole(job)
    finally:
        victim.send_signal(signal.SIGCONT)


def answer(job: Job, index: int, outputs: np.ndarray, **more: Any) -> bytes:
    start = index * CHUNK_ROWS
    ref = outputs_ref(job.id, index, outputs)
    return sealed_answer(Outputs(job.id, index, start, start + len(outputs), "w/0", 0.1, ref, **more))


def test_duplicates_are_dropped_and_those_that_differ_are_counted(shared: System, shared_client: Client) -> None:
    rows = gated_rows(shared, len(ROWS) - 1)
    job = shared_client.submit("gated", rows, chunk_rows=CHUNK_ROWS)
    wait_until(lambda: job.ledger.chunks_answered == 9, "all chunks but one are answered")
    outputs = rows[:CHUNK_ROWS] + 1
    same = xxhash.xxh3_64_intdigest(codec.encode(outputs))
    with shared.admin() as server:
        for checksum in (same, same + 1, same):
            server.rpush(keys.results(job.id), answer(job, 0, outputs, checksum=checksum, nonfinite_inputs=1))
        wait_until(lambda: job.ledger.duplicates >= 3, "they are dropped")
    open_gate(shared)
    check_whole(job, rows)
    assert job.ledger.duplicates_differing == 1
    assert job.ledger.nonfinite_inputs == 0


def test_an_answer_of_another_version_is_not_joined(shared: System, shared_client: Client) -> None:
    rows = gated_rows(shared, 0)[:CHUNK_ROWS]
    job = shared_client.submit("gated", rows, chunk_rows=CHUNK_ROWS)
    with shared.admin() as server:
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        server.rpush(keys.results(job.id), answer(job, 0, rows * 0, models=[ModelRef("gated", "0" * 64)]))
        wait_until(lambda: job.ledger.chunks_sent_again >= 1, "the chunk is sent again")
    open_gate(shared)
    check_whole(job, rows)


def test_a_worker_keeps_no_connections_of_times_when_redis_was_full(system: System) -> None:
    worker = system.workers[0]
    main = psutil.Process(worker.pid)
    with Client(system.url) as client, system.admin() as server:
        job = client.submit("plus", (row for row in itertools.cycle(ROWS)), chunk_rows=1)
        taking = ThreadPoolExecutor(1).submit(lambda: sum(1 for _ in job.parts()))
        wait_until(lambda: job.ledger.chunks_answered > 100, "chunks are answered")

        def fill() -> None:
            tries, answered = worker.output().count("Cannot connect"), job.ledger.chunks_answered
            server.config_set("maxmemory", 1)
            wait_until(lambda: worker.output().count("Cannot connect") > tries + 2, "it tries in vain")
            server.config_set("maxmemory", 0)
            wait_until(lambda: job.ledger.chunks_answered > answered + 100, "it goes on")

        fill()
        before = main.num_fds()
        for _ in range(5):
            fill()
        # Each time had two at the least, and each try several.
        wait_until(lambda: main.num_fds() <= before + 4, "they are closed")
        job.cancel()
        with pytest.raises(JobCancelledError):
            taking.result()
