"""Jobs over several Redis servers: rows come out right, whichever of them dies, stands still, or comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from producer import AsyncClient, Client, Job
from producer.broker.job_channel import JobChannel
from producer.job import collector
from tasks.protocol import keys
from tasks.protocol.messages import Outputs
from tasks.transport.spool import ReusableBuffer
from tests.manifests import write_manifest
from tests.shards import Shards, sharded
from tests.waiting import wait_for_job, wait_until

COUNT = 3
CHUNKS = 90
HELD = """
import time
from pathlib import Path


def held(rows):
    while (Path(__file__).parent / "hold").exists():
        time.sleep(0.01)
    return rows + 1
"""
SMALL = np.arange(CHUNKS, dtype=np.float64).reshape(-1, 1)
# Too large for a message: payloads and outputs are keys of their shard.
LARGE = np.random.default_rng(5).random((CHUNKS, 20_000))


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    (tmp_path / "held_model.py").write_text(HELD)
    manifest = write_manifest(tmp_path, {"held": "held_model:held"})
    with sharded(tmp_path, COUNT, manifest) as shards:
        yield shards


@pytest.fixture
def client(shards: Shards) -> Iterator[Client]:
    with closing(Client(settings=shards.settings())) as client:
        yield client


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """While it is there, chunks that have begun do not end."""
    (tmp_path / "hold").touch()
    return tmp_path / "hold"


def in_the_middle(client: Client, rows: np.ndarray) -> Job:
    """A job whose window is full; none of its chunks is answered."""
    job = client.submit("held", rows, chunk_rows=1)
    wait_until(lambda: job.ledger.chunks_sent >= 4 * 2 * COUNT, "the window is full")
    return job


def check_whole(job: Job, rows: np.ndarray) -> None:
    np.testing.assert_array_equal(job.result(), rows + 1)
    wait_for_job(job)
    job.ledger.check()
    assert job.ledger.predicted == len(rows)


def chunks_run(shards: Shards) -> list[int]:
    """By shard, how many chunks its workers have run."""
    outputs = ["".join(worker.output() for worker in system.workers) for system in shards.systems]
    return [output.count("succeeded in") for output in outputs]


def check_nothing_left(shards: Shards, job: Job) -> None:
    for system in shards.systems:
        if system.redis.process and system.redis.process.poll() is None:
            own = {keys.job(job.id).encode(), keys.timeline(job.id).encode()}
            with system.admin() as server:
                wait_until(
                    lambda server=server, own=own: set(server.scan_iter(f"{keys.job(job.id)}*")) <= own,
                    "nothing of the job is left",
                )


@pytest.mark.parametrize("rows", [SMALL, LARGE], ids=["in messages", "in keys"])
def test_chunks_spread_over_all(shards: Shards, client: Client, rows: np.ndarray) -> None:
    job = client.submit("held", rows, chunk_rows=1)
    check_whole(job, rows)
    assert not shards.systems[0].resent(job.id)
    wait_until(lambda: sum(chunks_run(shards)) >= CHUNKS, "the logs tell of all chunks")
    assert min(chunks_run(shards)) > CHUNKS / COUNT / 2, chunks_run(shards)
    check_nothing_left(shards, job)


@pytest.mark.parametrize("rows", [SMALL, LARGE], ids=["in messages", "in keys"])
@pytest.mark.parametrize("victim", range(COUNT))
def test_one_that_is_killed(shards: Shards, client: Client, rows: np.ndarray, victim: int, hold: Path) -> None:
    job = in_the_middle(client, rows)
    shards.systems[victim].redis.stop()
    first = shards.systems[0 if victim else 1]
    wait_until(lambda: job.ledger.chunks_sent_again, "its chunks are sent elsewhere")
    hold.unlink()
    check_whole(job, rows)
    assert 0 < len(first.resent(job.id)) <= job.ledger.chunks_sent / COUNT + 1, job.ledger
    check_nothing_left(shards, job)


def test_one_that_comes_back_empty_is_used_again(shards: Shards, client: Client, hold: Path) -> None:
    rows = np.arange(10 * CHUNKS, dtype=np.float64).reshape(-1, 1)
    job = in_the_middle(client, rows)
    victim = shards.systems[1]
    victim.redis.stop()
    wait_until(lambda: job.ledger.chunks_sent_again, "its chunks are sent elsewhere")
    victim.redis.start()
    wait_until(lambda: len(victim.slots()) == 2, "its worker is back")
    wait_until(lambda: any(slot.queue.endswith("@1") for slot in job._runner.run.slots), "the job knows of it")
    before = chunks_run(shards)[1]
    hold.unlink()
    check_whole(job, rows)
    wait_until(lambda: chunks_run(shards)[1] > before + 2, "its worker has run chunks again")


def test_one_that_stands_still(shards: Shards, client: Client, hold: Path) -> None:
    job = in_the_middle(client, LARGE)
    victim = shards.systems[2].redis.pid
    os.kill(victim, signal.SIGSTOP)
    try:
        hold.unlink()
        check_whole(job, LARGE)
    finally:
        os.kill(victim, signal.SIGCONT)


def test_outputs_that_one_takes_along_are_no_damage(
    shards: Shards, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, victim = JobChannel.load, shards.systems[1].redis

    def killing(channel: JobChannel, answer: Outputs, buffer: ReusableBuffer | None = None) -> memoryview | None:
        if getattr(answer.ref, "shard", 0) == 1 and victim.process and victim.process.poll() is None:
            victim.stop()
        return load(channel, answer, buffer)

    monkeypatch.setattr(JobChannel, "load", killing)
    monkeypatch.setattr(collector, "MAX_SENDS", 1)  # as if it had been late often
    job = client.submit("held", LARGE, chunk_rows=1)
    check_whole(job, LARGE)
    assert victim.process
    assert victim.process.poll() is not None


def test_one_that_is_full(shards: Shards, client: Client, hold: Path) -> None:
    job = in_the_middle(client, LARGE)
    with shards.systems[1].admin() as server:
        server.config_set("maxmemory", 1)
        hold.unlink()
        check_whole(job, LARGE)
        check_whole(client.submit("held", SMALL, chunk_rows=1), SMALL)
        assert server.info("memory")["maxmemory"] == 1
    check_nothing_left(shards, job)


def test_all_that_are_away_are_waited_for(shards: Shards, client: Client, hold: Path) -> None:
    job = in_the_middle(client, SMALL)
    for system in shards.systems:
        system.redis.stop()
    hold.unlink()
    shards.systems[2].redis.start()
    wait_until(lambda: len(shards.systems[2].slots()) == 2, "its worker is back")
    check_whole(job, SMALL)


def test_requests_go_to_all(shards: Shards, client: Client) -> None:
    with ThreadPoolExecutor(12) as threads:
        outputs = list(threads.map(lambda row: client.predict("held", SMALL[row : row + 1]), range(CHUNKS)))
    np.testing.assert_array_equal(np.concatenate(outputs), SMALL + 1)
    for system in shards.systems:
        with system.admin() as server:
            # Workers, and Celery's own tools, subscribe to patterns.
            assert server.info("commandstats").get("cmdstat_subscribe", {}).get("calls", 0) > 0


def test_requests_go_elsewhere_when_one_is_killed(shards: Shards, client: Client) -> None:
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(client.predict, "held", SMALL[row : row + 1]) for row in range(CHUNKS)]
        wait_until(lambda: sum(one.done() for one in asked) > CHUNKS / 6, "some are answered")
        shards.systems[0].redis.stop()
        outputs = [one.result() for one in asked]
    np.testing.assert_array_equal(np.concatenate(outputs), SMALL + 1)


def test_requests_of_an_event_loop(shards: Shards) -> None:
    async def ask() -> list[np.ndarray]:
        async with AsyncClient(settings=shards.settings()) as client:
            return await asyncio.gather(*(client.predict("held", SMALL[row : row + 1]) for row in range(CHUNKS)))

    np.testing.assert_array_equal(np.concatenate(asyncio.run(ask())), SMALL + 1)
