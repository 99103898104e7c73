"""Jobs that are left and fetched: by another process, again, whatever dies meanwhile, with nothing left over."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from producer import Client, JobState
from producer.broker.broker_channel import BrokerChannel
from producer.detached.submit import send
from producer.records import job_store
from tasks.child.bootstrap import Child
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.delivery import Delivery, ask
from tasks.protocol import codec, keys
from tasks.protocol.messages import Failure, FailureRecord, InlineRef, Outputs
from tasks.protocol.plan import Plan
from tasks.protocol.seal import rows_context
from tasks.transport.resend_detached import message
from tests.forms import in_long_form
from tests.held import held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.seals import SEALER, push
from tests.systems import RedisServer, System, queued_messages, queues, serving, shared_folders
from tests.waiting import wait_until
from worker_config.broker import KEY_PREFIX
from worker_config.errors import (
    InputError,
    JobCancelledError,
    NoWorkerError,
    RowsFailedError,
    UnknownJobError,
    UsageError,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ROWS = np.random.default_rng(3).random((3_000, 64), np.float32)
RIGHT = np.random.default_rng(4).integers(0, 10, (900, 3), np.int32)
PAIRS = {"left": np.random.default_rng(5).random((900, 4), np.float32), "right": RIGHT}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A worker with two children, which may open files under `data` and has a spool folder."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, models / "models.toml", environ=shared_folders(folder)) as system:
        np.save(folder / "data" / "rows.npy", ROWS)
        np.savez(folder / "pairs.npz", **PAIRS)
        yield system


@pytest.fixture
def client(shared: System) -> Iterator[Client]:
    with Client(shared.url, settings=shared.settings(spool=shared.folder / "spool")) as client:
        yield client


@pytest.fixture
def server(shared: System) -> Iterator[redis.Redis]:
    with shared.admin() as server:
        yield server


@pytest.fixture(scope="module")
def expected(models: Path) -> Any:
    return in_one_process(models / "digits.keras", ROWS)


# How a process submits rows that another fetches, and by which way they go.
LEFT = {
    "slices": ("'digits', path, chunk_rows=70", "slices"),
    "arrays": ("'digits', rows", "redis"),
    "small chunks": ("'digits', rows, chunk_rows=7", "redis"),  # nothing is larger than what would ride in a message
    "compressed": ("'digits', rows, chunk_rows=700, compression='zstd'", "redis"),
    "batches of unknown number": (
        "'digits', from_batches(rows[at : at + 110] for at in range(0, 3_000, 110)), chunk_rows=64",
        "redis",
    ),
    "rows of unknown number": ("'digits', (row for row in rows)", "redis"),
}


@pytest.fixture(scope="module")
def left(shared: System) -> dict[str, str]:
    """The ids of jobs that a process submitted, which ended with that."""
    submits = [f"    print(client.submit({submit}, detach=True))" for submit, _ in LEFT.values()]
    lines = [
        "import numpy as np",
        "from producer import Client",
        "from producer.sources import from_batches",
        f"path = {str(shared.folder / 'data' / 'rows.npy')!r}",
        "rows = np.load(path)",
        f"with Client({shared.url!r}) as client:",
        *submits,
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(LEFT, done.stdout.split(), strict=True))


def keys_of(server: redis.Redis, job: str = "") -> dict[str, int]:
    """The seconds to live of a job's keys, by name."""
    names = cast("list[bytes]", list(server.scan_iter(keys.job(job) + "*")))
    return {name.decode(): server.ttl(name) for name in names}


