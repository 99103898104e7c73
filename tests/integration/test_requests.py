"""Small predictions as requests: right, shared among callers, never lost, and gone when they are answered."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client
from producer.requests import small
from tasks.protocol import keys, requests
from tests.held import held_child, held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import BusyError, InputError, RequestTimeoutError, RowsFailedError, UnknownModelError
from worker_config.retry_policy import REQUEST_TTL_SECONDS

FUNCTIONS = """
import os
import signal

import numpy as np


def double(rows):
    return rows * 2


def picky(rows):
    if 8 in rows:
        raise ValueError("a row that I do not like")
    return rows * 2


def deadly(rows):
    if 13 in rows:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows * 2


def sizes(rows):
    return np.full(len(rows), len(rows), np.int64)


def texts(rows):
    return np.array([text.upper() for text in rows["text"]], object)


def endless(rows):
    while 1 in rows:
        pass
    return rows
"""
ROWS = np.arange(40, dtype=np.float32)[:, np.newaxis]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "functions.py").write_text(FUNCTIONS)
    names = ("double", "picky", "deadly", "sizes", "texts")
    entries = {name: {"path": f"functions:{name}", "batch_rows": 32} for name in names}
    held = write_held_models(folder)
    held["held"]["batch_rows"] = 32  # type: ignore[index]
    manifest = write_manifest(folder, {**entries, **held})
    with serving(folder, manifest, 1) as system:
        yield system


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@contextmanager
def busy_child(system: System, client: Client, callers: ThreadPoolExecutor) -> Iterator[Callable[[], None]]:
    """The child is held by a request, until the function that is given is called, or this has ended."""
    with holding(system.folder, -1.0) as let_go:
        held = callers.submit(client.predict, "held", np.float32([[-1]]))
        wait_until(lambda: held_child(system.folder), "the child is held")
        yield let_go
    assert held.result(60).tolist() == [[-2]]


def waiting(system: System, count: int) -> None:
    """Until so many requests wait for a child."""
    (slot,) = system.slots()
    with system.admin() as server:
        wait_until(lambda: server.llen(keys.requests(slot.queue)) == count, f"{count} requests wait")


def jobs(server: redis.Redis) -> set[bytes]:
    return set(server.keys("celeriac:job:*"))


def test_what_fits_a_batch_is_answered_without_a_job_and_leaves_no_key(client: Client, server: redis.Redis) -> None:
    client.predict("double", ROWS[:1])
    before = set(server.keys("*"))
    for rows in (1, 5, 32):
        np.testing.assert_array_equal(client.predict("double", ROWS[:rows]), 2 * ROWS[:rows])
    assert client.predict("texts", {"text": np.array(["a", "bc"], object)}).tolist() == ["A", "BC"]
    others = (b":_kombu.", b":sharing:", b":unacked_mutex")  # of workers, that are told of from time to time
    assert [key for key in set(server.keys("*")) - before if not any(part in key for part in others)] == []


@pytest.mark.parametrize(
    ("data", "options"),
    [(ROWS, {}), (ROWS[:0], {}), (ROWS[:3], {"chunk_rows": 1}), (iter(ROWS[:3]), {}), (ROWS[:3], {"store": "redis"})],
    ids=["more than a batch", "no rows", "chunks", "an iterator", "a store"],
)
def test_all_else_is_a_job(client: Client, server: redis.Redis, data: Any, options: Any) -> None:
    before = jobs(server)
    client.predict("double", data, **options)
    assert jobs(server) > before


def test_requests_that_wait_at_the_same_time_run_as_one_batch(
    system: System, client: Client, callers: ThreadPoolExecutor
) -> None:
    with busy_child(system, client, callers) as let_go:
        sizes = [callers.submit(client.predict, "sizes", ROWS[:rows]) for rows in (1, 2, 3)]
        waiting(system, 3)
        doubles = [callers.submit(client.predict, "double", ROWS[row : row + 1]) for row in range(8)]
        waiting(system, 11)
        let_go()
        assert [one.result(60).tolist() for one in sizes] == [[6], [6, 6], [6, 6, 6]]
        assert [one.result(60).tolist() for one in doubles] == [[[2 * row]] for row in range(8)]


def test_no_more_than_a_batch_is_taken_at_once(system: System, client: Client, callers: ThreadPoolExecutor) -> None:
    with busy_child(system, client, callers):
        sizes = []
        for number, rows in enumerate((20, 13, 12, 1)):
            sizes.append(callers.submit(client.predict, "sizes", ROWS[:rows]))
            waiting(system, number + 1)
    assert [int(one.result(60)[0]) for one in sizes] == [32, 14, 32, 14]


def test_a_row_that_raises_harms_its_own_caller_alone(
    system: System, client: Client, callers: ThreadPoolExecutor
) -> None:
    with busy_child(system, client, callers):
        good = callers.submit(client.predict, "picky", ROWS[:8])
        bad = callers.submit(client.predict, "picky", ROWS[7:10])
        skips = callers.submit(client.predict, "picky", ROWS[7:10], on_error="skip")
        fills = callers.submit(client.predict, "picky", ROWS[7:10], on_error="fill")
        few = callers.submit(client.predict, "picky", ROWS[7:10], on_error="fill", max_failed=0)
        waiting(system, 5)
    np.testing.assert_array_equal(good.result(60), 2 * ROWS[:8])
    with pytest.raises(RowsFailedError, match=r"^row 1 failed at infer: ModelError: .*: a row that I do not like"):
        bad.result(60)
    np.testing.assert_array_equal(skips.result(60), 2 * ROWS[[7, 9]])
    np.testing.assert_array_equal(fills.result(60), np.float32([[14], [np.nan], [18]]))
    with pytest.raises(RowsFailedError, match="1 rows failed, at most 0 may"):
        few.result(60)
    with pytest.raises(RowsFailedError, match=r"no row was predicted|all"):
        client.predict("picky", ROWS[8:9], on_error="skip")


def test_the_callers_of_a_child_that_dies_are_answered_and_the_row_that_kills_is_found(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    with busy_child(system, client, callers):
        good = [callers.submit(client.predict, "deadly", ROWS[row : row + 2]) for row in range(0, 10, 2)]
        bad = callers.submit(client.predict, "deadly", ROWS[12:15])
        waiting(system, 6)
    for number, one in enumerate(good):
        np.testing.assert_array_equal(one.result(120), 2 * ROWS[2 * number : 2 * number + 2])
    with pytest.raises(RowsFailedError, match=r"13|killed|died"):
        bad.result(120)
    assert server.keys("celeriac:taken:*") == []


def test_a_request_whose_time_is_up_is_not_run_and_says_so(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    with busy_child(system, client, callers):
        with pytest.raises(RequestTimeoutError, match="no answer from model double within the time limit"):
            client.predict("double", ROWS[:1], timeout_seconds=0.2)
        waiting(system, 0)  # it costs nobody anything
        with pytest.raises(TimeoutError):
            client.predict("double", ROWS, timeout_seconds=0.2)  # a job
    np.testing.assert_array_equal(client.predict("double", ROWS[:1], timeout_seconds=60), 2 * ROWS[:1])


@contextmanager
def standing_still(system: System) -> Iterator[None]:
    os.kill(system.redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(system.redis.pid, signal.SIGCONT)


def test_the_time_limit_holds_while_redis_stands_still(system: System, client: Client) -> None:
    client.predict("double", ROWS[:1])
    with standing_still(system):
        for _ in ("where the model is known", "where it is to be found"):
            with pytest.raises(RequestTimeoutError):
                client.predict("double", ROWS[:1], timeout_seconds=0.5)
    np.testing.assert_array_equal(client.predict("double", ROWS[:1]), 2 * ROWS[:1])


def test_a_subscription_that_is_not_answered_is_given_up(
    system: System, client: Client, callers: ThreadPoolExecutor
) -> None:
    requests_of_client = client._requests._clients[0]
    requests_of_client._client.ping()  # by a connection that is taken for it
    requests_of_client.targets.of(["double"])
    with standing_still(system):
        asked = callers.submit(client.predict, "double", ROWS[:1], timeout_seconds=0.5)
        with pytest.raises(RequestTimeoutError):
            asked.result(60)


def test_the_requests_of_a_caller_that_is_gone_are_not_run(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    with busy_child(system, client, callers), Client(settings=system.settings()) as other:
        lost = callers.submit(other.predict, "held", np.float32([[-2]]), timeout_seconds=60)
        waiting(system, 1)
        (element,) = server.lrange(keys.requests(slot.queue), 0, -1)
        caller = requests.head_of(element).caller
        (requests_of,) = other._requests._clients
        requests_of._pubsub.connection.disconnect()
        channel = keys.answers_channel(caller, 0)
        wait_until(lambda: server.pubsub_numsub(channel)[0][1] == 0, "nobody hears")
        server.rpush(keys.requests(slot.queue), element)
        del lost
    waiting(system, 0)


def test_too_many_requests_are_refused_with_how_long_they_would_wait(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    with busy_child(system, client, callers):
        server.rpush(keys.requests(slot.queue), *[b"0 x g 1 1 nobody\n"] * requests.MAX_WAITING)
        with pytest.raises(BusyError, match=r"10000 requests for model double wait already.*; try again later"):
            client.predict("double", ROWS[:1])
    waiting(system, 0)  # nobody hears the answers
    np.testing.assert_array_equal(client.predict("double", ROWS[:1]), 2 * ROWS[:1])


def test_what_is_damaged_on_its_way_is_computed_by_a_job(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    with busy_child(system, client, callers):
        asked = callers.submit(client.predict, "double", ROWS[:4])
        waiting(system, 1)
        (element,) = server.lrange(keys.requests(slot.queue), 0, -1)
        server.lset(keys.requests(slot.queue), 0, element[:-3] + bytes([element[-3] ^ 1]) + element[-2:])
    np.testing.assert_array_equal(asked.result(60), 2 * ROWS[:4])


def test_what_a_child_has_left_of_another_model_is_not_mixed_up_with_what_it_takes(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    with busy_child(system, client, callers):
        asked = callers.submit(client.predict, "double", ROWS[:4])
        waiting(system, 1)
        (element,) = server.lrange(keys.requests(slot.queue), 0, -1)
    np.testing.assert_array_equal(asked.result(60), 2 * ROWS[:4])
    server.rpush(keys.taken(slot.worker, slot.slot), element)
    assert client.predict("sizes", ROWS[:3]).tolist() == [3, 3, 3]
    assert not server.exists(keys.taken(slot.worker, slot.slot))


def test_a_request_that_nobody_has_any_more_is_computed_by_a_job(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    with busy_child(system, client, callers) as let_go:
        asked = callers.submit(client.predict, "double", ROWS[:4])
        waiting(system, 1)
        server.delete(keys.requests(slot.queue))
        wait_until(lambda: server.llen(keys.queue(slot.queue)) or server.hlen(keys.UNACKED), "a job is sent")
        let_go()
        np.testing.assert_array_equal(asked.result(60), 2 * ROWS[:4])


def test_what_a_child_takes_as_it_stands_still_does_not_stay_for_ever(
    system: System, client: Client, server: redis.Redis, callers: ThreadPoolExecutor
) -> None:
    client.predict("double", ROWS[:1])
    (slot,) = system.slots()
    taken = keys.taken(slot.worker, slot.slot)
    # It has asked for the next request by now, or does so before this one is there.
    os.kill(slot.pid, signal.SIGSTOP)
    try:
        asked = callers.submit(client.predict, "double", ROWS[1:2])
        wait_until(lambda: server.ttl(taken) > 0 or server.llen(keys.requests(slot.queue)), "somebody limits its life")
        assert server.exists(keys.requests(slot.queue)) or server.llen(taken) == 1
    finally:
        os.kill(slot.pid, signal.SIGCONT)
    assert asked.result(60).tolist() == [[2]]
    wait_until(lambda: not server.exists(taken), "it is answered")


def test_a_worker_that_is_killed_costs_time_and_one_that_ends_takes_no_more(
    system: System, client: Client, callers: ThreadPoolExecutor, server: redis.Redis
) -> None:
    manifest, slot = system.folder / "models.toml", system.slots()[0]
    other = system.start_ready_worker(manifest, 1)
    with holding(system.folder, -1.0) as let_go:
        asked = [callers.submit(client.predict, "held", np.float32([[-1]])) for _ in range(2)]
        wait_until(lambda: held_children(system.folder), "a child is held")
        wait_until(lambda: not server.exists(keys.requests(slot.queue)), "both requests are taken")
        other.stop()
        let_go()
        assert [one.result(120).tolist() for one in asked] == [[[-2]], [[-2]]]
    third = system.start_ready_worker(manifest, 1)
    ended = threading.Event()

    def ask() -> int:
        asked = 0
        while not ended.is_set():
            np.testing.assert_array_equal(client.predict("double", ROWS[:1]), 2 * ROWS[:1])
            asked += 1
        return asked

    busy = [callers.submit(ask) for _ in range(4)]
    third.process.send_signal(signal.SIGTERM)
    wait_until(lambda: third.process.poll() is not None, "the worker has ended")
    ended.set()
    assert all(one.result(60) for one in busy)
    assert all(0 < server.ttl(key) <= REQUEST_TTL_SECONDS for key in server.keys("celeriac:taken:*"))


def test_a_process_that_was_forked_asks_by_itself(client: Client) -> None:
    client.predict("double", ROWS[:1])
    child = os.fork()
    if not child:
        try:
            outputs = client.predict("double", ROWS[:3])
            os._exit(0 if np.array_equal(outputs, 2 * ROWS[:3]) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(client.predict("double", ROWS[:3]), 2 * ROWS[:3])


def test_requests_go_before_chunks_and_chunks_have_their_share(
    system: System, client: Client, callers: ThreadPoolExecutor
) -> None:
    ended = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not ended.is_set():
            np.testing.assert_array_equal(client.predict("double", ROWS[:1]), 2 * ROWS[:1])
            asked += 1

    endless = [callers.submit(ask) for _ in range(4)]
    try:
        job = client.submit("double", np.tile(ROWS, (20, 1)), chunk_rows=8)
        np.testing.assert_array_equal(job.result(), 2 * np.tile(ROWS, (20, 1)))
    finally:
        ended.set()
    for one in endless:
        one.result(60)
    assert asked


def test_wrong_rows_and_unknown_models_are_told_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(UnknownModelError, match="no worker holds model 'duoble'"):
        client.predict("duoble", ROWS[:1])
    with pytest.raises(InputError):
        client.predict("double", np.array([object()]))


def test_the_time_limit_of_chunks_ends_a_request_that_hangs(tmp_path: Path, system: System) -> None:
    (tmp_path / "never_ending.py").write_text(FUNCTIONS)
    manifest = write_manifest(tmp_path, {"endless": {"path": "never_ending:endless", "batch_rows": 4}})
    worker = system.start_worker(manifest, 1, environ={"CELERIAC_CHUNK_TIMEOUT_SECONDS": "1"})
    try:
        with Client(settings=system.settings()) as client:
            wait_until(lambda: "endless" in {info.name for one in system.slots() for info in one.models}, "it is up")
            with pytest.raises(RowsFailedError, match="row 0 failed at worker: TimeLimitExceeded"):
                client.predict("endless", np.ones(1, np.float32))
            np.testing.assert_array_equal(client.predict("endless", np.zeros(2, np.float32)), np.zeros(2))
    finally:
        worker.stop()


def test_only_options_that_a_request_knows_make_one() -> None:
    assert small.is_request(ROWS, {"on_error": "skip"})
    assert not small.is_request("rows.npy", {})
    assert not small.is_request(Path("rows.npy"), {})
    assert not small.is_request(ROWS, {"compression": "lz4"})
