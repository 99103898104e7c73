"""Data that turn out to be damaged midway: all rows before come, in order, then one error; nothing is left behind."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from producer import Client, Job, JobState
from producer.broker.broker_channel import BrokerChannel
from producer.records import job_store
from producer.rows.part import Part
from tasks.protocol import keys
from tasks.protocol.messages import (
    MESSAGE_VERSION,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    ModelRef,
    OnError,
    Outputs,
    RedisRef,
    SliceRef,
)
from tasks.protocol.records import JobRecord
from tests.damages import CHUNK_ROWS, DAMAGES, Damage, parquet_with_a_null
from tests.data_sets import PIXELS, ROWS, SIDES
from tests.file_limits import limit_files
from tests.seals import SEALER, push
from tests.systems import System
from tests.waiting import wait_for_job, wait_until
from worker_config.errors import InputError, RowsFailedError

JOB = "0123456789ab"


@pytest.fixture(scope="module")
def system(kinds_system: System) -> System:
    return kinds_system


def check_ends_after(system: System, job: Job, rows: int, error: type[Exception], *words: str) -> None:
    """Parts of the first `rows` rows come one after another, then the error, and nothing of the job is left."""
    parts: list[Part] = []
    with pytest.raises(error) as caught:
        parts.extend(job.parts())
    came = parts[-1].stop if parts else 0
    assert came == rows
    assert [(part.index, part.start) for part in parts] == [(i, i * CHUNK_ROWS) for i in range(len(parts))]
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    wait_for_job(job)
    assert job.state is JobState.FAILED
    assert job.ledger.written == came <= job.ledger.predicted
    assert job.ledger.rows == job.ledger.predicted + job.ledger.failed + job.ledger.skipped
    check_nothing_is_left(system, job.id)


def check_nothing_is_left(system: System, job_id: str) -> None:
    wait_until(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("celeriac-")],
        "the job's threads have ended",
    )
    assert not (system.folder / "spool" / job_id).exists()
    with system.admin() as server:
        # What `celeriac failures` and `report` show stays as long as the record.
        stay = {key(job_id).encode() for key in (keys.job, keys.failures, keys.timeline)}
        wait_until(lambda: set(server.scan_iter(f"{keys.job(job_id)}*")) <= stay, "keys go")
        assert job_store.read(server, job_id, SEALER)[1].error


# --- what the producer reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["redis", "files"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: getattr(damage.make, "__name__", "own"))
def test_what_comes_before_the_damage_is_handed_over(
    system: System, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, store: Any
) -> None:
    monkeypatch.setattr("producer.broker.broker_channel.MAX_INLINE_BYTES", 0)  # small rows would ride in the message
    job = client.submit(damage.model, damage.make(tmp_path), chunk_rows=CHUNK_ROWS, store=store)

    check_ends_after(system, job, damage.rows, InputError, *damage.words)


@pytest.mark.parametrize("policy", ["skip", "fill"])
def test_a_text_that_is_none_fails_alone(client: Client, policy: OnError) -> None:
    texts = np.array([f"text {row}" for row in range(ROWS)], object)
    whole = np.asarray(client.predict("texts", texts))
    texts[[3, 29]] = None, "half a surrogate \ud800"

    job = client.submit("texts", texts, chunk_rows=CHUNK_ROWS, on_error=policy)

    outputs, kept = np.asarray(job.result()), np.delete(np.arange(ROWS), [3, 29])
    np.testing.assert_array_equal(outputs if policy == "skip" else outputs[kept], whole[kept])
    assert [(one.start, one.stage, one.text.split(",")[0]) for one in job.failures()] == [
        (3, "read", "row 3 is or holds null; fill nulls before"),
        (29, "read", "it is a text with a lone surrogate"),
    ]


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize("chunk_rows", [1, CHUNK_ROWS])
def test_a_row_with_a_null_fails_alone(client: Client, tmp_path: Path, on_error: OnError, chunk_rows: int) -> None:
    whole: Any = client.predict("pair", SIDES)
    job = client.submit("pair", parquet_with_a_null(tmp_path), chunk_rows=chunk_rows, on_error=on_error)

    outputs: Any = job.result()

    (record,) = job.failures()
    assert (record.start, record.stop, record.stage, record.value) == (29, 30, "read", "")
    assert record.text.startswith(f"{tmp_path / 'nulls.parquet'}: column 'left': row 29 is or holds null; fill nulls")
    kept = np.arange(ROWS) != 29
    assert outputs.keys() == whole.keys()
    for name, array in outputs.items():
        np.testing.assert_allclose(array if on_error == "skip" else array[kept], whole[name][kept], rtol=1e-6)
        assert on_error == "skip" or np.isnan(array[29]).all()
    assert (job.ledger.predicted, job.ledger.failed, job.ledger.nonfinite_inputs) == (ROWS - 1, 1, 0)


# --- what workers read ----------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    other = path.with_name("other.npy")
    np.save(other, np.zeros((MANY_ROWS, 64), np.float32))
    other.replace(path)


MANY_ROWS = 100_000


@pytest.mark.parametrize("store", ["redis", "files", "slices"])
@pytest.mark.parametrize(("change", "words"), [(cut_short, "has been cut short"), (replaced, "has changed")])
def test_a_file_that_changes_during_a_job_is_never_mixed_with_itself(
    system: System, client: Client, change: Callable[[Path], None], words: str, store: Any
) -> None:
    path = system.folder / "data" / "changes.npy"
    rows = np.random.default_rng(8).random((MANY_ROWS, 64), np.float32)
    np.save(path, rows)
    expected = client.predict("digits", rows)
    job = client.submit("digits", path, chunk_rows=500, store=store)
    parts = [next(job.parts())]
    with system.standing_still():
        change(path)
    with pytest.raises(InputError, match=rf"changes\.npy: {words} since it was opened; rows \d+-\d+ .*leave the file"):
        parts.extend(job.parts())

    wait_for_job(job)
    assert [part.index for part in parts] == list(range(len(parts)))
    assert 0 < parts[-1].stop < MANY_ROWS
    whole = np.concatenate([cast("np.ndarray", part.outputs) for part in parts])
    np.testing.assert_allclose(whole, expected[: len(whole)], rtol=1e-5, atol=1e-6)
    check_nothing_is_left(system, job.id)


def test_rows_that_fail_wait_for_those_before_them(system: System, client: Client, server: redis.Redis) -> None:
    with system.standing_still():
        job = client.submit("digits", PIXELS, chunk_rows=CHUNK_ROWS)
        wait_until(lambda: job.progress().in_flight >= 5, "chunks are sent")
        for index in (4, 2):
            record = FailureRecord(
                index * CHUNK_ROWS, (index + 1) * CHUNK_ROWS, "infer", "ValueError", f"chunk {index}"
            )
            push(server, Failure(job.id, index, "w/1", record), 60)
        wait_until(lambda: job.progress().failed == 2 * CHUNK_ROWS, "they have failed")
        assert not job.wait(timeout_seconds=0)
        assert job.ledger.predicted == 0

    check_ends_after(system, job, 2 * CHUNK_ROWS, RowsFailedError, "rows 16-24 failed at infer: ValueError: chunk 2")
    assert len(job.failures()) == 2


# --- a spool folder that is full ------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["producer", "worker"])
def test_a_spool_folder_that_is_full_gives_way_to_redis(
    system: System, client: Client, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    rows = {name: np.tile(array, (200, 1)) for name, array in SIDES.items()}
    expected = client.predict("pair", rows)
    refs: list[Any] = []
    take, put = BrokerChannel.take_answers, BrokerChannel.put

    def take_and_note(*words: Any) -> Any:
        answers = take(*words)
        refs.extend(answer.ref for answer in answers if isinstance(answer, Outputs))
        return answers

    monkeypatch.setattr(BrokerChannel, "take_answers", take_and_note)
    monkeypatch.setattr(BrokerChannel, "put", lambda *words, **options: refs.append(put(*words, **options)) or refs[-1])
    pids = [os.getpid()] if full == "producer" else [slot.pid for slot in system.slots()]
    try:
        for pid in pids:
            limit_files(pid, 50_000)
        job = client.submit("pair", rows, chunk_rows=4_000, store="files")
        predictions = cast("dict[str, np.ndarray]", job.result())
    finally:
        for pid in pids:
            limit_files(pid, resource.RLIM_INFINITY)
    for name, array in cast("dict[str, np.ndarray]", expected).items():
        np.testing.assert_allclose(predictions[name], array, rtol=1e-5, atol=1e-6)
    wait_for_job(job)
    ways = [type(ref) for ref in refs]
    assert (ways.count(FileRef), ways.count(RedisRef)) == (3, 3), "one side by way of Redis, the other by files"
    check_nothing_of(system, job.id)


def check_nothing_of(system: System, job_id: str) -> None:
    assert not (system.folder / "spool" / job_id).exists()
    system.wait_until_nothing_is_left(job_id)


# --- refs that lead out of the roots --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["elsewhere", "by dots", "by a link", "by a link to a folder", "inside"])
def test_a_child_opens_no_file_outside_the_roots(
    system: System, client: Client, server: redis.Redis, tmp_path: Path, way: str
) -> None:
    data, secret = system.folder / "data", tmp_path / "secret.npy"
    np.save(secret, PIXELS)
    link, folder_link = data / f"{tmp_path.name}.npy", data / tmp_path.name
    link.symlink_to(secret)
    folder_link.symlink_to(tmp_path)
    inside = data / "inside.npy"
    np.save(inside, PIXELS)
    path = {
        "elsewhere": str(secret),
        "by dots": f"{data}/../{os.path.relpath(secret, data.parent)}",
        "by a link": str(link),
        "by a link to a folder": str(folder_link / "secret.npy"),
        "inside": str(inside),
    }[way]
    status = Path(path).stat()
    ref = SliceRef(path, status.st_size, status.st_mtime_ns, 128, "float32", (64,))

    answer = ask_a_child(system, server, ref)

    if way == "inside":  # so much for the message
        assert isinstance(answer, Outputs)
        return
    assert isinstance(answer, Failure)
    assert answer.record.stage == "fetch"
    assert answer.record.text == f"{path} is not under a folder of CELERIAC_DATA_ROOTS here"


def ask_a_child(system: System, server: redis.Redis, ref: Any) -> Any:
    """What a child answers to a message made by hand."""
    (model,) = (info for info in system.slots()[0].models if info.name == "digits")
    record = JobRecord(JOB, ["digits"], "by hand", "slices", 8, 0.0, 0.0, "a test", {})
    message = ChunkMessage(MESSAGE_VERSION, JOB, 0, 0, 8, 1, [ModelRef(model.name, model.digest)], ref)
    channel = BrokerChannel(system.url, system.settings(), JOB)
    try:
        job_store.create(server, record, SEALER, 60)
        channel.publish([(system.slots()[0].queue, message)])
        answers = wait_until(channel.take_answers, "the child answers")
        return answers[0]
    finally:
        channel.forget_job()
        server.delete(keys.job(JOB))
        channel.close()
