"""Two releases whose messages differ, on one Redis: whoever meets the other one says so, and nothing is misread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from producer import Client
from producer.job import dispatcher
from producer.records import job_store
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import MESSAGE_VERSION, TASK_NAME, WRITTEN_VERSION, Failure, OnError, Outputs, to_plain
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import answer_context, record_context
from tasks.transport import resend_detached, worker_registry
from tests.chunks import Chunks, chunks_of, outputs_of
from tests.held import write_held_models
from tests.manifests import write_manifest
from tests.seals import SEALER, outputs_ref, sealed_answer
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.celery_app import make_app
from worker_config.errors import CeleriacError, ExitCode, RowsFailedError, VersionError
from worker_config.retry_policy import MAX_SENDS

ROWS = np.arange(32, dtype=np.float32).reshape(8, 4)
JOB = "0123456789ab"
OTHER, OLDER = MESSAGE_VERSION + 1, WRITTEN_VERSION - 1
BOTH = f"message version {OTHER}, only {MESSAGE_VERSION} is understood here; run the same release of Celeriac on both"
# What a release has that ours does not know.
MORE = {"more": {"of": [1, 2.5, None]}}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, write_manifest(folder, write_held_models(folder)), 1) as system:
        yield system


@pytest.fixture
def chunks(system: System) -> Iterator[Chunks]:
    with chunks_of(system, JOB) as chunks:
        yield chunks


# The worker's side.


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([OTHER, JOB, 3, "in a form that nobody knows", {"more": 1}], id="later"),
        pytest.param([{"version": 1, "job": JOB, "index": 3, "rows": "?"}], id="first"),
    ],
)
def test_a_message_of_another_version_is_answered_and_not_run(system: System, chunks: Chunks, args: list[Any]) -> None:
    with make_app(system.settings()) as app:
        app.send_task(TASK_NAME, args=args, argsrepr="?", kwargsrepr="{}", queue=chunks.queue, ignore_result=True)
    answer = chunks.next_answer()
    assert isinstance(answer, Failure)
    assert (answer.index, answer.record.stage, answer.record.type) == (3, "message", "VersionError")
    version = OTHER if args[0] == OTHER else 1
    assert answer.record.text.startswith(f"chunk 3 of job {JOB} has message version {version}, only {MESSAGE_VERSION} ")
    assert not chunks.noted()
    # The worker goes on.
    np.testing.assert_array_equal(outputs_of(chunks.run(chunks.message("held", ROWS))), ROWS * 2)


@pytest.mark.parametrize("on_error", ["raise", "skip", "fill"])
def test_a_job_whose_messages_no_worker_understands_ends_with_one_line(
    system: System, client: Client, monkeypatch: pytest.MonkeyPatch, on_error: OnError
) -> None:
    monkeypatch.setattr(dispatcher, "WRITTEN_VERSION", OTHER)
    job = client.submit("held", ROWS, chunk_rows=2, on_error=on_error)
    with pytest.raises(VersionError) as ended:
        job.result()
    assert BOTH in str(ended.value)
    assert "\n" not in str(ended.value)
    assert job.ledger.predicted == job.ledger.written == 0


def test_a_detached_job_whose_messages_no_worker_understands_fails_with_both_versions(
    system: System, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend_detached, "WRITTEN_VERSION", OTHER)
    job = client.attach(client.submit("held", ROWS, detach=True))
    with pytest.raises(CeleriacError) as ended:
        job.result()
    assert BOTH in str(ended.value)
    assert "\n" not in str(ended.value)


# The producer's side.


@pytest.mark.parametrize("on_error", ["raise", "fill"])
def test_answers_of_another_version_are_not_joined(
    system: System, client: Client, server: redis.Redis, on_error: OnError
) -> None:
    with system.standing_still():
        job = client.submit("held", ROWS, chunk_rows=4, on_error=on_error)
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        first, second = (
            sealed_answer(Outputs(job.id, n, 4 * n, 4 * n + 4, "w", 0.1, outputs_ref(job.id, n, ROWS[4 * n :][:4] * 2)))
            for n in range(2)
        )
        server.rpush(keys.results(job.id), second)
        for times in range(1, MAX_SENDS + 1):
            server.rpush(keys.results(job.id), first[:2] + bytes((OTHER,)) + first[3:])
            wait_until(lambda times=times: job.ledger.damaged == times, "it is looked at")
        if on_error == "fill":
            outputs = job.result()
            assert np.isnan(outputs[:4]).all()
            np.testing.assert_array_equal(outputs[4:], ROWS[4:] * 2)
        else:
            with pytest.raises(RowsFailedError, match=f"has seal version {OTHER}, only 2 is understood here; run"):
                job.result()
        (failure,) = job.failures()
    assert (failure.start, failure.stop) == (0, 4)
    assert (job.ledger.predicted, job.ledger.failed) == (4, 4)


def test_slots_that_do_not_understand_are_not_used(system: System, client: Client, server: redis.Redis) -> None:
    (slot,) = system.slots()
    other = of_another_release(slot, OLDER)
    worker_registry.register_slots(server, [other])
    try:
        np.testing.assert_array_equal(client.predict("held", ROWS, chunk_rows=1), ROWS * 2)
        assert other in system.slots()
        assert not server.exists(keys.queue(other.queue))
    finally:
        worker_registry.deregister(server, other.worker)


def test_with_workers_that_do_not_understand_alone_a_command_ends_with_one_line(
    system: System, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (slot,) = system.slots()
    with serving(tmp_path_factory.mktemp("s")) as empty:
        np.save(empty.folder / "rows.npy", ROWS)
        with empty.admin() as server:
            worker_registry.register_slots(server, [of_another_release(slot, OLDER)])
            ended = empty.celeriac("predict", "held", "rows.npy", "-o", "out.npy", "--worker-timeout-seconds", "0.1")
    assert ended.returncode == ExitCode.NO_WORKER
    assert (
        f"the workers understand message version {OLDER}, and this process writes {WRITTEN_VERSION}; run the same"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


# Releases that differ, and understand each other.


def test_a_worker_runs_a_message_with_fields_that_it_does_not_know_and_without_those_that_have_defaults(
    system: System, chunks: Chunks
) -> None:
    message = to_plain(chunks.message("held", ROWS, index=5))
    needed = {name: message[name] for name in ("version", "job", "index", "start", "stop", "chunks", "models", "ref")}
    for number, plain in enumerate((message | MORE, needed, needed | MORE)):
        plain["models"] = [{**model, **MORE} for model in plain["models"]]
        plain["ref"] = {**plain["ref"], **MORE}
        sealed = SEALER.seal_bytes(f"chunk/{JOB}/5/{chunks.queue}", msgspec.msgpack.encode(plain))
        with make_app(system.settings()) as app:
            args = [message["version"], JOB, 5, sealed]
            app.send_task(TASK_NAME, args=args, argsrepr="?", kwargsrepr="{}", queue=chunks.queue, ignore_result=True)
        np.testing.assert_array_equal(outputs_of(chunks.next_answer()), ROWS * 2, err_msg=str(number))


def test_answers_slots_and_jobs_with_fields_that_are_not_known_are_joined_used_and_shown(
    system: System, client: Client, server: redis.Redis
) -> None:
    (slot,) = system.slots()
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(slot))
    known["models"] = [
        {**model, **MORE, "inputs": [{**one, **MORE} for one in model["inputs"]]} for model in known["models"]
    ]
    server.hset(keys.worker(slot.worker), str(slot.slot), msgspec.msgpack.encode(known | MORE))
    assert system.slots() == [slot]
    with system.standing_still():
        job = client.submit("held", ROWS, chunk_rows=8)
        wait_until(lambda: server.exists(keys.job(job.id)), "the job has begun")
        outputs = to_plain(Outputs(job.id, 0, 0, 8, "w", 0.1, outputs_ref(job.id, 0, ROWS * 2)))
        outputs["ref"] = {**outputs["ref"], **MORE}
        answer = SEALER.seal_bytes(answer_context(job.id), msgspec.msgpack.encode(outputs | MORE))
        server.rpush(keys.results(job.id), answer)
        np.testing.assert_array_equal(job.result(), ROWS * 2)
    state, record = job_store.read(server, job.id, SEALER)
    plain = {**msgspec.to_builtins(record), **MORE}
    sealed = SEALER.seal_bytes(record_context(job.id), msgspec.json.encode(plain))
    server.hset(keys.job(job.id), mapping={JobField.RECORD: sealed, "of_another_release": "1"})
    assert job_store.read(server, job.id, SEALER) == (state, record)


def of_another_release(slot: SlotRecord, version: int) -> SlotRecord:
    """The same slot, of another worker, as another release tells of it."""
    return msgspec.structs.replace(slot, worker="other@here:0", queue="celeriac.other", message_version=version)
