"""Predictions through two and through four children: as one process gives them, in order, with nothing left behind."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from producer import Client, Job, JobState
from producer.records import timeline_store
from producer.records.job_store import read
from producer.rows.readers import BatchReader
from producer.scheduling.window import CHUNKS_PER_SLOT
from producer.sources import from_rows
from tasks.models.model_version import model_digest
from tasks.protocol import keys
from tasks.protocol.messages import STAGES
from tests.models import in_one_process
from tests.seals import SEALER
from tests.systems import System, queued_messages, serving
from tests.waiting import wait_for_job, wait_until
from worker_config.broker import KEY_PREFIX, QUEUE
from worker_config.errors import InputError, UsageError

ROWS = 300
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# Celery's own keys: they carry the prefix, and a time to live only where Celery gives one.
OF_CELERY = re.compile(rf"{KEY_PREFIX}({QUEUE}\.|_kombu\.|unacked|.*\.pidbox$|celeryev)")


@pytest.fixture(scope="module", params=[2, 4], ids=["2 children", "4 children"])
def children(request: pytest.FixtureRequest) -> int:
    return cast("int", request.param)


@pytest.fixture(scope="module")
def cluster(children: int, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, models / "models.toml", children) as system:
        yield system


@pytest.fixture(scope="module")
def client(cluster: System) -> Iterator[Client]:
    with Client(cluster.url) as client:
        yield client


@pytest.fixture
def server(cluster: System) -> Iterator[redis.Redis]:
    with cluster.admin() as server:
        yield server


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).random((ROWS, 64), np.float32)


@pytest.fixture(scope="module")
def sides() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {"left": random.random((ROWS, 4), np.float32), "right": random.integers(0, 10, (ROWS, 3), np.int32)}


@pytest.fixture(scope="module")
def scores(models: Path, pixels: np.ndarray) -> np.ndarray:
    return cast("np.ndarray", in_one_process(models / "digits.keras", pixels))


@pytest.fixture(scope="module")
def wide_and_narrow(models: Path, sides: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return cast("dict[str, np.ndarray]", in_one_process(models / "pair.keras", sides))


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, ROWS])
@pytest.mark.parametrize("model", ["digits", "digits_h5", "digits_saved"])
def test_any_chunk_size_gives_what_one_process_gives(
    client: Client, pixels: np.ndarray, scores: np.ndarray, model: str, chunk_rows: int
) -> None:
    job = client.submit(model, pixels, chunk_rows=chunk_rows)

    predictions = job.result()

    assert isinstance(predictions, np.ndarray)
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(predictions, scores, **CLOSE)
    job.ledger.check()
    assert job.ledger.chunks_answered == -(-ROWS // chunk_rows)
    assert job.state is JobState.DONE


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, ROWS])
@pytest.mark.parametrize("model", ["pair", "pair_saved"])
def test_two_inputs_give_two_outputs_in_any_chunk_size(
    client: Client,
    sides: dict[str, np.ndarray],
    wide_and_narrow: dict[str, np.ndarray],
    model: str,
    chunk_rows: int,
) -> None:
    predictions = client.predict(model, sides, chunk_rows=chunk_rows)

    assert isinstance(predictions, dict)
    assert set(predictions) == {"wide", "narrow"}
    for name, expected in wide_and_narrow.items():
        np.testing.assert_allclose(predictions[name], expected, **CLOSE)


def test_several_models_run_in_one_job(client: Client, pixels: np.ndarray, scores: np.ndarray) -> None:
    names = ["digits", "digits_h5", "digits_saved"]

    job = client.submit(names, pixels, chunk_rows=64)
    predictions = job.result()

    assert isinstance(predictions, dict)
    assert list(predictions) == names
    for name in names:
        np.testing.assert_allclose(predictions[name], scores, **CLOSE)
    assert job.ledger.predicted == ROWS
    assert job.ledger.chunks_sent == 5, "each chunk travels once, however many models"


def test_zero_rows_give_zero_predictions_of_the_model_s_shape(client: Client, sides: dict[str, np.ndarray]) -> None:
    one = client.predict("digits", np.empty((0, 64), np.float32))
    two = client.predict("pair", {name: array[:0] for name, array in sides.items()})

    assert isinstance(one, np.ndarray)
    assert (one.shape, one.dtype) == ((0, 10), np.float32)
    assert isinstance(two, dict)
    assert {name: array.shape for name, array in two.items()} == {"wide": (0, 6), "narrow": (0, 1)}


def test_submit_returns_while_the_job_has_yet_to_run(
    cluster: System, client: Client, pixels: np.ndarray, scores: np.ndarray
) -> None:
    with cluster.standing_still():
        job = client.submit("digits", pixels)
        wait_until(lambda: job.progress().in_flight, "chunks are sent")
        assert job.state is JobState.RUNNING
        assert job.progress().predicted == 0

    np.testing.assert_allclose(job.result(), scores, **CLOSE)


def test_parts_come_in_order_with_their_rows(client: Client, pixels: np.ndarray, scores: np.ndarray) -> None:
    job = client.submit("digits", pixels, chunk_rows=7)

    parts = list(job.parts())

    assert [part.index for part in parts] == list(range(43))
    assert [(part.start, part.stop) for part in parts] == [(at, min(at + 7, ROWS)) for at in range(0, ROWS, 7)]
    for part in parts:
        np.testing.assert_allclose(part.outputs, scores[part.start : part.stop], **CLOSE)
    job.ledger.check()


@pytest.mark.parametrize("first_row", [1, 64, ROWS - 1])
@pytest.mark.parametrize("form", ["sliced", "read in order", "of unknown length"])
def test_a_job_may_begin_at_any_row(
    client: Client, pixels: np.ndarray, scores: np.ndarray, form: str, first_row: int
) -> None:
    read = BatchReader("pixels", ROWS if form == "read in order" else None, lambda: (half for half in halves))
    halves = np.array_split(pixels, 2)
    job = client.submit("digits", pixels if form == "sliced" else read, chunk_rows=100, first_row=first_row)

    parts = list(job.parts())

    ends = [first_row, *range(first_row + 100, ROWS, 100), ROWS]
    assert [(part.index, part.start, part.stop) for part in parts] == [
        (index, *rows) for index, rows in enumerate(pairwise(ends))
    ]
    np.testing.assert_allclose(np.concatenate([part.outputs for part in parts]), scores[first_row:], **CLOSE)
    job.ledger.check()
    assert (job.ledger.rows, job.ledger.predicted, job.ledger.written) == (ROWS, ROWS, ROWS)
    assert (job.ledger.resumed, job.ledger.chunks_answered) == (first_row, len(parts))


def test_the_result_of_a_job_that_began_later_has_the_rows_from_there_on(
    client: Client, pixels: np.ndarray, scores: np.ndarray
) -> None:
    result = client.submit("digits", pixels, chunk_rows=64, first_row=100).result()

    np.testing.assert_allclose(result, scores[100:], **CLOSE)


@pytest.mark.parametrize("known", [True, False])
def test_a_job_that_begins_at_the_end_sends_no_chunk(client: Client, pixels: np.ndarray, known: bool) -> None:
    data: Any = pixels if known else from_rows(iter(pixels))
    job = client.submit("digits", data, first_row=ROWS)

    assert list(job.parts()) == []
    wait_for_job(job)
    assert job.state is JobState.DONE
    job.ledger.check()
    assert (job.ledger.rows, job.ledger.resumed, job.ledger.chunks_sent) == (ROWS, ROWS, 0)


def test_a_first_row_that_there_is_not_is_refused(client: Client, pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"first_row is -1; it must be at least 0, and at most 300"):
        client.submit("digits", pixels, first_row=-1)
    with pytest.raises(UsageError, match=r"first_row is 301; it must be at least 0, and at most 300"):
        client.submit("digits", pixels, first_row=ROWS + 1)
    job = client.submit("digits", from_rows(iter(pixels), label="pixels"), first_row=ROWS + 1)
    with pytest.raises(InputError, match="pixels: has 300 rows, the job was to begin at row 301"):
        job.result()
    job.ledger.check(handed_over=False)


def test_the_digests_of_models_are_those_that_a_job_is_pinned_to(
    client: Client, pixels: np.ndarray, models: Path
) -> None:
    digests = client.digests(["digits", "pair"])

    assert digests == {name: model_digest(models / f"{name}.keras") for name in ("digits", "pair")}
    job = client.submit("digits", pixels)
    assert job.digests == {"digits": digests["digits"]}
    job.result()


def test_a_result_can_be_asked_for_again(client: Client, pixels: np.ndarray) -> None:
    job = client.submit("digits", pixels)

    first = job.result()

    np.testing.assert_array_equal(job.result(), first)
    assert job.ledger.written == ROWS


def test_a_result_is_refused_when_parts_of_it_were_taken_and_the_others_stay(
    client: Client, pixels: np.ndarray
) -> None:
    job = client.submit("digits", pixels, chunk_rows=ROWS // 4)
    first = next(job.parts())
    with pytest.raises(UsageError, match=rf"^job {job.id}: its parts have been taken by parts\(\), and come only once"):
        job.result()
    assert sum(part.rows for part in (first, *job.parts())) == ROWS
    with pytest.raises(UsageError, match="taken by parts"):
        job.result()
    assert job.ledger.written == ROWS


def test_a_large_payload_waits_in_redis_and_its_message_stays_small(
    cluster: System, client: Client, server: redis.Redis
) -> None:
    rows = np.random.default_rng(3).random((6 * 400, 64), np.float32)  # 100 KiB a chunk
    with cluster.standing_still():
        job = client.submit("digits", rows, chunk_rows=400)
        messages = queued_messages(server, job.id, 6)
        payloads = _keys(server, keys.payload(job.id, 0)[:-1] + "*")

        assert max(map(len, messages)) < 4096
        assert payloads == sorted(keys.payload(job.id, index) for index in range(6))
        assert all(server.strlen(key) > 100_000 for key in payloads)
        assert all(cast("int", server.ttl(key)) > 0 for key in payloads)

    assert np.shape(job.result()) == (2400, 10)


def test_a_small_payload_rides_in_its_message(
    cluster: System, client: Client, server: redis.Redis, pixels: np.ndarray
) -> None:
    with cluster.standing_still():
        job = client.submit("digits", pixels, chunk_rows=50)
        messages = queued_messages(server, job.id, 6)

        assert min(map(len, messages)) > 50 * 64 * 4
        assert set(_keys(server, keys.job(job.id) + ":*")) <= {keys.timeline(job.id)}

    assert np.shape(job.result()) == (ROWS, 10)


def test_a_message_says_in_words_which_rows_it_is_about(
    cluster: System, client: Client, server: redis.Redis, pixels: np.ndarray
) -> None:
    with cluster.standing_still():
        job = client.submit("digits", pixels, chunk_rows=50)
        headers = [json.loads(message)["headers"] for message in queued_messages(server, job.id, 6)]

        wanted = re.compile(rf"chunk \d/6 rows \d+-\d+ of job {job.id}, digits@[0-9a-f]{{8}}")
        assert all(wanted.fullmatch(header["argsrepr"]) for header in headers)

        adaptive = client.submit("digits", pixels)
        (header, *_) = [json.loads(message)["headers"] for message in queued_messages(server, adaptive.id, 1)]
        assert re.match(rf"chunk \d rows \d+-\d+ of job {adaptive.id}", header["argsrepr"]), "it may be cut otherwise"

    job.result()


def test_a_job_leaves_its_record_and_timeline_alone_behind_and_these_not_for_ever(
    client: Client, server: redis.Redis, pixels: np.ndarray
) -> None:
    job = client.submit("digits", np.repeat(pixels, 8, axis=0), chunk_rows=400)
    job.result()
    wait_for_job(job)

    assert _keys(server, keys.job(job.id) + "*") == [keys.job(job.id), keys.timeline(job.id)]
    assert all(0 < cast("int", server.ttl(key(job.id))) <= 86_400 for key in (keys.job, keys.timeline))
    state, record = read(server, job.id, SEALER)
    assert state is JobState.DONE
    assert record.ledger == job.ledger.as_dict() | {"written": record.ledger["written"]}


def test_a_job_that_has_ended_is_gone_with_whoever_held_it(client: Client, pixels: np.ndarray) -> None:
    jobs = [client.submit("digits", pixels[:20]) for _ in range(3)]
    known = [weakref.ref(job) for job in jobs]
    for job in jobs:
        job.result()
    del job, jobs
    # No other job is submitted meanwhile, nor is the client closed.
    wait_until(lambda: gc.collect() >= 0 and not any(one() for one in known), "the jobs are gone")


def test_predictions_leave_no_object_behind(client: Client, pixels: np.ndarray) -> None:
    def objects_after(calls: int) -> int:
        for _ in range(calls):
            client.predict("digits", pixels[:20])
        # The last one's thread may hold some for a moment.
        wait_until(lambda: not client._jobs, "the jobs have ended")
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(5)
    # A job is hundreds of objects; some caches hold a few things by job.
    assert objects_after(60) < before + 5 * 60


def test_every_key_of_ours_has_a_time_to_live_during_a_job_and_after_it(
    cluster: System, client: Client, server: redis.Redis
) -> None:
    rows = np.random.default_rng(4).random((20 * 400, 64), np.float32)
    with cluster.standing_still():
        job = client.submit("digits", rows, chunk_rows=400)
        queued_messages(server, job.id, CHUNKS_PER_SLOT * len(cluster.slots()))
        assert _immortal_keys(server) == []

    for _ in job.parts():
        assert _immortal_keys(server) == []
    wait_for_job(job)
    assert _immortal_keys(server) == []


def test_what_is_in_flight_is_bounded_by_the_window_not_by_the_data_set(
    cluster: System, client: Client, server: redis.Redis, children: int
) -> None:
    rows = np.random.default_rng(5).random((100 * 400, 64), np.float32)
    window = CHUNKS_PER_SLOT * children
    with cluster.standing_still():
        job = client.submit("digits", rows, chunk_rows=400)
        wait_until(lambda: _payloads(server, job) == window, "the window is full")
        # The job's thread writes its record once in every round: two rounds more, and nothing was added.
        for _ in range(2):
            written = read(server, job.id, SEALER)[1].updated_at
            wait_until(lambda before=written: read(server, job.id, SEALER)[1].updated_at > before, "the job goes round")
        assert _payloads(server, job) == window
        assert job.progress().in_flight == window

    while not job.wait(timeout_seconds=0):
        assert _payloads(server, job) <= window
    assert np.shape(job.result()) == (40_000, 10)
    assert _payloads(server, job) == 0


def _keys(server: redis.Redis, pattern: str) -> list[str]:
    return sorted(key.decode() for key in server.scan_iter(pattern, count=1000))


def _payloads(server: redis.Redis, job: Job) -> int:
    return len(_keys(server, f"{keys.job(job.id)}:payload:*"))


def _immortal_keys(server: redis.Redis) -> list[str]:
    """Keys that are not Celery's own and have no time to live; a key that is gone has -2."""
    ours = [key for key in _keys(server, "*") if not OF_CELERY.match(key)]
    return [key for key in ours if cast("Any", server.ttl(key)) == -1]