def check_close(outputs: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            check_close(outputs[name], value)
        return
    assert outputs.dtype == expected.dtype
    np.testing.assert_allclose(outputs, expected, **CLOSE)


# --- left and fetched -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", LEFT)
def test_what_a_process_left_another_fetches_in_order_and_again(
    left: dict[str, str], client: Client, server: redis.Redis, expected: Any, what: str
) -> None:
    job = client.attach(left[what])
    parts = list(job.parts())
    assert [part.index for part in parts] == list(range(len(parts)))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    check_close(np.concatenate([part.outputs for part in parts]), expected)
    check_close(job.result(), expected)

    assert job.state is JobState.DONE
    assert job.record.store == LEFT[what][1]
    ledger = job.ledger
    assert (ledger.rows, ledger.predicted, ledger.failed, ledger.skipped) == (3_000, 3_000, 0, 0)
    assert (ledger.chunks_answered, ledger.duplicates) == (len(parts), 0)
    ledger.check(handed_over=False)
    assert set(keys_of(server, job.id)) == {keys.job(job.id), keys.answers(job.id)}


def test_several_models_with_several_outputs(shared: System, client: Client, models: Path) -> None:
    job = client.attach(client.submit(["pair", "pair_saved"], shared.folder / "pairs.npz", chunk_rows=100, detach=True))
    expected = in_one_process(models / "pair.keras", PAIRS)
    check_close(job.result(), {"pair": expected, "pair_saved": expected})


def test_zero_rows_have_the_dtype_and_shape_of_the_outputs(shared: System, client: Client) -> None:
    none = shared.folder / "data" / "none.npy"
    np.save(none, ROWS[:0])
    for rows in (ROWS[:0], iter(()), none):
        job = client.attach(client.submit("digits", rows, detach=True))
        outputs = cast("np.ndarray", job.result())
        assert (outputs.shape, outputs.dtype) == ((0, 10), np.float32)
        assert job.progress().state is JobState.DONE


def test_large_outputs_are_in_the_answers_and_no_spool_is_used(shared: System, client: Client) -> None:
    pairs = {"left": np.tile(PAIRS["left"], (20, 1)), "right": np.tile(PAIRS["right"], (20, 1))}
    job = client.attach(client.submit("pair", pairs, chunk_rows=9_000, detach=True))
    check_close(job.result(), client.predict("pair", pairs))
    assert not (shared.folder / "spool" / job.id).exists()


def test_several_fetch_at_once(client: Client, expected: Any) -> None:
    job_id = client.submit("digits", ROWS, chunk_rows=20, detach=True)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(client.attach(job_id).result())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        check_close(result, expected)


def test_the_progress_and_the_first_characters_of_the_id(client: Client) -> None:
    job = client.attach(client.submit("digits", ROWS, chunk_rows=300, detach=True)[:8])
    assert job.wait()
    progress = job.progress()
    assert (progress.state, progress.rows, progress.predicted, progress.failed) == (JobState.DONE, 3_000, 3_000, 0)
    assert (progress.in_flight, progress.slots) == (0, 2)
    assert progress.seconds > 0
    assert job.failures() == []


def test_an_attached_job_is_not_for_others_to_fetch(client: Client) -> None:
    job = client.submit("digits", ROWS)
    job.result()
    with pytest.raises(UsageError, match=f"job {job.id} was not detached: its producer, .* writes the output itself"):
        client.attach(job.id)


# --- what stays, and for how long -----------------------------------------------------------------------------------


def test_every_key_has_the_jobs_own_time_to_live(shared: System, server: redis.Redis, client: Client) -> None:
    with shared.standing_still():
        job_id = client.submit("digits", ROWS, chunk_rows=100, detach=True, ttl_seconds=1_000)
        waiting = keys_of(server, job_id)
        backlog = keys.backlog(job_id, shared.slots()[0].queue)
        assert set(waiting) == {keys.job(job_id), keys.payloads(job_id), backlog}
        assert all(900 < seconds <= 1_000 for seconds in waiting.values()), waiting
        for name in waiting:
            server.expire(name, 100)
        assert not client.attach(job_id).wait(timeout_seconds=0)
        assert min(server.ttl(name) for name in waiting) > 900, "waiting for it keeps it"
    client.attach(job_id).result()
    done = keys_of(server, job_id)
    assert set(done) == {keys.job(job_id), keys.answers(job_id)}
    assert all(900 < seconds <= 1_000 for seconds in done.values()), done
    everything = cast("list[bytes]", list(server.scan_iter(f"{KEY_PREFIX}job*")))
    assert all(server.ttl(name) > 0 for name in everything)


def test_a_job_that_is_kept_for_long_stays_listed_beside_one_that_is_not(client: Client, server: redis.Redis) -> None:
    long, short = (client.submit("digits", ROWS[:5], detach=True, ttl_seconds=ttl) for ttl in (5_000, 60))
    assert server.ttl(keys.JOBS) > 4_000
    client.attach(short).result()
    assert server.ttl(keys.JOBS) > 4_000
    assert {long, short} <= set(job_store.job_ids(server))
    server.zadd(keys.JOBS, {short: 1.0})  # as if its time were over
    client.attach(long).result()
    assert short not in job_store.job_ids(server)


def test_a_job_that_has_expired_is_unknown_to_who_waits_for_it(client: Client, server: redis.Redis) -> None:
    job = client.attach(client.submit("digits", ROWS, detach=True))
    server.delete(keys.job(job.id))
    with pytest.raises(UnknownJobError, match="has expired"):
        job.result()
    with pytest.raises(UnknownJobError, match="has expired"):
        job.cancel()
    assert not server.exists(keys.job(job.id))


@pytest.mark.parametrize("ending", ["running", "done"])
def test_cancel_leaves_the_record_alone(shared: System, client: Client, server: redis.Redis, ending: str) -> None:
    with shared.standing_still():
        job = client.attach(client.submit("digits", ROWS, chunk_rows=100, detach=True))
        if ending == "running":
            job.cancel()
    if ending == "done":
        job.result()
        job.cancel()
    wait_until(lambda: not queues(server), "its messages are dropped")
    # A worker may have one in its hands, and note its delivery, when the last one leaves the queue.
    wait_until(lambda: set(keys_of(server, job.id)) == {keys.job(job.id)}, "nothing but its record is left")
    assert job.state is JobState.CANCELLED
    with pytest.raises(JobCancelledError, match=f"job {job.id} was cancelled; .* of 3000 rows were predicted"):
        job.result()
    job.cancel()
    job.ledger.check(handed_over=False)


# --- refused --------------------------------------------------------------------------------------------------------


def endless() -> Iterator[np.ndarray]:
    while True:
        yield ROWS[0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: np.zeros((10_000, 64), np.float32), "10,000 rows need .* MiB in Redis, 2.4 for themselves, 0.4 for"),
        (endless, "rows so far need .* MiB in Redis"),
        (lambda: np.random.default_rng(1).random((4_000, 64)).astype(np.float32), "4,000 rows need"),
    ],
    ids=["known", "unknown", "just over"],
)
def test_what_is_too_large_is_refused_and_leaves_nothing(
    shared: System, server: redis.Redis, make: Callable[[], Any], told: str
) -> None:
    before = (set(keys_of(server)), job_store.job_ids(server))
    with Client(shared.url, settings=shared.settings(detached_mib=1)) as client:
        advice = r"may keep 1 MiB there \(CELERIAC_DETACHED_MIB\): put the data under CELERIAC_DATA_ROOTS .* attached$"
        with pytest.raises(UsageError, match=f"{told}.*{advice}"):
            client.submit("digits", make(), detach=True)
    assert (set(keys_of(server)), job_store.job_ids(server)) == before


