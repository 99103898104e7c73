"""Single bits that flip in Redis, in the spool and in queues: every row is right, and what was damaged is counted."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import redis

from producer import Client, Job
from producer.broker import broker_channel
from tasks.protocol import keys
from tasks.protocol.messages import StoreName
from tasks.transport import spool
from tests.forms import LONG
from tests.manifests import write_manifest
from tests.systems import System, serving, shared_folders
from tests.waiting import wait_for_job, wait_until

FLIPS = 1_000 if LONG else 40
# So that no chunk is damaged as often as it is sent.
EVERY = 41
CHUNKS = 30
# Rows too large to ride in their message, and outputs in their answer.
ROWS = np.random.default_rng(5).random((CHUNKS * 4, 5_000), np.float32)
MODELS = """
import os


def doubled(rows):
    return rows * 2


def deadly(rows):
    if (rows[:, 0] < 0).any():
        os._exit(3)
    return rows * 2
"""


class Flipper:
    """Flips one random bit now and then, in what passes."""

    def __init__(self, seed: int) -> None:
        self.flips = 0
        self._random = random.Random(seed)  # noqa: S311
        self._passed = 0
        self._lock = threading.Lock()

    def pass_through(self, data: bytes) -> bytes:
        with self._lock:
            self._passed += 1
            if self._passed % EVERY or not data:
                return data
            self.flips += 1
            return flipped(data, self._random)


def flipped(data: bytes, draw: random.Random) -> bytes:
    bit = draw.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class FlippingRedis:
    """A producer's client, of a Redis whose memory is not to be relied on."""

    def __init__(self, client: redis.Redis, flipper: Flipper) -> None:
        self._client, self._flip = client, flipper.pass_through

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def set(self, key: str, value: bytes, **options: Any) -> Any:
        return self._client.set(key, self._flip(value), **options)

    def getdel(self, key: str) -> bytes | None:
        data = cast("bytes | None", self._client.getdel(key))
        return data and self._flip(data)

    def lpop(self, key: str, count: int) -> list[bytes] | None:
        popped = cast("list[bytes] | None", self._client.lpop(key, count))
        return popped and [self._flip(data) for data in popped]

    def blpop(self, names: list[str], timeout: float) -> tuple[bytes, bytes] | None:
        popped = cast("tuple[bytes, bytes] | None", self._client.blpop(names, timeout=timeout))
        return popped and (popped[0], self._flip(popped[1]))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "models_doubled.py").write_text(MODELS)
    models = {name: {"path": f"models_doubled:{name}", "batch_rows": 4} for name in ("doubled", "deadly")}
    with serving(folder, write_manifest(folder, models), 2, shared_folders(folder)) as system:
        yield system


@pytest.fixture
def client(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("CELERIAC_SPOOL", str(system.folder / "spool"))
    with Client(system.url) as client:
        yield client


@pytest.mark.parametrize("store", ["redis", "files"])
def test_bits_of_rows_outputs_and_answers(client: Client, monkeypatch: pytest.MonkeyPatch, store: StoreName) -> None:
    flipper = Flipper(7)
    connect_really = broker_channel.connect
    monkeypatch.setattr(broker_channel, "connect", lambda *a, **o: FlippingRedis(connect_really(*a, **o), flipper))
    write, read, read_into = spool.write, spool.read, spool.read_into

    def write_flipped(folder: Any, job: str, name: str, parts: Any) -> Any:
        return write(folder, job, name, [flipper.pass_through(b"".join(parts))])

    def read_flipped(*args: Any, **options: Any) -> Any:
        return flipper.pass_through(bytes(read(*args, **options)))

    def read_into_flipped(folder: Any, ref: Any, head: bytearray, parts: Any) -> bool:
        whole = read_into(folder, ref, head, parts)
        body = memoryview(parts[-1]).cast("B")
        body[:] = flipper.pass_through(bytes(body))
        return whole

    monkeypatch.setattr(spool, "write", write_flipped)
    monkeypatch.setattr(spool, "read", read_flipped)
    monkeypatch.setattr(spool, "read_into", read_into_flipped)
    damaged = 0
    while flipper.flips < FLIPS // 2:
        job = client.submit("doubled", ROWS, chunk_rows=4, store=store)
        check_whole(job, ROWS * 2)
        damaged += job.ledger.damaged
    # What is read into its place and found damaged is read again.
    assert flipper.flips // 3 <= damaged <= flipper.flips


@pytest.mark.parametrize("seed", range(FLIPS // 20))
def test_bits_of_messages_in_the_queue(system: System, client: Client, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311
    rows = ROWS[:80, :200]
    with system.admin() as server:
        with system.standing_still():
            job = client.submit("doubled", rows, chunk_rows=4)
            queue = keys.queue(system.slots()[0].queue)
            waiting = wait_until(lambda: server.llen(queue), "chunks wait")
            for at in draw.sample(range(waiting), min(4, waiting)):
                item = cast("bytes", server.lindex(queue, at))
                server.lset(queue, at, flipped(item, draw))
        check_whole(job, rows * 2)
    assert system.workers[0].process.poll() is None


@pytest.mark.parametrize("seed", range(FLIPS // 20))
def test_bits_of_what_is_noted_of_deliveries(system: System, client: Client, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311
    rows = ROWS[:16, :10].copy()
    rows[draw.randrange(16), 0] = -1
    with system.admin() as server:
        job = client.submit("deadly", rows, chunk_rows=16, on_error="fill")
        with meddling(server, keys.deliveries(job.id), draw):
            wait_for_job(job)
    bad = np.flatnonzero(rows[:, 0] < 0)
    outputs = cast("np.ndarray", job.result())
    expected = rows * 2
    expected[bad] = np.nan
    np.testing.assert_array_equal(outputs, expected)


@contextmanager
def meddling(server: redis.Redis, key: str, draw: random.Random) -> Iterator[None]:
    """One note has one bit flipped, soon after it is written."""
    over, seen, which = threading.Event(), set(), draw.randint(1, 5)

    def meddle() -> None:
        while not over.wait(0.005):
            for name, value in cast("dict[bytes, bytes]", server.hgetall(key)).items():
                if name.endswith((b":at", b":why", b":bad")) and value not in seen and not over.is_set():
                    seen.add(value)
                    if len(seen) == which:
                        server.hset(key, name.decode(), flipped(value, draw))
                        return

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def check_whole(job: Job, expected: np.ndarray) -> None:
    wait_for_job(job)
    np.testing.assert_array_equal(job.result(), expected)
    job.ledger.check()
