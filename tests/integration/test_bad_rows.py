"""Rows that fail, and rows that kill, with a real worker: each is found, and every other has its prediction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from tasks.protocol import keys
from tasks.protocol.messages import Failure, Outputs
from tasks.recovery.delivery_log import DeliveryLog
from tasks.recovery.poison_rows import RowRange
from tests.chunks import Chunks, chunks_of, deaths, outputs_of, without_rows
from tests.manifests import write_manifest
from tests.seals import SEALER
from tests.systems import System, Worker, queued_messages, serving

ROWS = 40
BATCH = 8
# In column 0, what a row does to the models.
FINE, RAISES, NO_MEMORY, EXHAUSTS, DIES, LOOPS, EXITS = range(7)

MODELS = """
import os
import signal

import numpy as np


class ResourceExhaustedError(Exception):  # known by its name, as TensorFlow's
    pass


def meet(rows):
    kinds = set(rows[:, 0].astype(int).tolist())
    if 1 in kinds:
        raise ValueError("a bad row")
    if 2 in kinds:
        raise MemoryError("no memory")
    if 3 in kinds:
        raise ResourceExhaustedError("OOM when allocating")
    if 4 in kinds:
        os.kill(os.getpid(), signal.SIGSEGV)
    if 5 in kinds:
        while True:
            pass
    if 6 in kinds:
        os._exit(3)


def picky(rows):
    meet(rows)
    return rows * 2


def named(rows):
    return {"sum": rows.sum(axis=1), "text": np.array([f"row {row[1]:.0f}" for row in rows])}


def fussy(rows):
    if (rows[:, 1] == 11).any():
        raise LookupError("an eleven")
    return rows[:, 1].astype(np.int64)


def prepare(rows):
    meet(rows)
    return rows


def objects(outputs):
    return np.array([{"a": 1} if row[1] == 22 else "fine" for row in outputs], object)


def uneven(rows):
    return np.ones((len(rows), 3 if rows[:, 0].any() else 2))


def broken(rows):
    raise RuntimeError("always")
