"""A model that fails fails alone: with a real worker, the others of its job give what they give by themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client, JobState
from tasks.protocol.messages import OnError
from tests.manifests import write_manifest
from tests.systems import System, serving, shared_folders
from tests.waiting import wait_for_job
from worker_config.errors import RowsFailedError

ROWS = 200
CHUNK = 10
# Of column 0, for the models that fail on some rows.
BAD, ANOTHER = 7, 8

MODELS = """
import numpy as np

SOME, OTHER = 7, 8


def good(rows):
    return rows[:, 1:] * 2


def good2(rows):
    return {"sum": rows.sum(axis=1), "rows": np.repeat(rows, 500, axis=1)}  # more than rides in an answer


def some(rows):
    if (rows[:, 0] == SOME).any():
        raise LookupError("a seven")
    return rows + 1


def other(rows):
    if (rows[:, 0] == OTHER).any():
        raise MemoryError("an eight")
    return rows + 2


def always(rows):
    raise ArithmeticError("never")


def objects(rows):
    return np.array([{"a": 1}] * len(rows), object)


def shorter(rows):
    return rows[1:]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_models.py").write_text(MODELS)
    (folder / "lazy.keras").write_bytes((models / "digits.keras").read_bytes())
    functions = ("good", "good2", "some", "other", "always", "shorter")
    models_of_all_kinds = {
        **{name: f"my_models:{name}" for name in functions},
        "prepared": {"path": "my_models:good", "preprocess": "my_models:some"},
        "finished": {"path": "my_models:good", "postprocess": "my_models:objects"},
        "words": special_models / "words.keras",
        "lazy": {"path": "lazy.keras", "preload": False},
    }
    with serving(folder, write_manifest(folder, models_of_all_kinds), environ=shared_folders(folder)) as system:
        yield system


@pytest.fixture(params=["redis", "files"])
def client(request: pytest.FixtureRequest, system: System) -> Iterator[Client]:
    """Large outputs come back by either way."""
    spool = system.folder / "spool" if request.param == "files" else None
    with Client(system.url, settings=system.settings(spool=spool)) as client:
        yield client


@pytest.fixture
def rows() -> np.ndarray:
    """Rows that no model minds; column 0 is between 0 and 6."""
    rows = np.random.default_rng(8).random((ROWS, 3)).astype(np.float32)
    rows[:, 0] = np.arange(ROWS) % 7
    return rows


def check_good(outputs: Any, rows: np.ndarray) -> None:
    np.testing.assert_array_equal(outputs["good"], rows[:, 1:] * 2)
    if "good2" in outputs:
        np.testing.assert_allclose(outputs["good2"]["sum"], rows.sum(axis=1), rtol=1e-6)
        np.testing.assert_array_equal(outputs["good2"]["rows"], np.repeat(rows, 500, axis=1))


@pytest.mark.parametrize(
    ("bad", "stage", "text"),
    [
        ("always", "infer", "raised ArithmeticError: never"),
        ("some", "infer", "raised LookupError: a seven"),
        ("other", "infer", "raised MemoryError: an eight"),
        ("shorter", "infer", "returned 9 rows for 10"),
        ("prepared", "preprocess", "raised LookupError: a seven"),
        ("finished", "encode", "dict"),
    ],
)
@pytest.mark.parametrize("names", [["good", "BAD"], ["BAD", "good", "good2"]], ids=["of two", "of three"])
def test_a_model_that_fails_is_left_out_of_the_result(
    client: Client, rows: np.ndarray, names: list[str], bad: str, stage: str, text: str, caplog: Any
) -> None:
    rows[57, 0], rows[133, 0] = BAD, ANOTHER
    names = [bad if name == "BAD" else name for name in names]
    with caplog.at_level(logging.WARNING, "producer.records.failures"):
        job = client.submit(names, rows, chunk_rows=CHUNK)
        outputs = job.result()

    assert isinstance(outputs, dict)
    assert list(outputs) == [name for name in names if name != bad]
    check_good(outputs, rows)
    wait_for_job(job)
    assert job.state is JobState.DONE
    job.ledger.check()
    assert (job.ledger.predicted, job.ledger.failed) == (ROWS, 0)
    record = job.failed_models[bad]
    assert list(job.failed_models) == [bad]
    assert (record.model, record.stage) == (bad, stage)
    assert text in record.text
    assert record.start == {"some": 57, "prepared": 57, "other": 133}.get(bad, 0)
    failures = job.failures()
    assert record in failures
    assert {failure.model for failure in failures} == {bad}
    assert len({failure.start for failure in failures}) == len(failures), "once for each chunk"
    assert len(failures) < ROWS // CHUNK or bad not in ("some", "other", "prepared")
    warned = [entry.getMessage() for entry in caplog.records if entry.name == "producer.records.failures"]
    assert len(warned) == 1
    assert f"model {bad} failed alone at row" in warned[0]
    assert warned[0].endswith("; its outputs are left out")


