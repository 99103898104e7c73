"""Children, workers and messages that come to harm in the middle of a job: the output is right, or the error clear."""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from producer import Client, Job, JobState
from producer.broker.broker_channel import BrokerChannel
from producer.records import job_store
from tasks.child import execute_chunk
from tasks.child.bootstrap import Child
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.loaded_model import LoadedModel
from tasks.child.model_cache import ModelCache
from tasks.child.model_runner import ModelRunner
from tasks.models.batches import BatchSize
from tasks.protocol import keys
from tasks.protocol.chunk_args import to_args
from tasks.protocol.messages import (
    MESSAGE_VERSION,
    ChunkMessage,
    Failure,
    InlineRef,
    ModelRef,
    Outputs,
)
from tasks.protocol.records import JobRecord, ModelInfo, TensorSpec
from tasks.transport.worker_registry import register_slots
from tests.forms import in_long_form
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.seals import SEALER, opened_answer, outputs_ref, rows_ref, sealed_answer
from tests.systems import System, Worker, queued_messages, queues, serving
from tests.waiting import descendants_of, is_alive, wait_for_job, wait_until
from worker_config.errors import JobCancelledError, MessageError, RowsFailedError

ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)
UNKNOWN_JOB = "0123456789ab"


@pytest.fixture(scope="module")
def held_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker with one child, which doubles rows and stays at a row for as long as a test wants."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, write_manifest(folder, write_held_models(folder)), 1) as system:
        wait_until(lambda: " ready." in system.workers[0].output(), "the worker takes chunks")
        yield system


@pytest.fixture
def worker(held_system: System) -> Worker:
    return held_system.workers[0]


@pytest.fixture
def client(held_system: System) -> Iterator[Client]:
    with Client(held_system.url) as client:
        yield client


@pytest.fixture
def server(held_system: System) -> Iterator[redis.Redis]:
    with held_system.admin() as server:
        yield server


def test_a_child_killed_in_the_middle_of_a_job_costs_no_row(
    held_system: System, worker: Worker, client: Client
) -> None:
    with holding(held_system.folder, ROWS[5, 0]) as let_go:
        job = client.submit("held", ROWS, chunk_rows=1)
        killed = _kill_the_child_that_is_held(held_system, job)
        let_go()

    assert killed
    np.testing.assert_array_equal(_result(job), ROWS * 2)
    job.ledger.check()
    assert (job.ledger.predicted, job.ledger.failed, job.ledger.written) == (12, 0, 12)
    wait_until(lambda: f"pid:{killed} exited with 'signal 9 (SIGKILL)'" in worker.output(), "its end is told")
    wait_until(lambda: [slot for slot in held_system.slots() if slot.pid != killed], "another child is in its place")
    assert worker.process.poll() is None


def test_a_chunk_that_kills_every_child_fails_with_the_row_that_ran_and_the_worker_lives_on(
    held_system: System, worker: Worker, client: Client
) -> None:
    killed = []
    with holding(held_system.folder, ROWS[0, 0]):
        job = client.submit("held", ROWS[:3], chunk_rows=3)
        while pid := _kill_the_child_that_is_held(held_system, job):
            killed.append(pid)

    assert len(set(killed)) == 3, "the first delivery, and as many more as a chunk may have"
    with pytest.raises(RowsFailedError, match=r"row 0 failed at worker: WorkerLostError: .*SIGKILL"):
        _result(job)
    assert job.state is JobState.FAILED
    (record,) = job.failures()
    assert (record.start, record.stop, record.stage, record.type) == (0, 1, "worker", "WorkerLostError")
    job.ledger.check()
    assert worker.process.poll() is None
    np.testing.assert_array_equal(client.predict("held", ROWS[:2]), ROWS[:2] * 2)


@in_long_form
def test_a_worker_killed_with_its_children_costs_no_row(system: System) -> None:
    manifest = write_manifest(system.folder, write_held_models(system.folder))
    workers = [system.start_ready_worker(manifest, 1, "-n", f"{name}@%h") for name in "ab"]
    for worker in workers:
        wait_until(lambda worker=worker: " ready." in worker.output(), "the worker takes chunks")
    with Client(system.url) as client, holding(system.folder, ROWS[5, 0]) as let_go:
        job = client.submit("held", np.repeat(ROWS, 2, axis=0), chunk_rows=1)
        child = wait_until(lambda: held_child(system.folder), "a child runs a chunk")
        (victim,) = (worker for worker in workers if child in descendants_of(worker.pid))
        children = descendants_of(victim.pid)

        victim.stop()
        wait_until(lambda: not any(map(is_alive, [victim.pid, *children])), "the worker and its child are dead")
        let_go()
        assert job.state is JobState.RUNNING

        np.testing.assert_array_equal(_result(job), np.repeat(ROWS, 2, axis=0) * 2)
        job.ledger.check()
        assert job.ledger.predicted == 24
        assert job.ledger.chunks_sent_again > 0


