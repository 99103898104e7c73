"""Endless input through real workers: one prediction for each row, in order, with a bounded number of rows ahead."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from producer import Client, JobState
from producer.records.job_store import read_all
from producer.scheduling.window import SMALL_CHUNKS_PER_SLOT
from tasks.protocol.records import JobRecord
from tests.models import in_one_process
from tests.seals import SEALER
from tests.systems import System
from tests.waiting import descendants_of, wait_until
from worker_config.errors import InputError, RowsFailedError

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
CHUNK_ROWS = 5
# Chunks in flight or held back for order, and in the reading thread one chunk full, one half full, and one row.
CHUNKS_AHEAD = 2 * SMALL_CHUNKS_PER_SLOT + 2
PIXELS = np.random.default_rng(6).random((500, 64), np.float32)


@pytest.fixture
def client(running_system: System) -> Iterator[Client]:
    with Client(running_system.url) as client:
        yield client


class Counted:
    """An endless stream of rows that counts how many were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            self.read += 1
            yield PIXELS[(self.read - 1) % len(PIXELS)]


def test_every_row_of_a_generator_has_its_prediction_in_order(client: Client, models: Path) -> None:
    predictions = list(client.stream("digits", (row for row in PIXELS), chunk_rows=7))

    assert len(predictions) == len(PIXELS)
    np.testing.assert_allclose(predictions, in_one_process(models / "digits.keras", PIXELS), **CLOSE)


def test_a_generator_without_rows_gives_no_predictions(client: Client) -> None:
    assert list(client.stream("digits", iter(()))) == []


def test_rows_for_two_inputs_are_dicts_and_so_are_predictions(client: Client, models: Path) -> None:
    random = np.random.default_rng(7)
    left, right = random.random((40, 4), np.float32), random.integers(0, 10, (40, 3), np.int32)

    rows = ({"left": one, "right": other} for one, other in zip(left, right, strict=True))
    predictions = list(client.stream("pair", rows, chunk_rows=7))

    expected = in_one_process(models / "pair.keras", {"left": left, "right": right})
    for name in ("wide", "narrow"):
        np.testing.assert_allclose([prediction[name] for prediction in predictions], expected[name], **CLOSE)


def test_a_chunk_that_is_not_full_leaves_when_its_time_is_up(client: Client, models: Path) -> None:
    more = threading.Event()

    def rows() -> Iterator[np.ndarray]:
        yield from PIXELS[:3]
        more.wait(60)
        yield PIXELS[3]

    predictions = client.stream("digits", rows(), chunk_rows=64, max_delay=0.05)
    early = list(islice(predictions, 3))
    assert not more.is_set(), "three rows of 64 came back while the fourth was not there yet"
    more.set()
    late = list(predictions)

    np.testing.assert_allclose(early + late, in_one_process(models / "digits.keras", PIXELS[:4]), **CLOSE)


def test_an_endless_generator_is_read_so_far_ahead_of_the_workers_and_no_farther(
    running_system: System, client: Client
) -> None:
    worker = running_system.workers[0].pid
    stream = Counted()
    predictions = client.stream("digits", stream, chunk_rows=CHUNK_ROWS, max_delay=60)
    taken = list(islice(predictions, 20))  # the job runs
    os.killpg(worker, signal.SIGSTOP)
    try:
        for pid in (worker, *descendants_of(worker)):
            wait_until(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it stands still")
        # Rows go on being read for what was answered before; then nothing more.
        record = _record_when_reading_rests(running_system, stream)
        assert stream.read <= record.ledger["predicted"] + CHUNKS_AHEAD * CHUNK_ROWS + 1
    finally:
        os.killpg(worker, signal.SIGCONT)
    taken += islice(predictions, 200)
    assert len(taken) == 220
    predictions.close()


def test_an_endless_generator_is_not_read_on_while_nobody_takes_predictions(
    running_system: System, client: Client
) -> None:
    stream = Counted()
    predictions = client.stream("digits", stream, chunk_rows=CHUNK_ROWS)
    next(predictions)

    # Only what takes predictions lets rows in; the bound is generous.
    _record_when_reading_rests(running_system, stream, most=10 * CHUNKS_AHEAD * CHUNK_ROWS)
    assert len(list(islice(predictions, 1000))) == 1000
    predictions.close()


def test_closing_the_iterator_cancels_the_job_and_ends_its_threads(running_system: System, client: Client) -> None:
    predictions = client.stream("digits", Counted(), chunk_rows=CHUNK_ROWS)
    next(predictions)
    job_id = _running(running_system).id

    predictions.close()

    wait_until(lambda: _state(running_system, job_id) is JobState.CANCELLED, "the job is cancelled")
    wait_until(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("celeriac-")],
        "its threads have ended",
    )
    assert list(predictions) == []


def test_a_generator_that_raises_gives_its_rows_first_and_then_its_error(client: Client, models: Path) -> None:
    def rows() -> Iterator[np.ndarray]:
        yield from PIXELS[:23]
        raise OSError("the camera is gone")

    predictions = client.stream("digits", rows(), chunk_rows=CHUNK_ROWS)
    came: list[Any] = []
    with pytest.raises(InputError, match="OSError: the camera is gone") as caught:
        came.extend(predictions)

    assert isinstance(caught.value.__cause__, OSError)
    assert len(came) == 23
    np.testing.assert_allclose(came, in_one_process(models / "digits.keras", PIXELS[:23]), **CLOSE)


def test_a_row_of_another_dtype_is_an_error_of_the_input_after_the_rows_before(client: Client) -> None:
    rows = [*PIXELS[:10], np.zeros(64, np.int64), *PIXELS[:10]]

    predictions = client.stream("digits", iter(rows), chunk_rows=CHUNK_ROWS)
    came: list[Any] = []
    with pytest.raises(InputError, match="row 10: is int64, earlier ones are float32"):
        came.extend(predictions)

    assert len(came) == 10


def test_a_row_of_a_shape_that_no_model_takes_names_itself(client: Client) -> None:
    rows = [*PIXELS[:10], np.zeros(3, np.float32), *PIXELS[:10]]

    with pytest.raises(RowsFailedError, match=r"row 10 failed at infer: .*rows have the shape \(3\)"):
        list(client.stream("digits", iter(rows), chunk_rows=CHUNK_ROWS, max_delay=60))


def _record_when_reading_rests(system: System, stream: Counted, most: float = math.inf) -> JobRecord:
    """The running job's record when it went round three times, about a second each, without reading a row."""
    rounds, before = 0, -1
    while rounds < 3:
        assert stream.read <= most, "too many rows are read ahead"
        seen = _running(system)
        wait_until(lambda seen=seen: _running(system).updated_at > seen.updated_at, "the job goes round")
        rounds = rounds + 1 if stream.read == before else 0
        before = stream.read
    return _running(system)


def _running(system: System) -> JobRecord:
    with system.admin() as server:
        (record,) = (record for state, record in read_all(server, SEALER)[0] if state is JobState.RUNNING)
        return record


def _state(system: System, job_id: str) -> JobState | None:
    with system.admin() as server:
        return next((state for state, record in read_all(server, SEALER)[0] if record.id == job_id), None)
