"""`AsyncClient` in event loops: batches are shared, what is cancelled is taken back, errors are those of `Client`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from producer import AsyncClient, JobState
from tasks.protocol import keys, requests
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import BusyError, InputError, RequestTimeoutError, RowsFailedError, UnknownModelError

FUNCTIONS = """
import numpy as np


def double(rows):
    if 8000 in rows:
        raise ValueError("a row that I do not like")
    return rows * 2


def sizes(rows):
    return np.full(len(rows), len(rows), np.int64)
"""
ROWS = np.arange(40, dtype=np.float32)[:, np.newaxis]
BAD = np.float32([[8000]])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "functions.py").write_text(FUNCTIONS)
    entries = {name: {"path": f"functions:{name}", "batch_rows": 64} for name in ("double", "sizes")}
    held = write_held_models(folder)
    held["held"]["batch_rows"] = 64  # type: ignore[index]
    with serving(folder, write_manifest(folder, {**entries, **held}), 1) as system:
        yield system


def running(system: System, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run it in a loop of its own, with a client that is closed then."""

    async def whole() -> None:
        async with AsyncClient(settings=system.settings()) as client:
            await work(client)

    asyncio.run(whole())


async def until(condition: Callable[[], Any], what: str) -> Any:
    return await asyncio.to_thread(wait_until, condition, what)


async def hold(system: System, client: AsyncClient) -> asyncio.Task[Any]:
    """The only child stands still at a row of this task."""
    task = asyncio.create_task(client.predict("held", np.float32([[-1]])))  # type: ignore[arg-type]
    await until(lambda: held_child(system.folder), "the child is held")
    return task


def list_of_requests(system: System) -> str:
    return keys.requests(system.slots()[0].queue)


async def waiting(system: System, server: redis.Redis, count: int) -> None:
    name = list_of_requests(system)
    await until(lambda: server.llen(name) == count, f"{count} requests wait")


async def is_double(client: AsyncClient, rows: Any) -> None:
    np.testing.assert_array_equal(await client.predict("double", rows), 2 * np.asarray(rows))  # type: ignore[operator]


def test_tasks_that_wait_at_the_same_time_share_a_batch_and_leave_in_few_commands(
    system: System, server: redis.Redis
) -> None:
    def evals() -> int:
        return sum(one["calls"] for name, one in server.info("commandstats").items() if "eval" in name)

    async def work(client: AsyncClient) -> None:
        await is_double(client, ROWS[:1])
        with holding(system.folder, -1.0):
            held = await hold(system, client)
            before = evals()
            sizes = [asyncio.create_task(client.predict("sizes", ROWS[:1])) for _ in range(64)]  # type: ignore[arg-type]
            await waiting(system, server, 64)
            assert evals() - before < 16
        assert [int(one[0]) for one in await asyncio.gather(*sizes)] == [64] * 64  # type: ignore[index]
        await held
        await asyncio.gather(*[is_double(client, ROWS[row : row + 2]) for row in range(39)])

    running(system, work)


def test_what_is_no_request_is_a_job(system: System, server: redis.Redis, tmp_path: Path) -> None:
    async def work(client: AsyncClient) -> None:
        before = set(server.keys("celeriac:job:*:timeline"))
        await is_double(client, np.tile(ROWS, (20, 1)))
        np.save(tmp_path / "rows.npy", ROWS)
        np.testing.assert_array_equal(await client.predict("double", tmp_path / "rows.npy"), 2 * ROWS)
        assert len(set(server.keys("celeriac:job:*:timeline")) - before) == 2
        kept = await client.predict("double", ROWS, keep="row")
        assert kept["row"].tolist() == list(range(40))  # type: ignore[call-overload]

    running(system, work)