def test_parts_are_without_a_model_from_its_failure_on(client: Client, rows: np.ndarray) -> None:
    rows[57, 0] = BAD
    job = client.submit(["some", "good"], rows, chunk_rows=CHUNK)
    has = []
    for part in job.parts():
        assert isinstance(part.outputs, dict)
        check_good(part.outputs, rows[part.start : part.stop])
        has.append("some" in part.outputs)
        if has[-1]:
            np.testing.assert_array_equal(part.outputs["some"], rows[part.start : part.stop] + 1)
    assert len(has) == ROWS // CHUNK
    assert has == sorted(has, reverse=True)
    assert not any(has[5:])
    job.ledger.check()


def test_models_that_fail_on_other_rows_leave_the_last_one(client: Client, rows: np.ndarray) -> None:
    rows[57, 0], rows[133, 0] = BAD, ANOTHER
    job = client.submit(["some", "good", "other", "always"], rows, chunk_rows=CHUNK)
    outputs = job.result()
    assert isinstance(outputs, dict)
    assert list(outputs) == ["good"]
    check_good(outputs, rows)
    assert job.failed_models.keys() == {"some", "other", "always"}
    job.ledger.check()


def test_no_model_left_is_a_failed_job(client: Client, rows: np.ndarray) -> None:
    rows[57, 0], rows[133, 0] = BAD, ANOTHER
    job = client.submit(["some", "other"], rows, chunk_rows=CHUNK)
    got: list[Any] = []
    with pytest.raises(RowsFailedError, match=r"row (57|133) failed in model (some|other) at infer: "):
        got.extend(part.outputs for part in job.parts())
    wait_for_job(job)
    assert job.state is JobState.FAILED
    assert len(job.failed_models) == 1, "the last one ends the job"
    assert got, "what came before is handed over"
    assert all(isinstance(outputs, dict) and outputs for outputs in got)
    assert job.ledger.failed == 1
    job.ledger.check(handed_over=False)


def test_the_last_model_fails_by_its_name_when_it_is_sent_alone(client: Client, rows: np.ndarray) -> None:
    rows[0, 0], rows[199, 0] = BAD, ANOTHER
    job = client.submit(["some", "other"], rows, chunk_rows=1)
    got: list[Any] = []
    with pytest.raises(RowsFailedError, match=r"^row 199 failed in model other at infer: .* an eight$"):
        got.extend(part.outputs for part in job.parts())
    assert len(got) == 199
    for row, outputs in zip(rows, got, strict=False):
        assert outputs.keys() == {"other"}
        np.testing.assert_array_equal(outputs["other"][0], row + 2)
    assert job.failed_models.keys() == {"some"}
    assert job.failures()[-1].model == "other"


def test_rows_on_which_all_models_fail_end_the_job(client: Client, rows: np.ndarray) -> None:
    rows[57, 0] = BAD
    job = client.submit(["some", "prepared"], rows, chunk_rows=CHUNK)
    with pytest.raises(
        RowsFailedError, match=r"^row 57 failed at infer: ModelError: all models failed; some: .* a seven"
    ):
        job.result()
    assert job.failed_models == {}
    assert [(failure.start, failure.stop, failure.model) for failure in job.failures()] == [(57, 58, "")]


def test_models_that_shall_fail_together_do(client: Client, rows: np.ndarray) -> None:
    rows[57, 0] = BAD
    job = client.submit(["good", "some"], rows, chunk_rows=CHUNK, fail_together=True)
    got: list[Any] = []
    with pytest.raises(RowsFailedError, match=r"^row 57 failed in model some at infer: .* a seven"):
        got.extend(part.outputs for part in job.parts())
    assert len(got) == 5
    assert all(outputs.keys() == {"good", "some"} for outputs in got if isinstance(outputs, dict))
    assert job.failed_models == {}


def test_a_job_of_one_model_fails_as_ever(client: Client, rows: np.ndarray) -> None:
    rows[57, 0] = BAD
    job = client.submit("some", rows, chunk_rows=CHUNK)
    with pytest.raises(RowsFailedError, match=r"^row 57 failed at infer: .* raised LookupError: a seven$"):
        job.result()
    assert job.failed_models == {}


