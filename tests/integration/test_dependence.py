"""Models whose rows are not independent, in a real worker: told everywhere, begun anew, and reproducible if meant."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from tasks.protocol import keys
from tasks.recovery.poison_rows import RunIntent
from tests import dependent
from tests.acceptance.commands import Celeriac
from tests.chunks import chunks_of, outputs_of
from tests.dependent import COLUMNS, ROWS
from tests.manifests import write_manifest
from tests.seals import sealed_note
from tests.systems import System, serving
from worker_config.errors import ExitCode, UsageError

MEANT = {"independent_rows": False, "batch_rows": ROWS}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A worker with two children, whose histories are not the same."""
    folder = tmp_path_factory.mktemp("s")
    counter = dependent.write_counter(folder / "counter")
    noisy, centred = dependent.write_noisy(folder / "noisy"), dependent.write_centred(folder / "centred")
    listed = {
        "digits": {"path": models / "digits.keras"},
        "counter": {"path": counter, "batch_rows": ROWS},
        "lite": {"path": dependent.write_lite_counter(folder / "counter.tflite", counter), "batch_rows": ROWS},
        "gru": {"path": dependent.write_stateful_gru(folder / "gru.keras")},
        "noisy": {"path": noisy, "batch_rows": ROWS},
        "noise": {"path": noisy, **MEANT},
        "centred": {"path": centred, "batch_rows": ROWS},
        "centred_meant": {"path": centred, **MEANT},
    }
    with serving(folder, write_manifest(folder, listed)) as system:
        yield system


