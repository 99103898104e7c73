"""Jobs on the same workers share them, whoever came first, and whatever dies; priorities change while jobs run."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import redis

from producer import Client
from producer.job.job import Job
from producer.records import job_store
from producer.scheduling.window import CHUNKS_PER_SLOT
from tasks.protocol import keys
from tests.forms import in_long_form
from tests.held import held_child, held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.seals import SEALER
from tests.systems import System, queues, serving
from tests.waiting import descendants_of, is_alive, wait_until
from worker_config.errors import ExitCode

HELD = 42.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A worker with two children and a function that can be held."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, write_manifest(folder, write_held_models(folder))) as system:
        yield system


@pytest.fixture
def client(shared: System) -> Iterator[Client]:
    with Client(shared.url) as client:
        yield client


@pytest.fixture
def server(shared: System) -> Iterator[redis.Redis]:
    with shared.admin() as server:
        yield server


def rows(count: int, first: float = 0.0) -> np.ndarray:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2) + np.float32(1_000 + first)


def answered(server: redis.Redis, job_id: str) -> int:
    return job_store.read(server, job_id, SEALER)[1].ledger["chunks_answered"]


@contextmanager
def endless(client: Client, priority: str) -> Iterator[Job]:
    """An attached job that goes on until the block ends."""
    over = threading.Event()

    def source() -> Iterator[np.ndarray]:
        while not over.is_set():
            yield np.ones(2, np.float32)

    job = client.submit("held", source(), chunk_rows=1, priority=priority)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: [None for _ in job.parts()])
    thread.start()
    try:
        yield job
    finally:
        over.set()
        thread.join()


def queued(server: redis.Redis, job_id: str) -> list[bytes]:
    messages = [message for queue in queues(server) for message in server.lrange(queue.decode(), 0, -1)]
    return [message for message in messages if job_id.encode() in message]


# --- shares ---------------------------------------------------------------------------------------------------------


def test_a_small_job_waits_for_a_window_of_a_large_one_and_not_for_all_of_it(
    shared: System, client: Client, server: redis.Redis
) -> None:
    large, small = rows(600), rows(1, first=5_000)
    large[:2, 0] = HELD
    with holding(shared.folder, HELD) as let_go:
        job = client.attach(client.submit("held", large, chunk_rows=1, detach=True))
        wait_until(lambda: len(held_children(shared.folder)) == 2, "all slots are taken")
        one = client.submit("held", small)
        place = wait_until(lambda: queued(server, one.id) and len(queued(server, job.id)), "its chunk is in the queue")
        assert place <= 2 * CHUNKS_PER_SLOT
        let_go()
        np.testing.assert_array_equal(one.result(), small * 2)
        assert answered(server, job.id) < 600
    np.testing.assert_array_equal(job.result(), large * 2)
    assert not list(server.scan_iter(keys.backlog(job.id, "*")))


def test_a_bulk_job_goes_on_beside_interactive_ones_without_end(client: Client, server: redis.Redis) -> None:
    with endless(client, "interactive") as one, endless(client, "interactive") as two:
        wait_until(lambda: one.ledger.predicted > 20 and two.ledger.predicted > 20, "they run")
        bulk = client.submit("held", rows(300), chunk_rows=1, detach=True)
        wait_until(lambda: answered(server, bulk) >= 20, "it has begun")

        def all_answered() -> np.ndarray:
            return np.array([answered(server, bulk), one.ledger.predicted, two.ledger.predicted])

        before = all_answered()
        wait_until(lambda: answered(server, bulk) >= 120, "it goes on", 60)
        ours, *others = all_answered() - before
    assert ours / (ours + sum(others)) >= 0.08, "a tenth, by rounds of about ten chunks"
    assert ours < sum(others), "and they have more"
    np.testing.assert_array_equal(client.attach(bulk).result(), rows(300) * 2)


def test_ten_equal_jobs_end_with_their_own_rows(client: Client) -> None:
    data = [rows(40, first=1_000 * number) for number in range(10)]
    left = [client.submit("held", one, chunk_rows=1, detach=True) for one in data[:5]]
    jobs = [client.submit("held", one, chunk_rows=1, priority="bulk") for one in data[5:]]
    for job, one in zip([*jobs, *map(client.attach, left)], [*data[5:], *data[:5]], strict=True):
        np.testing.assert_array_equal(job.result(), one * 2)
        ledger = job.ledger
        assert (ledger.predicted, ledger.failed) == (40, 0)


# --- the command ----------------------------------------------------------------------------------------------------


def test_jobs_shows_class_share_and_place_and_priority_changes_them(
    shared: System, client: Client, server: redis.Redis
) -> None:
    large = rows(100)
    large[:2, 0] = HELD
    with holding(shared.folder, HELD):
        detached = client.submit("held", large, chunk_rows=1, detach=True)
        wait_until(lambda: len(held_children(shared.folder)) == 2, "all slots are taken")
        attached = client.submit("held", rows(100), chunk_rows=1, priority=8)

        def told(job_id: str) -> dict[str, object]:
            done = shared.celeriac("jobs", "--json")
            assert done.returncode == 0, done.stderr
            return next(one for one in json.loads(done.stdout)["jobs"] if one["job"] == job_id)

        wait_until(lambda: queued(server, attached.id), "its chunks are in the queue")
        first, second = told(detached), told(attached.id)
        assert (first["priority"], second["priority"]) == ("bulk", "8")
        assert first["ahead"] == 0
        assert 0 < second["ahead"] <= 2 * CHUNKS_PER_SLOT  # type: ignore[operator]
        assert second["share"] == pytest.approx(8 / 9 / (8 / 9 + 1 / 8), abs=0.01)
        for job_id, words in ((detached, "interactive"), (attached.id, "2")):
            done = shared.celeriac("priority", job_id[:8], words)
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"job {job_id} is {words} now\n"
        wait_until(lambda: told(attached.id)["share"] != second["share"], "the attached job knows")
        assert told(detached)["priority"] == "interactive"
        lines = shared.celeriac("jobs").stdout.splitlines()
        assert lines[0].split()[-4:] == ["PRIORITY", "SHARE", "AHEAD", "SUBMITTED"]
        assert "interactive" in next(line for line in lines if detached in line)
        assert "priority   2" in shared.celeriac("status", attached.id).stdout
    np.testing.assert_array_equal(attached.result(), rows(100) * 2)
    np.testing.assert_array_equal(client.attach(detached).result(), large * 2)
    ended = told(attached.id)
    assert (ended["share"], ended["ahead"]) == (None, None)

    for words, why in (
        ((attached.id, "bulk"), f"job {attached.id} is done already; only a running job has a priority"),
        ((detached, "urgent"), "priority is 'urgent'; it is one of interactive, normal, bulk, or a number"),
        (("nobody", "bulk"), "no job of this name, and none with an id that begins with 'nobody'"),
        ((detached, "--", "-1"), "priority is -1; as a number it is between 0.01 and 1000"),
    ):
        done = shared.celeriac("priority", *words)
        assert (done.returncode, why in done.stderr) == (ExitCode.USAGE, True), done.stderr


# --- what dies ------------------------------------------------------------------------------------------------------


def test_a_killed_child_costs_no_row_and_stops_no_backlog(shared: System, client: Client, server: redis.Redis) -> None:
    large = rows(60)
    large[3, 0] = HELD
    with holding(shared.folder, HELD) as let_go:
        job = client.attach(client.submit("held", large, chunk_rows=1, detach=True))
        child = wait_until(lambda: held_child(shared.folder), "a child is in the middle of a chunk")
        wait_until(lambda: answered(server, job.id) == 59, "the others go on, with nobody to look after them")
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: held_child(shared.folder) not in (0, child), "it runs again in another child")
        let_go()
        np.testing.assert_array_equal(job.result(), large * 2)
    assert (job.ledger.predicted, job.ledger.failed) == (60, 0)


def test_a_cancelled_job_leaves_the_queue_to_others(shared: System, client: Client, server: redis.Redis) -> None:
    large = rows(300)
    large[:2, 0] = HELD
    with holding(shared.folder, HELD):
        job = client.attach(client.submit("held", large, chunk_rows=1, detach=True))
        wait_until(lambda: len(held_children(shared.folder)) == 2, "all slots are taken")
        assert shared.celeriac("cancel", job.id).returncode == 0
        assert not list(server.scan_iter(keys.backlog(job.id, "*")))
        assert len(queued(server, job.id)) <= 2 * CHUNKS_PER_SLOT
    np.testing.assert_array_equal(client.predict("held", rows(5)), rows(5) * 2)
    wait_until(lambda: not queued(server, job.id), "what was in the queue is dropped")


@in_long_form
def test_a_killed_worker_holds_up_no_backlog_that_nobody_looks_after(system: System) -> None:
    manifest = write_manifest(system.folder, write_held_models(system.folder))
    workers = [system.start_ready_worker(manifest, 2, "-n", f"{name}@%h") for name in "ab"]
    for worker in workers:
        wait_until(lambda worker=worker: " ready." in worker.output(), "the worker takes chunks")
    large = rows(200)
    large[:4, 0] = HELD
    with Client(system.url) as client, system.admin() as server:
        with holding(system.folder, HELD):
            job = client.attach(client.submit("held", large, chunk_rows=1, detach=True))
            wait_until(lambda: len(held_children(system.folder)) == 4, "all slots are taken")
            processes = [workers[0].pid, *descendants_of(workers[0].pid)]
            workers[0].stop()
            wait_until(lambda: not any(map(is_alive, processes)), "the worker and its children are dead")
        # It held two chunks that ran, and one more.
        wait_until(lambda: answered(server, job.id) >= 197, "all others are answered", 60)
        np.testing.assert_array_equal(job.result(), large * 2)
        assert job.ledger.chunks_sent_again >= 2