def test_a_keras_model_fails_alone_on_rows_that_it_does_not_know(client: Client) -> None:
    rows = np.random.default_rng(3).integers(0, 7, (60, 3)).astype(np.int32)
    rows[33] = 17
    job = client.submit(["words", "good"], rows, chunk_rows=CHUNK)
    outputs = job.result()
    assert isinstance(outputs, dict)
    check_good(outputs, rows)
    assert job.failed_models["words"].start == 33


def test_a_model_that_cannot_be_loaded_any_more_fails_alone(client: Client, system: System, models: Path) -> None:
    rows = np.random.default_rng(3).random((60, 64)).astype(np.float32)
    kept = (system.folder / "lazy.keras").read_bytes()
    (system.folder / "lazy.keras").write_bytes(b"this is not a model")
    try:
        job = client.submit(["lazy", "good"], rows, chunk_rows=CHUNK)
        outputs = job.result()
    finally:
        (system.folder / "lazy.keras").write_bytes(kept)
    assert isinstance(outputs, dict)
    check_good(outputs, rows)
    if job.failed_models:  # a snapshot of it may serve
        assert job.failed_models["lazy"].stage == "model"


def test_a_stream_goes_on_without_a_model(client: Client, rows: np.ndarray) -> None:
    rows[57, 0] = BAD
    got = list(client.stream(["good", "some"], iter(rows), chunk_rows=CHUNK))
    assert len(got) == ROWS
    for row, outputs in zip(rows, got, strict=True):
        np.testing.assert_array_equal(outputs["good"], row[1:] * 2)
    assert "some" not in got[-1]


def test_rows_of_unknown_number_lose_a_model_too(client: Client, rows: np.ndarray) -> None:
    rows[157, 0] = BAD
    outputs = client.submit(["some", "good", "good2"], iter(rows), chunk_rows=CHUNK).result()
    assert isinstance(outputs, dict)
    assert list(outputs) == ["good", "good2"]
    check_good(outputs, rows)


# --- detached -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["always", "some", "prepared"])
@pytest.mark.parametrize("names", [["good", "BAD"], ["BAD", "good", "good2"]], ids=["of two", "of three"])
def test_a_detached_job_goes_on_without_a_model(client: Client, rows: np.ndarray, names: list[str], bad: str) -> None:
    rows[57, 0] = BAD
    names = [bad if name == "BAD" else name for name in names]
    job = client.attach(client.submit(names, rows, chunk_rows=CHUNK, detach=True))
    outputs = job.result()
    assert isinstance(outputs, dict)
    assert list(outputs) == [name for name in names if name != bad]
    check_good(outputs, rows)
    assert job.state is JobState.DONE
    job.ledger.check(handed_over=False)
    assert job.ledger.predicted == ROWS

    again = client.attach(job.id)
    assert list(again.failed_models) == [bad]
    assert [failure.model for failure in again.failures()] == [bad]
    for part in again.parts():
        assert isinstance(part.outputs, dict)
        assert bad not in part.outputs, "it is known from the beginning"


def test_a_detached_job_without_a_model_left_fails(client: Client, rows: np.ndarray) -> None:
    rows[57, 0], rows[133, 0] = BAD, ANOTHER
    job = client.attach(client.submit(["some", "other"], rows, chunk_rows=CHUNK, detach=True))
    with pytest.raises(RowsFailedError, match=rf"job {job.id} failed: row \d+ failed in model (some|other) at infer"):
        job.result()
    wait_for_job(job)
    assert job.state is JobState.FAILED
    job.ledger.check(handed_over=False)
    assert job.ledger.failed == CHUNK


@pytest.mark.parametrize(("on_error", "rows_out"), [("skip", 0), ("fill", 6)])
def test_a_continued_job_may_have_no_row_left_that_goes_through(
    client: Client, on_error: OnError, rows_out: int
) -> None:
    job = client.submit("words", np.full((10, 3), 17, np.int32), first_row=4, on_error=on_error, chunk_rows=2)
    result = job.result()
    assert isinstance(result, np.ndarray)
    assert (len(result), result.dtype) == (rows_out, np.float32)
    assert np.isnan(result).all()
    assert (job.ledger.predicted, job.ledger.failed, job.ledger.written) == (4, 6, 4)
    assert [record.start for record in job.failures()] == [*range(4, 10)]


def test_a_job_none_of_whose_rows_goes_through_has_failed(client: Client) -> None:
    job = client.submit("words", np.full((10, 3), 17, np.int32), on_error="skip", chunk_rows=2)
    with pytest.raises(RowsFailedError, match="no row was predicted; row 0 failed at infer: "):
        job.result()
    assert job.ledger.failed == 10