@pytest.mark.parametrize("chunk_rows", [1, 5000], ids=["payloads in messages", "payloads in Redis"])
def test_a_redis_that_lost_everything_in_the_middle_of_a_job_costs_no_row(
    held_system: System, client: Client, server: redis.Redis, chunk_rows: int
) -> None:
    rows = np.random.default_rng(8).random((6 * chunk_rows, 4), np.float32)
    rows[2 * chunk_rows] = 42
    with holding(held_system.folder, 42) as let_go:
        job = client.submit("held", rows, chunk_rows=chunk_rows)
        wait_until(lambda: job.ledger.chunks_answered == 2 and held_child(held_system.folder), "the job runs")
        slots = held_system.slots()
        with held_system.standing_still():
            server.flushall()
            # As the worker does itself, perhaps before the producer looks.
            register_slots(server, slots)
            assert not queues(server)
        let_go()

    np.testing.assert_array_equal(_result(job), rows * 2)
    job.ledger.check()
    assert job.ledger.predicted == len(rows)


def test_chunks_delivered_twice_are_predicted_once(held_system: System, client: Client, server: redis.Redis) -> None:
    with held_system.standing_still():
        job = client.submit("held", ROWS[:4], chunk_rows=1)
        first = json.loads(queued_messages(server, job.id, 4)[-1])  # the one on the right is taken first
        for _ in range(2):
            first["properties"]["delivery_tag"] = str(uuid.uuid4())
            server.rpush(keys.queue(held_system.slots()[0].queue), json.dumps(first))

    np.testing.assert_array_equal(_result(job), ROWS[:4] * 2)
    job.ledger.check()
    assert (job.ledger.predicted, job.ledger.written) == (4, 4)
    assert job.ledger.duplicates == 2


def test_the_first_valid_answer_counts_and_later_ones_are_dropped(
    held_system: System, client: Client, server: redis.Redis
) -> None:
    with held_system.standing_still():
        job = client.submit("held", ROWS[:3], chunk_rows=1)
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        ours = np.full((1, 4), -1, np.float32)
        answer = sealed_answer(Outputs(job.id, 0, 0, 1, "by hand", 0.1, outputs_ref(job.id, 0, ours)))
        server.rpush(keys.results(job.id), answer, answer)
        wait_until(lambda: job.ledger.duplicates, "the copy is dropped")
        assert (job.ledger.duplicates, job.ledger.predicted) == (1, 1)

    predictions = _result(job)
    np.testing.assert_array_equal(predictions, np.concatenate([ours, ROWS[1:3] * 2]))
    job.ledger.check()
    # The child's own answer to chunk 0 came third, unless the job was over before it.
    assert job.ledger.duplicates in (1, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda job: Outputs(job, 0, 0, 2, "?", 0.1, outputs_ref(job, 0, ROWS[:2])), "is for rows 0-2"),
        (lambda job: Outputs(job, 0, 0, 1, "?", 0.1, outputs_ref(job, 0, ROWS[:2])), "it must have 1 rows"),
    ],
    ids=["other rows", "too many rows"],
)
def test_an_answer_that_is_none_ends_the_job_with_one_clear_error(
    held_system: System, client: Client, server: redis.Redis, answer: Any, message: str
) -> None:
    with held_system.standing_still():
        job = client.submit("held", ROWS[:3], chunk_rows=1)
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        server.rpush(keys.results(job.id), sealed_answer(answer(job.id)))

        with pytest.raises(MessageError) as caught:
            _result(job)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    wait_for_job(job)
    assert job.state is JobState.FAILED
    job.ledger.check()
    assert job_store.read(server, job.id, SEALER)[0] is JobState.FAILED


def test_answers_that_were_damaged_are_dropped_and_counted(
    held_system: System, client: Client, server: redis.Redis
) -> None:
    with held_system.standing_still():
        job = client.submit("held", ROWS[:3], chunk_rows=1)
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        damaged = bytearray(sealed_answer(Outputs(job.id, 0, 0, 1, "?", 0.1, outputs_ref(job.id, 0, ROWS[:1]))))
        damaged[-1] ^= 1
        of_another = sealed_answer(Outputs(UNKNOWN_JOB, 0, 0, 1, "?", 0.1, outputs_ref(UNKNOWN_JOB, 0, ROWS[:1])))
        no_outputs = sealed_answer(Outputs(job.id, 1, 1, 2, "?", 0.1, InlineRef(b"garbage")))
        answers = [b"\xc1 no answer", b"", bytes(damaged), of_another, no_outputs]
        server.rpush(keys.results(job.id), *answers)
        wait_until(lambda: job.ledger.damaged == len(answers), "they are dropped")

    np.testing.assert_array_equal(_result(job), ROWS[:3] * 2)
    job.ledger.check()