def test_rows_in_a_file_that_workers_read_cost_no_budget(shared: System, expected: Any) -> None:
    path = shared.folder / "data" / "many.npy"
    np.save(path, np.tile(ROWS, (5, 1)))  # 3.8 MB
    with Client(shared.url, settings=shared.settings(detached_mib=1)) as client:
        job = client.attach(client.submit("digits", path, detach=True))
        check_close(job.result(), np.tile(expected, (5, 1)))


def test_a_redis_with_little_room_refuses_by_its_room(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    server = RedisServer(folder, ("--maxmemory", "8mb", "--maxmemory-policy", "noeviction"))
    system = System(server.start(), folder)
    try:
        system.start_ready_worker(write_manifest(folder, write_held_models(folder)), 1)
        with Client(system.url) as client, pytest.raises(UsageError, match=r"Redis has room for \d\.\d MiB"):
            client.submit("held", np.zeros((50_000, 64), np.float32), detach=True)
    finally:
        system.stop()


def test_a_data_set_that_cannot_be_read_on_leaves_nothing(client: Client, server: redis.Redis) -> None:
    def breaks() -> Iterator[np.ndarray]:
        yield from ROWS[:1_500]
        raise ValueError("no more")

    def interrupted() -> Iterator[np.ndarray]:
        yield from ROWS[:1_500]
        raise KeyboardInterrupt

    before = (set(keys_of(server)), job_store.job_ids(server))
    with pytest.raises(KeyboardInterrupt):
        client.submit("digits", interrupted(), detach=True, chunk_rows=64)
    with pytest.raises(InputError, match="row 1500 did not come: ValueError: no more"):
        client.submit("digits", breaks(), detach=True, chunk_rows=64)
    with pytest.raises(InputError, match="input pixels"):
        client.submit("digits", (row[:3] for row in ROWS), detach=True)
    assert (set(keys_of(server)), job_store.job_ids(server)) == before


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="cannot wait in the spool folder"):
        client.submit("digits", ROWS, detach=True, store="files")
    with pytest.raises(UsageError, match=r"its rows stand in no \.npy file"):
        client.submit("digits", ROWS, detach=True, store="slices")
    with pytest.raises(UsageError, match="ttl_seconds is 59; the least is 60"):
        client.submit("digits", ROWS, detach=True, ttl_seconds=59)
    with pytest.raises(UsageError, match="ttl_seconds is for a detached job"):
        client.submit("digits", ROWS, ttl_seconds=600)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="chunk_rows is 0"):
        client.submit("digits", ROWS, detach=True, chunk_rows=0)
    with pytest.raises(UnknownJobError, match="no job"):
        client.attach("nobody")