def test_a_task_that_is_cancelled_takes_its_request_back(system: System, server: redis.Redis) -> None:
    async def work(client: AsyncClient) -> None:
        with holding(system.folder, -1.0):
            held = await hold(system, client)
            asked = [asyncio.create_task(is_double(client, ROWS[:1])) for _ in range(5)]
            await waiting(system, server, 5)
            for one in asked[:4]:
                one.cancel()
            assert [type(one) for one in await asyncio.gather(*asked[:4], return_exceptions=True)] == [
                asyncio.CancelledError
            ] * 4
            await waiting(system, server, 1)
        await asked[4]
        await held

    running(system, work)


def test_a_task_that_is_cancelled_cancels_its_job(system: System, server: redis.Redis) -> None:
    async def work(client: AsyncClient) -> None:
        with holding(system.folder, -1.0):
            held = await hold(system, client)
            asked = asyncio.create_task(is_double(client, np.tile(ROWS, (20, 1))))
            await until(lambda: client._client._jobs, "the job has begun")
            (job,) = client._client._jobs.values()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await until(lambda: job.state is JobState.CANCELLED, "the job has ended")
        await held

    running(system, work)


def test_a_job_is_submitted_and_awaited_and_ends_with_its_task(system: System) -> None:
    async def work(client: AsyncClient) -> None:
        job = await client.submit("double", ROWS, chunk_rows=8)
        np.testing.assert_array_equal(await job, 2 * ROWS)
        with pytest.raises(UnknownModelError):
            await client.submit("duoble", ROWS)
        with holding(system.folder, -1.0):
            job = await client.submit("held", np.float32([[-1]]))
            asked = asyncio.ensure_future(job)
            await until(lambda: held_child(system.folder), "the child is held")
            asked.cancel()
            await until(lambda: job.state is JobState.CANCELLED, "the job has ended")

    running(system, work)


def test_time_limits_and_errors_are_those_of_client(system: System, server: redis.Redis) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(UnknownModelError, match="no worker holds model 'duoble'"):
            await client.predict("duoble", ROWS[:1])
        with pytest.raises(InputError):
            await client.predict("double", np.array([object()]))
        with pytest.raises(RowsFailedError, match=r"^row 0 failed at infer: .* a row that I do not like"):
            await client.predict("double", BAD)
        filled = await client.predict("double", np.concatenate([ROWS[:1], BAD]), on_error="fill")
        np.testing.assert_array_equal(filled, np.float32([[0], [np.nan]]))
        with holding(system.folder, -1.0):
            held = await hold(system, client)
            with pytest.raises(RequestTimeoutError, match=r"no answer from double within the time limit of 0.2 s"):
                await client.predict("double", ROWS[:1], timeout_seconds=0.2)
            await waiting(system, server, 0)
            with pytest.raises(RequestTimeoutError):
                await client.predict("double", np.tile(ROWS, (20, 1)), timeout_seconds=0.2)  # a job
            server.rpush(list_of_requests(system), *[b"0 x g 1 1 nobody\n"] * requests.MAX_WAITING)
            with pytest.raises(BusyError, match=r"10000 requests for model double wait already.*; try again later"):
                await client.predict("double", ROWS[:1])
        await held
        await waiting(system, server, 0)
        await asyncio.wait_for(client.predict("double", ROWS[:1], timeout_seconds=60), 60)

    running(system, work)


def test_a_request_that_nobody_has_any_more_is_computed_by_a_job(system: System, server: redis.Redis) -> None:
    async def work(client: AsyncClient) -> None:
        with holding(system.folder, -1.0) as let_go:
            held = await hold(system, client)
            asked = asyncio.create_task(is_double(client, ROWS[:4]))
            await waiting(system, server, 1)
            server.delete(list_of_requests(system))
            queue = keys.queue(system.slots()[0].queue)
            await until(lambda: server.llen(queue) or server.hlen(keys.UNACKED), "a job is sent")
            let_go()
            await asked
        await held

    running(system, work)