def test_cancel_drops_queued_chunks_unrun(held_system: System, worker: Worker, client: Client) -> None:
    with holding(held_system.folder, ROWS[2, 0]):
        job = client.submit("held", ROWS, chunk_rows=1)
        wait_until(lambda: job.ledger.chunks_answered == 2 and held_child(held_system.folder), "the job runs")
        job.cancel()
        with pytest.raises(JobCancelledError, match=f"job {job.id} was cancelled; 2 of 12 rows were predicted"):
            _result(job)
    job.ledger.check()
    assert job.ledger.skipped == 12 - job.ledger.predicted > 0
    sent = job.ledger.chunks_sent
    wait_until(lambda: len(_endings(worker, job.id)) == sent, "every chunk that was sent has come to its end")
    dropped = [ending for ending in _endings(worker, job.id) if ending.startswith("'dropped chunk ")]
    assert dropped
    # One was running; everything else that had no answer was dropped.
    assert sent - job.ledger.chunks_answered - len(dropped) <= 1


def test_chunks_of_a_job_that_nobody_knows_are_dropped_unrun(
    held_system: System, worker: Worker, server: redis.Redis
) -> None:
    (slot,) = held_system.slots()
    message = _message([ModelRef("held", slot.models[0].digest)])
    channel = BrokerChannel(held_system.url, held_system.settings(), UNKNOWN_JOB)

    channel.publish([(slot.queue, message)])
    channel.close()

    (ending,) = wait_until(lambda: _endings(worker, UNKNOWN_JOB), "the chunk has come to its end")
    assert ending == f"'dropped {message}: the job is over'"
    assert not server.exists(keys.results(UNKNOWN_JOB))


def test_a_batch_too_large_for_any_memory_fails_and_the_worker_lives_on(system: System, special_models: Path) -> None:
    worker = system.start_ready_worker(special_models / "greedy.toml", 1)
    (slot,) = system.slots()
    with Client(system.url) as client:
        with pytest.raises(RowsFailedError, match="row 0 failed at infer: "):
            client.predict("greedy", np.array([2**48]))

        np.testing.assert_array_equal(client.predict("greedy", np.array([1, 2, 3])), [1, 2, 3])
    assert system.slots() == [slot], "not even the child died"
    assert worker.process.poll() is None


@pytest.mark.parametrize("where", ["model", "reply"])
def test_a_memory_error_becomes_an_answer_and_never_leaves_the_task(
    held_system: System, server: redis.Redis, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def call(_: object) -> dict[str, np.ndarray]:
        raise MemoryError("Unable to allocate 1 PiB")

    spec = TensorSpec("rows", "float32", (None, 4))
    runner = ModelRunner("held", call, BatchSize(1))
    model = LoadedModel(ModelInfo("held", "digest", 1, [spec], [spec], 0.0, 0), runner)
    model_cache = ModelCache([])
    monkeypatch.setattr(model_cache, "get", lambda *_: model)
    child = Child("here", 0, model_cache, server, PayloadStore(server, 60, Places(), SEALER))
    if where == "reply":
        monkeypatch.setattr(execute_chunk, "run_chunk", call_with_any_arguments(call))
    message = _message([ModelRef("held", "digest")])
    job_store.create(server, JobRecord(UNKNOWN_JOB, ["held"], "?", "redis", 1, 0.0, 0.0, "?", {}), SEALER, 60)
    server.hset(keys.UNACKED, "tag", "")

    told = execute_chunk.run_message(child, to_args(message, "celeriac.q", SEALER), "celeriac.q", "tag")

    answer = opened_answer(UNKNOWN_JOB, cast("bytes", server.lpop(keys.results(UNKNOWN_JOB))))
    assert isinstance(answer, Failure)
    assert answer.record.type == "MemoryError"
    assert answer.record.text == "Unable to allocate 1 PiB"
    assert "MemoryError" in told
    server.delete(keys.job(UNKNOWN_JOB))


def _result(job: Job) -> Any:
    """The predictions of a job that must end, one way or the other."""
    wait_for_job(job)
    return job.result()


def call_with_any_arguments(function: Any) -> Any:
    return lambda *arguments: function(arguments)


def _message(models: list[ModelRef]) -> ChunkMessage:
    """The one chunk of a job that does not exist."""
    payload = rows_ref(UNKNOWN_JOB, 0, ROWS[:1])
    return ChunkMessage(MESSAGE_VERSION, UNKNOWN_JOB, 0, 0, 1, 1, models, payload)


def _kill_the_child_that_is_held(system: System, job: Job) -> int:
    """Kill the one child in the middle of a chunk; return what was its pid, or 0 if the job is over."""
    pid = wait_until(lambda: job.state is not JobState.RUNNING or held_child(system.folder), "a child runs a chunk")
    if job.state is not JobState.RUNNING:
        return 0
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the child is dead")
    return pid


def _endings(worker: Worker, job_id: str) -> list[str]:
    """What the worker's log says at the end of each of a job's chunks."""
    endings = re.findall(r"Task celeriac\.infer\[[^]]+\] succeeded in [^ ]+s: (.*)", worker.output())
    return [ending for ending in endings if job_id in ending]