# --- failures, duplicates, deaths -----------------------------------------------------------------------------------


def test_a_row_that_fails_ends_the_job_with_its_record(client: Client, server: redis.Redis) -> None:
    bad = {name: array.copy() for name, array in PAIRS.items()}
    bad["right"][345] = 99
    job = client.attach(client.submit("pair", bad, chunk_rows=100, detach=True))
    with pytest.raises(RowsFailedError, match=f"job {job.id} failed: row 345 failed at infer: "):
        job.result()
    assert job.state is JobState.FAILED
    (record,) = job.failures()
    assert (record.start, record.stop, record.stage) == (345, 346, "infer")
    assert set(keys_of(server, job.id)) == {keys.job(job.id)}
    job.ledger.check(handed_over=False)
    assert job.ledger.failed == 1


def test_a_chunk_that_is_sent_twice_counts_once(shared: System, client: Client, expected: Any) -> None:
    with shared.standing_still():
        job = client.attach(client.submit("digits", ROWS, chunk_rows=100, detach=True))
        channel = BrokerChannel(shared.url, shared.settings(), job.id)
        send(channel, job.id, plan_of(job.record.plan), range(30), shared.slots())
        channel.close()
    check_close(job.result(), expected)
    ledger = job.ledger
    assert (ledger.predicted, ledger.chunks_answered) == (3_000, 30)


def test_the_first_answer_of_a_chunk_counts_and_a_later_failure_is_ignored(
    shared: System, client: Client, server: redis.Redis
) -> None:
    with shared.standing_still():
        job = client.attach(client.submit("digits", ROWS[:4], chunk_rows=2, detach=True))
        first = Outputs(job.id, 0, 0, 2, "first", 0.1, InlineRef(b""), nonfinite_inputs=1, nonfinite_outputs=2)
        record = FailureRecord(0, 2, "fetch", "PayloadError", "the payload is not in Redis any more")
        assert push(server, first, 60)
        second = Outputs(job.id, 0, 0, 2, "second", 0.1, InlineRef(b""), nonfinite_inputs=2)
        assert not push(server, second, 60)
        assert not push(server, Failure(job.id, 0, "third", record), 60)
        assert (job.ledger.nonfinite_inputs, job.ledger.nonfinite_outputs) == (1, 2)
        assert (job.state, job.ledger.predicted, job.ledger.duplicates) == (JobState.RUNNING, 2, 2)
        assert b"first" in cast("bytes", server.hget(keys.answers(job.id), "0"))
        assert cast("list[bytes]", server.hkeys(keys.payloads(job.id))) == [b"1"]
        plan, child = plan_of(job.record.plan), Child("here", 0, {}, server, PayloadStore(server, 60, Places()))
        server.hset(keys.UNACKED, "tag", "")
        assert ask(child, message(job.id, plan, 0), "tag") == Delivery("tag"), "it is not run again"
        delivery = ask(child, message(job.id, plan, 1), "tag")
        assert delivery.count == 1
        rows = SEALER.open(rows_context(job.id, 1), delivery.payload or b"")
        np.testing.assert_array_equal(codec.decode(rows), ROWS[2:4])
        assert server.ttl(keys.answers(job.id)) > 60
        job.cancel()
        assert not push(server, Outputs(job.id, 1, 2, 4, "late", 0.1, InlineRef(b"")), 60)
        assert set(keys_of(server, job.id)) == {keys.job(job.id)}