def test_requests_whose_answers_are_lost_with_a_connection_are_computed_by_jobs(
    system: System, server: redis.Redis
) -> None:
    async def work(client: AsyncClient) -> None:
        with holding(system.folder, -1.0) as let_go:
            held = await hold(system, client)
            asked = [asyncio.create_task(is_double(client, ROWS[row : row + 1])) for row in range(3)]
            await waiting(system, server, 3)
            server.client_kill_filter(_type="pubsub", skipme=True)
            let_go()
            await asyncio.gather(*asked)
        await held

    running(system, work)


def test_two_loops_in_two_threads_share_a_client(system: System) -> None:
    both = threading.Barrier(2)

    async def ask() -> None:
        await asyncio.to_thread(both.wait, 60)
        await asyncio.gather(*[is_double(client, ROWS[row : row + 2]) for row in range(30)])

    client = AsyncClient(settings=system.settings())
    failed: list[BaseException] = []

    def loop() -> None:
        try:
            asyncio.run(ask())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    asyncio.run(client.close())


def test_a_process_that_was_forked_asks_by_itself(system: System) -> None:
    client = AsyncClient(settings=system.settings())

    async def ask() -> None:
        await is_double(client, ROWS[:3])
        await is_double(client, np.tile(ROWS, (20, 1)))

    asyncio.run(ask())
    child = os.fork()
    if not child:
        try:
            asyncio.run(asyncio.wait_for(ask(), 60))
            asyncio.run(client.close())
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(ask())
    asyncio.run(client.close())


async def endless(taken: list[int]) -> AsyncIterator[Any]:
    while True:
        taken.append(len(taken))
        yield np.full(1 << 14, taken[-1], np.float32)
        await asyncio.sleep(0)


def test_a_stream_gives_one_output_for_each_row_in_order(system: System) -> None:
    async def rows() -> AsyncIterator[Any]:
        for row in range(1000):
            yield np.float32([row])
            if row % 100 == 0:
                await asyncio.sleep(0.001)

    async def work(client: AsyncClient) -> None:
        assert [float(one[0]) async for one in client.stream("double", rows())] == [2.0 * row for row in range(1000)]
        assert [float(one[0]) async for one in client.stream("double", iter(ROWS))] == (2 * ROWS[:, 0]).tolist()

        async def broken() -> AsyncIterator[Any]:
            yield ROWS[0]
            raise ValueError("my own")

        with pytest.raises(InputError, match="my own"):
            async for _ in client.stream("double", broken()):
                pass

    running(system, work)


def test_a_stream_reads_no_further_than_its_bound_and_ends_when_it_is_closed(system: System) -> None:
    async def work(client: AsyncClient) -> None:
        taken: list[int] = []
        async with aclosing(client.stream("double", endless(taken), max_waiting_bytes=1 << 20)) as outputs:
            assert (await anext(outputs))[0] == 0
            (job,) = client._client._jobs.values()
            before = -1
            while before != len(taken):  # until it reads no more
                before = len(taken)
                await asyncio.sleep(0.5)
            assert 64 <= before < 5000
            for row in range(1, 2 * before):
                assert (await anext(outputs))[0] == 2 * row
        await until(lambda: job.wait(0), "the job has ended")
        after = len(taken)
        await is_double(client, ROWS[:1])
        assert len(taken) <= after + 1

    running(system, work)


def test_redis_restarts_in_the_middle(tmp_path: Path, system: System) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    held = write_held_models(tmp_path)
    held["held"]["batch_rows"] = 64  # type: ignore[index]
    manifest = write_manifest(tmp_path, {"double": {"path": "functions:double", "batch_rows": 64}, **held})
    with serving(tmp_path, manifest, 1) as own:

        async def work(client: AsyncClient) -> None:
            with holding(own.folder, -1.0) as let_go, own.admin() as server:
                held = await hold(own, client)
                asked = [asyncio.create_task(is_double(client, ROWS[row : row + 1])) for row in range(3)]
                await waiting(own, server, 3)
                own.redis.stop()
                own.redis.start()
                let_go()
                await asyncio.gather(*asked)
                np.testing.assert_array_equal(await held, [[-2]])
            await is_double(client, ROWS[:1])

        running(own, work)