"""

_jobs = (f"{number:012x}" for number in count(0xC0FFEE))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "models_that_mind.py").write_text(MODELS)

    def function(name: str, **more: Any) -> dict[str, Any]:
        return {"path": f"models_that_mind:{name}", "batch_rows": BATCH, **more}

    models = {name: function(name) for name in ("picky", "named", "fussy", "uneven", "broken")}
    models["prepared"] = function("named", preprocess="models_that_mind:prepare")
    models["finished"] = function("picky", postprocess="models_that_mind:objects")
    models["large"] = function("picky", batch_rows=64)
    manifest = write_manifest(folder, models)
    with serving(folder, manifest, 1, {"CELERIAC_CHUNK_TIMEOUT_SECONDS": "2"}) as system:
        yield system


@pytest.fixture
def worker(system: System) -> Worker:
    return system.workers[0]


@pytest.fixture
def chunks(system: System) -> Iterator[Chunks]:
    with chunks_of(system, next(_jobs)) as chunks:
        yield chunks


def rows_with(bad: dict[int, int] | None = None, rows: int = ROWS) -> np.ndarray:
    """Rows that number themselves in column 1; `bad` says what some of them do."""
    made = np.zeros((rows, 3), np.float32)
    made[:, 1] = np.arange(rows)
    for row, kind in (bad or {}).items():
        made[row, 0] = kind
    return made


def check_filled(outputs: np.ndarray, rows: np.ndarray, bad: list[int]) -> None:
    assert len(outputs) == len(rows)
    np.testing.assert_array_equal(without_rows(outputs, bad), without_rows(rows, bad) * 2)
    assert np.isnan(outputs[bad]).all()


# --- rows that fail -------------------------------------------------------------------------------------------------


def test_without_bad_rows_nothing_differs(chunks: Chunks) -> None:
    rows = rows_with()
    answer = chunks.run(chunks.message("picky", rows))
    np.testing.assert_array_equal(outputs_of(answer), rows * 2)
    assert isinstance(answer, Outputs)
    assert (answer.failed, answer.failed_rows) == ([], [])
    assert answer.models == [chunks.refs["picky"]]
    assert chunks.noted() == {}


@pytest.mark.parametrize("model", ["picky", "prepared"])
def test_bad_rows_of_a_chunk_are_found_and_the_others_predicted(chunks: Chunks, system: System, model: str) -> None:
    slots = system.slots()
    rows = rows_with({0: RAISES, 13: NO_MEMORY, 14: EXHAUSTS, 39: RAISES})
    answer = chunks.run(chunks.message(model, rows, start=1000))

    outputs = outputs_of(answer)
    assert isinstance(answer, Outputs)
    if model == "picky":
        check_filled(outputs, rows, [0, 13, 14, 39])
    else:
        assert outputs["text"][12:16].tolist() == ["row 12", "", "", "row 15"]
        assert np.isnan(outputs["sum"][[0, 13, 14, 39]]).all()
    records = answer.failed_rows
    assert [(record.start, record.stop) for record in records] == [
        (1000, 1001),
        (1013, 1014),
        (1014, 1015),
        (1039, 1040),
    ]
    assert {record.stage for record in records} == {"infer" if model == "picky" else "preprocess"}
    assert {record.model for record in records} == {""}
    assert "ValueError: a bad row" in records[0].text
    assert "MemoryError: no memory" in records[1].text
    assert chunks.noted() == {}
    assert system.slots() == slots, "no child died"


def test_outputs_that_cannot_be_sent_fail_alone(chunks: Chunks) -> None:
    answer = chunks.run(chunks.message("finished", rows_with()))
    outputs = outputs_of(answer)
    assert isinstance(answer, Outputs)
    assert outputs.tolist() == ["fine"] * 11 + [""] + ["fine"] * 28
    (record,) = answer.failed_rows
    assert (record.start, record.stage, record.type) == (11, "encode", "PayloadError")


def test_a_row_fails_for_all_models_if_it_does_for_any(chunks: Chunks) -> None:
    rows = rows_with({3: RAISES})
    answer = chunks.run(chunks.message("named,picky,fussy", rows))
    outputs = outputs_of(answer)
    assert isinstance(answer, Outputs)
    assert answer.failed == []
    assert [(record.start, record.model) for record in answer.failed_rows] == [(3, "picky"), (11, "fussy")]
    check_filled(outputs["picky"], rows, [3, 11])
    assert outputs["fussy"].tolist() == [-1 if row in (3, 11) else row for row in range(ROWS)]
    assert outputs["fussy"].dtype == np.int64
    assert outputs["named"]["text"].tolist() == ["" if row in (3, 11) else f"row {row}" for row in range(ROWS)]
    assert np.isnan(outputs["named"]["sum"][[3, 11]]).all()


def test_rows_of_uneven_shape_are_halved_too(chunks: Chunks) -> None:
    rows = [row[: 2 + number % 3] for number, row in enumerate(np.repeat(rows_with({5: RAISES}), 2, axis=1))]
    answer = chunks.run(chunks.message("fussy", rows))
    assert isinstance(answer, Outputs)
    assert outputs_of(answer).shape == (ROWS,)
    assert answer.failed_rows == []


def test_rows_whose_outputs_have_another_shape_fail_alone(chunks: Chunks) -> None:
    rows = rows_with({ROWS - 1: FINE + 9, 0: FINE})
    answer = chunks.run(chunks.message("uneven", rows))
    assert isinstance(answer, Outputs)
    whole = outputs_of(answer)
    assert whole.shape == (ROWS, 2)
    failed = [record.start for record in answer.failed_rows]
    assert failed[-1] == ROWS - 1
    assert "outputs must be of one shape" in answer.failed_rows[-1].text
    assert np.isnan(whole[failed]).all()
    assert (without_rows(whole, failed) == 1).all()


def test_a_chunk_of_bad_rows_alone_is_a_failure_with_a_record_for_each(chunks: Chunks) -> None:
    answer = chunks.run(chunks.message("broken", rows_with(rows=5), start=7))
    assert isinstance(answer, Failure)
    assert [(record.start, record.stop) for record in answer.failed_rows] == [(row, row + 1) for row in range(7, 12)]
    assert (answer.record.start, answer.record.stop, answer.record.stage) == (7, 12, "infer")
    assert answer.record.text.startswith("all 5 rows failed; row 7: model broken: ")


def test_where_rows_shall_end_the_job_the_record_is_of_one_that_fails(chunks: Chunks) -> None:
    answer = chunks.run(chunks.message("picky", rows_with({3: RAISES}), on_error="raise"))
    assert isinstance(answer, Failure)
    assert (answer.record.start, answer.record.stop, answer.failed_rows) == (3, 4, [])


# --- rows that kill -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error_type", "message"),
    [
        (DIES, "WorkerLostError", "the child that ran it was killed by signal 11 (SIGSEGV)"),
        (EXITS, "WorkerLostError", "the child that ran it ended with exit code 3"),
        (LOOPS, "TimeLimitExceeded", "ran longer than 2 s"),
    ],
    ids=["segmentation fault", "exit", "endless loop"],
)
def test_a_row_that_kills_is_found_in_few_deaths(
    chunks: Chunks, worker: Worker, kind: int, error_type: str, message: str
) -> None:
    before = deaths(worker)
    rows = rows_with({19: kind})
    answer = chunks.run(chunks.message("picky", rows, start=100))

    check_filled(outputs_of(answer), rows, [19])
    assert isinstance(answer, Outputs)
    (record,) = answer.failed_rows
    assert (record.start, record.stop, record.stage, record.type) == (119, 120, "worker", error_type)
    assert record.text == message
    assert deaths(worker) - before <= 4
    assert chunks.noted() == {}


def test_a_row_that_kills_in_a_large_batch_is_found_in_four_deaths(chunks: Chunks, worker: Worker) -> None:
    before = deaths(worker)
    rows = rows_with({77: DIES}, 100)
    answer = chunks.run(chunks.message("large", rows))
    check_filled(outputs_of(answer), rows, [77])
    assert deaths(worker) - before == 4


def test_rows_that_kill_beside_rows_that_raise(chunks: Chunks, worker: Worker) -> None:
    before = deaths(worker)
    rows = rows_with({2: RAISES, 9: DIES, 10: RAISES, 11: RAISES, 31: DIES, 32: NO_MEMORY})
    answer = chunks.run(chunks.message("picky", rows))

    check_filled(outputs_of(answer), rows, [2, 9, 10, 11, 31, 32])
    assert isinstance(answer, Outputs)
    stages = [(record.start, record.stage) for record in answer.failed_rows]
    assert stages == [(2, "infer"), (9, "worker"), (10, "infer"), (11, "infer"), (31, "worker"), (32, "infer")]
    assert deaths(worker) - before <= 2 * 4
    assert chunks.noted() == {}
    assert worker.process.poll() is None


def test_a_chunk_of_one_row_that_kills(chunks: Chunks, worker: Worker) -> None:
    before = deaths(worker)
    answer = chunks.run(chunks.message("picky", rows_with({0: DIES}, 1)))
    assert isinstance(answer, Failure)
    assert [(record.start, record.stage) for record in answer.failed_rows] == [(0, "worker")]
    assert answer.record.stage == "killed"
    assert deaths(worker) - before <= 4
    assert chunks.noted() == {}


def test_where_rows_shall_end_the_job_the_one_that_kills_is_told(chunks: Chunks, worker: Worker) -> None:
    before = deaths(worker)
    answer = chunks.run(chunks.message("picky", rows_with({19: DIES}), on_error="raise", start=100))
    assert isinstance(answer, Failure)
    assert (answer.record.start, answer.record.stop, answer.record.stage) == (119, 120, "worker")
    assert answer.record.text == "the child that ran it was killed by signal 11 (SIGSEGV)"
    assert deaths(worker) - before <= 4


def test_a_chunk_that_is_delivered_twice_condemns_nothing(chunks: Chunks, system: System) -> None:
    rows = rows_with()
    message = chunks.message("picky", rows)
    with system.standing_still():
        chunks.send(*[message] * 5)
        queued_messages(chunks.server, chunks.job, 5)
    for _ in range(5):
        answer = chunks.next_answer()
        np.testing.assert_array_equal(outputs_of(answer), rows * 2)
        assert isinstance(answer, Outputs)
        assert answer.failed_rows == []
    assert chunks.noted() == {}


def test_a_single_row_that_somebody_else_runs_is_not_condemned(chunks: Chunks, system: System, worker: Worker) -> None:
    """A note of a child that lives, of a worker that lives, tells nothing, however often the chunk is delivered."""
    message = chunks.message("picky", rows_with())
    for _ in range(9):
        chunks.server.hincrby(keys.deliveries(chunks.job), "0", 1)
    DeliveryLog(chunks.server, SEALER, message).record_intent(system.slots()[0].worker, RowRange(19, 20, 20))
    answer = chunks.run(message)
    assert isinstance(answer, Outputs)
    assert answer.failed_rows == []


def test_a_row_that_took_its_whole_worker_with_it_is_condemned(chunks: Chunks) -> None:
    message = chunks.message("picky", rows_with())
    chunks.server.hset(keys.deliveries(chunks.job), "0", "3")
    DeliveryLog(chunks.server, SEALER, message).record_intent("gone@host:0", RowRange(19, 20, 20))
    answer = chunks.run(message)
    assert isinstance(answer, Outputs)
    (record,) = answer.failed_rows
    assert (record.start, record.type) == (19, "Killed")
    assert record.text == "the worker that ran it, gone@host:0, is gone"
    assert chunks.noted() == {}


def test_a_chunk_that_kills_without_end_is_given_up(chunks: Chunks) -> None:
    message = chunks.message("picky", rows_with())
    chunks.server.hset(keys.deliveries(chunks.job), mapping={"0": "9", "0:deaths": "5"})
    answer = chunks.run(message)
    assert isinstance(answer, Failure)
    assert (answer.record.start, answer.record.stop, answer.record.stage) == (0, ROWS, "killed")
    assert answer.record.text.startswith("5 children died with these rows")
    assert chunks.noted() == {}