def test_the_plan_makes_the_messages_that_were_sent(shared: System, client: Client, server: redis.Redis) -> None:
    with shared.standing_still():
        job = client.attach(client.submit("digits", ROWS, chunk_rows=1_000, detach=True))
        queued_messages(server, job.id, 3)
        last = message(job.id, plan_of(job.record.plan), 2)
        assert str(last).startswith(f"chunk 2/3 rows 2000-3000 of job {job.id}, digits@")
        job.cancel()


@in_long_form
def test_fetch_may_begin_before_there_are_workers_and_after_one_was_killed(system: System) -> None:
    manifest = write_manifest(system.folder, write_held_models(system.folder))
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    worker = system.start_ready_worker(manifest, 1)
    with Client(system.url, worker_timeout_seconds=90) as client:
        with holding(system.folder, rows[2, 0]):
            job_id = client.submit("held", rows, chunk_rows=1, detach=True)
            wait_until(lambda: held_children(system.folder), "the worker runs a chunk")
            worker.stop()
        wait_until(lambda: not system.slots(), "nobody holds the model")
        said = f"no worker has held held@.* job {job_id} stays in the system, with 2 of 6 rows predicted"
        with Client(system.url, worker_timeout_seconds=0) as hasty, pytest.raises(NoWorkerError, match=said):
            hasty.attach(job_id).result()
        system.start_worker(manifest, 1)
        np.testing.assert_array_equal(client.attach(job_id).result(), rows * 2)
        assert client.attach(job_id).ledger.chunks_sent_again > 0


@in_long_form
def test_a_worker_killed_while_somebody_waits_costs_no_row(system: System) -> None:
    manifest = write_manifest(system.folder, write_held_models(system.folder))
    rows = np.arange(96, dtype=np.float32).reshape(24, 4)
    workers = [system.start_ready_worker(manifest, 1, "-n", f"{name}@%h") for name in "ab"]
    for worker in workers:
        wait_until(lambda worker=worker: " ready." in worker.output(), "the worker takes chunks")
    rows[6:] = 42
    with Client(system.url) as client:
        with holding(system.folder, 42):
            job = client.attach(client.submit("held", rows, chunk_rows=1, detach=True))
            parts = job.parts()
            next(parts)
            wait_until(lambda: len(held_children(system.folder)) == 2, "each worker runs a chunk")
            workers[0].stop()
        got = [part.outputs for part in parts]
        np.testing.assert_array_equal(np.concatenate(cast("list[np.ndarray]", got)), rows[1:] * 2)
        ledger = job.ledger
        assert (ledger.predicted, ledger.failed) == (24, 0)
        assert ledger.chunks_sent_again > 0


@pytest.mark.parametrize("held", [False, True])
def test_a_message_that_nobody_has_any_more_is_sent_again_soon(
    shared: System, client: Client, server: redis.Redis, expected: Any, held: bool
) -> None:
    with shared.standing_still():
        job = client.attach(client.submit("digits", ROWS, chunk_rows=500, detach=True))

        (queue,) = wait_until(lambda: queues(server), "chunks wait")

        def of_it() -> bytes:  # some of a job before may be there too, which is over
            found = cast("bytes | None", server.rpop(queue)) or b""  # as by a connection that ends then
            return found if job.id.encode() in found else b""

        lost = wait_until(of_it, "one is taken")
        if held:  # or that ended before what it held could be given back
            server.hset(keys.UNACKED, "of nobody", lost)
    assert job.wait(0.15 * shared.settings().chunk_timeout_seconds)
    assert job.ledger.chunks_sent_again == 1
    check_close(job.result(), expected)
    job.cancel()
    server.hdel(keys.UNACKED, "of nobody")


def plan_of(plan: Plan | None) -> Plan:
    assert plan is not None
    return plan