def test_the_stages_of_slots_add_up_to_their_time(running_system: System) -> None:
    rows = np.random.default_rng(3).random((60_000, 64), np.float32)
    with Client(running_system.url) as client:
        client.predict("digits", rows[:1_000])
        job = client.submit("digits", rows, chunk_rows=500)
        job.result()
        slots, seconds = job.progress().slots, job.progress().seconds
    assert set(job.stages) <= set(STAGES)
    assert job.stages["infer"] > 0
    with running_system.admin() as server:
        found = timeline_store.read(server, job.id)
    assert found is not None
    answers = found[1]
    for stage in set(job.stages) - {"wait"}:
        assert job.stages[stage] == pytest.approx(sum(entry.stages.get(stage, 0.0) for entry in answers), abs=1e-3)
    assert job.stages["wait"] <= slots * seconds
    # From each slot's first answer to its last no moment is missing, or counted twice: what came before and after
    # them depends on what else the machine does.
    for slot in {entry.slot for entry in answers}:
        first, *others = sorted((entry for entry in answers if entry.slot == slot), key=lambda entry: entry.begun_at)
        if others:
            passed = others[-1].begun_at + others[-1].seconds - first.begun_at - first.seconds
            assert sum(sum(entry.stages.values()) for entry in others) == pytest.approx(passed, rel=0.05, abs=0.05)