def rows_of(count: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(9).standard_normal((count, *(shape or (COLUMNS,)))).astype(np.float32)


@pytest.mark.parametrize(("model", "shape"), [("counter", (COLUMNS,)), ("lite", (COLUMNS,)), ("gru", (4, 3))])
def test_every_chunk_begins_from_the_saved_state(client: Client, model: str, shape: tuple[int, ...]) -> None:
    rows = np.repeat(rows_of(1, *shape), 8 * ROWS, axis=0)
    jobs = [client.predict(model, rows, chunk_rows=2 * ROWS) for _ in range(2)]
    np.testing.assert_array_equal(jobs[0], jobs[1])
    chunks = jobs[0].reshape(4, 2, ROWS, -1)
    np.testing.assert_array_equal(chunks, chunks[[0, 0, 0, 0]])
    assert not np.allclose(chunks[0, 0], chunks[0, 1]), "within a chunk its state goes on"


def test_a_row_of_an_independent_model_is_the_same_in_any_chunk(client: Client) -> None:
    rows = rows_of(300, 64)
    np.testing.assert_array_equal(
        client.predict("digits", rows, chunk_rows=7), client.predict("digits", rows, chunk_rows=300)
    )


def test_chance_that_is_meant_has_a_seed_of_each_chunk(client: Client) -> None:
    rows = np.repeat(rows_of(1), 8 * ROWS, axis=0)
    jobs = [client.predict("noise", rows) for _ in range(2)]
    np.testing.assert_array_equal(jobs[0], jobs[1])
    chunks = jobs[0].reshape(8, -1)
    assert len(np.unique(chunks, axis=0)) == 8, "no two chunks have the same noise"
    np.testing.assert_array_equal(client.submit("noise", rows, first_row=4 * ROWS).result(), jobs[0][4 * ROWS :])


def test_what_is_meant_is_refused_where_chunks_would_be_others(client: Client) -> None:
    with pytest.raises(UsageError, match=r"chunks of 16 rows.* none begins with row 8"):
        client.submit("noise", rows_of(64), first_row=8)
    with pytest.raises(UsageError, match="a stream's chunks are cut by time"):
        next(client.stream("noise", iter(rows_of(64))))


def test_a_chunk_whose_rows_are_meant_to_depend_fails_as_a_whole(client: Client) -> None:
    rows = rows_of(6 * ROWS)
    whole = client.predict("centred_meant", rows, chunk_rows=2 * ROWS)
    rows[2 * ROWS + 3] = np.nan
    job = client.submit("centred_meant", rows, chunk_rows=2 * ROWS, on_error="fill")
    found, failed = job.result(), slice(2 * ROWS, 4 * ROWS)
    assert np.isnan(found[failed]).all()
    np.testing.assert_array_equal(np.delete(found, failed, axis=0), np.delete(whole, failed, axis=0))
    assert [record.start for record in job.failures()] == list(range(2 * ROWS, 4 * ROWS))
    assert "with all rows 32-64 of its chunk" in job.failures()[0].text


def test_a_chunk_in_which_a_child_has_died_is_run_whole(system: System, client: Client) -> None:
    rows = rows_of(2 * ROWS)
    note = RunIntent("a-worker-that-is-gone", 1, 0, ROWS, ROWS, 0.0)
    found = {}
    for name in "centred", "centred_meant":
        with chunks_of(system, "feed0000dead") as chunks:
            at = sealed_note(chunks.job, 0, "at", note)
            chunks.server.hset(keys.deliveries(chunks.job), mapping={"0": "1", "0:at": at})
            found[name] = outputs_of(chunks.run(chunks.message(name, rows)))
    whole = client.predict("centred_meant", rows, chunk_rows=2 * ROWS)
    np.testing.assert_array_equal(found["centred_meant"], whole)
    assert not np.allclose(found["centred"], whole), "the other is searched for rows that kill, piece by piece"


def test_a_job_says_once_what_its_rows_depend_on(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "producer.scheduling.model_pinning"):
        jobs = [client.submit(name, rows_of(2 * ROWS)) for name in ("centred", "centred_meant")]
        for job in jobs:
            job.result()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("model centred: a row's prediction depends on the other rows of its batch (by up to ")
    assert "independent_rows = false" in said
    assert jobs[0].dependent["centred"].startswith("a row's prediction depends on the other rows of its batch")
    assert jobs[1].dependent["centred_meant"].startswith("independent_rows = false: a row's prediction depends on")


def test_the_command_tells_it_everywhere(system: System, celeriac: Celeriac) -> None:
    np.save(celeriac.folder / "rows.npy", rows_of(4 * ROWS))
    broker = ("--broker", system.url)
    words = ("predict", "noisy", "rows.npy", "-o", "out.npy", *broker, "--json")
    depends = "a row's prediction depends on chance (by up to "

    ended = celeriac.run(*words)
    assert ended.code == ExitCode.OK
    (line,) = ended.lines
    assert line.startswith(f"celeriac: model noisy: {depends}")
    assert ended.json["dependent"]["noisy"].startswith(depends)
    beside = json.loads((celeriac.folder / "out.npy.ledger.json").read_text())
    assert beside["dependent"] == ended.json["dependent"]

    job = ended.json["job"]
    assert f"dependent  noisy: {depends}" in celeriac.succeeds("status", job, *broker).stdout
    assert celeriac.succeeds("status", job, *broker, "--json").json["dependent"] == ended.json["dependent"]
    tried = celeriac.succeeds(*words, "--force", "--dry-run")
    assert f"rows     noisy: {depends}" in tried.stdout
    assert tried.json["dependent"] == ended.json["dependent"]
    assert depends in celeriac.succeeds("models", *broker).stdout
    told = {model["name"]: model for model in celeriac.succeeds("models", *broker, "--json").json["models"]}
    assert {name: model["dependence"] and model["dependence"][0]["on"] for name, model in told.items()} == {
        "digits": [],
        "counter": "history",
        "lite": "history",
        "gru": "history",
        "noisy": "chance",
        "noise": "chance",
        "centred": "neighbours",
        "centred_meant": "neighbours",
    }
    assert {model["executor"] for name, model in told.items() if name not in ("digits", "lite")} == {"graph"}
    celeriac.succeeds("predict", "noise", "rows.npy", "-o", "meant.npy", *broker)  # without a word


def test_a_run_that_is_continued_keeps_its_chunks(system: System, celeriac: Celeriac) -> None:
    rows = rows_of(8 * ROWS)
    rows[5 * ROWS] = np.nan
    np.save(celeriac.folder / "rows.npy", rows)
    words = ("predict", "centred_meant", "rows.npy", "--broker", system.url, "-o")
    celeriac.succeeds(*words, "filled.npy", "--on-error", "fill")
    said = celeriac.refuses(ExitCode.USAGE, *words, "filled.npy", "--resume", "--only-failed")
    assert "--only-failed is for independent rows" in said

    at = "--chunk-rows", 2 * ROWS
    ended = celeriac.run(*words, "out.npy", *at)
    assert (ended.code, ended.safe_rows) == (ExitCode.ROWS_FAILED, 4 * ROWS)
    assert "(--chunk-rows 32 before, default now)" in celeriac.refuses(ExitCode.USAGE, *words, "out.npy", "--resume")
    goes_on = celeriac.run(*words, "out.npy", *at, "--resume")
    assert (goes_on.code, goes_on.safe_rows) == (ExitCode.ROWS_FAILED, 4 * ROWS)
