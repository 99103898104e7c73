"""Rows that are not finite, or beyond what an input holds, with a real worker: counted, told, or failed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from producer import Client
from producer.cli.fetch import fetch
from producer.cli.jobs import status
from producer.cli.predict import predict
from producer.outputs.sidecar_files import ledger_path, read_beside
from tasks.outputs.failed_mask import Fill, mask_path
from tests.failed_rows import rows_of
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving
from tests.waiting import wait_for_job
from worker_config.errors import RowsFailedError

ROWS = 60
NAN_ROWS, INF_ROWS = [0, 13, 59], [30]
BAD = sorted([*NAN_ROWS, *INF_ROWS])
MODELS = """
import numpy as np


def label(rows):
    return {"label": np.nan_to_num(rows[:, 0]).astype(np.int64), "code": np.ones(len(rows), np.uint8)}


def root(rows):
    with np.errstate(invalid="ignore"):
        return np.sqrt(rows[:, 0])
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """One child, with digits, a model, and two functions."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "not_finite.py").write_text(MODELS)
    tables: dict[str, Any] = {name: {"path": f"not_finite:{name}", "batch_rows": 8} for name in ("label", "root")}
    tables["digits"] = {"path": str(models / "digits.keras")}
    with serving(folder, write_manifest(folder, tables), 1) as system:
        yield system


def rows_with_gaps() -> np.ndarray:
    rows = np.random.default_rng(1).random((ROWS, 64), np.float32)
    rows[NAN_ROWS, 5] = np.nan
    rows[INF_ROWS] = np.inf
    return rows


@pytest.mark.parametrize("on_nonfinite", ["warn", "allow"])
def test_the_ledger_counts_them_and_the_log_tells(
    client: Client, caplog: pytest.LogCaptureFixture, on_nonfinite: Any
) -> None:
    job = client.submit(["digits", "root"], rows_with_gaps(), chunk_rows=7, on_nonfinite=on_nonfinite)
    outputs: Any = job.result()
    assert np.flatnonzero(~np.isfinite(outputs["root"])).tolist() == INF_ROWS
    lost = ~(np.isfinite(outputs["digits"]).all(axis=1) & np.isfinite(outputs["root"]))
    ledger = job.ledger
    assert (ledger.predicted, ledger.failed) == (ROWS, 0)
    assert (ledger.nonfinite_inputs, ledger.nonfinite_outputs) == (len(BAD), int(lost.sum()))
    told = [record.message for record in caplog.records if record.name == "producer.records.ledger"]
    assert len(told) == (on_nonfinite == "warn")
    assert all("of 60 predicted rows, 4 have a NaN or an infinity in what a model took" in line for line in told)


def test_a_function_that_makes_them_is_told_too(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        job = client.submit("root", np.arange(-3.0, 5.0).reshape(8, 1))
        job.result()
    assert (job.ledger.nonfinite_inputs, job.ledger.nonfinite_outputs) == (0, 3)
    assert "3 in their outputs" in caplog.text


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_with_fail_they_cost_themselves_and_are_marked(client: Client, models: Path, on_error: Any) -> None:
    rows = rows_with_gaps()
    job = client.submit(
        ["digits", "label"], rows, chunk_rows=7, on_error=on_error, on_nonfinite="fail", ordered=on_error == "skip"
    )
    outputs: Any = job.result()
    assert rows_of(job.failures()) == BAD
    assert {(one.stage, one.type) for one in job.failures()} == {("infer", "NonFiniteError")}
    assert (job.ledger.predicted, job.ledger.failed, job.ledger.nonfinite_inputs) == (ROWS - 4, 4, 0)
    good = [row for row in range(ROWS) if row not in BAD]
    expected = in_one_process(models / "digits.keras", rows[good])
    kept = ~job.failed_mask
    assert kept.tolist() == ([True] * len(good) if on_error == "skip" else [row in good for row in range(ROWS)])
    np.testing.assert_allclose(outputs["digits"][kept], expected, rtol=1e-5, atol=1e-6)
    if on_error == "fill":
        assert np.isnan(outputs["digits"][BAD]).all()
        assert outputs["label"]["label"][BAD].tolist() == [-1] * 4
        assert outputs["label"]["code"][BAD].tolist() == [255] * 4


def test_with_fail_and_raise_the_job_ends_naming_the_row(client: Client) -> None:
    rows = rows_with_gaps()
    rows[0] = 0.5
    with pytest.raises(RowsFailedError, match=r"row 13 failed at infer: NonFiniteError: model digits: its input holds"):
        client.predict("digits", rows, on_nonfinite="fail", chunk_rows=50)
    with pytest.raises(RowsFailedError, match="row 13 failed at infer: NonFiniteError"):
        list(client.stream("digits", rows, on_nonfinite="fail"))


def test_values_that_overflow_are_rows_that_fail(client: Client, models: Path) -> None:
    rows = rows_with_gaps().astype(np.float64)
    rows[[0, 20, 44], 7] = [1e39, -1e200, 3.5e38]
    whole = [row for row in range(ROWS) if row not in (0, 20, 44)]
    job = client.submit("digits", rows, chunk_rows=25, on_error="skip")
    outputs = np.asarray(job.result())
    finite = np.isfinite(rows[whole]).all(axis=1)
    expected = in_one_process(models / "digits.keras", rows[whole][finite].astype(np.float32))
    np.testing.assert_allclose(outputs[finite], expected, rtol=1e-5, atol=1e-6)
    assert rows_of(job.failures()) == [0, 20, 44]
    assert job.failures()[1].text.endswith(
        "holds -1e+200, which float32 cannot hold: its least value is -3.4028234663852886e+38"
    )
    assert job.ledger.nonfinite_inputs == 3  # of the data set's own, row 0 has failed
    with pytest.raises(RowsFailedError, match=r"row 20 failed at infer: OutOfRangeError: model digits: .*-1e\+200"):
        client.predict("digits", np.concatenate([rows[1:2], rows[1:]]), chunk_rows=25)


def test_a_detached_job_counts_them_and_can_fail(client: Client) -> None:
    job = client.attach(client.submit(["digits", "root"], rows_with_gaps(), chunk_rows=7, detach=True))
    wait_for_job(job)
    parts = list(job.parts())
    assert sum(part.nonfinite[0] for part in parts) == job.ledger.nonfinite_inputs == len(BAD)
    assert sum(part.nonfinite[1] for part in parts) == job.ledger.nonfinite_outputs >= 1
    assert len(list(job.parts())) == len(parts)
    assert job.ledger.nonfinite_inputs == len(BAD)  # to read again counts nothing

    failing = client.attach(client.submit("digits", rows_with_gaps(), detach=True, on_nonfinite="fail"))
    failing.wait(timeout_seconds=60)
    with pytest.raises(RowsFailedError, match="row 0 failed at infer: NonFiniteError"):
        failing.result()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", rows_with_gaps())
    return tmp_path


def run(system: System, command: Any, *words: str) -> Result:
    return CliRunner().invoke(command, [*words, "--broker", system.url])


LINE = "celeriac: of 60 predicted rows, 4 have a NaN or an infinity in what a model took, "


def test_the_command_says_so_in_one_line(system: System, folder: Path) -> None:
    result = run(system, predict, "digits", "rows.npy", "-o", "out.npy", "--json", "--quiet")
    assert result.exit_code == 0, result.exception
    assert [line[: len(LINE)] for line in result.stderr.splitlines() if line.startswith("celeriac")] == [LINE]
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["ledger"]["nonfinite_inputs"] == 4
    assert json.loads(ledger_path(folder / "out.npy").read_text())["ledger"] == told["ledger"]
    assert "nonfinite_inputs 4" in run(system, status, told["job"]).stdout

    result = run(system, predict, "digits", "rows.npy", "-o", "out.npy", "--on-nonfinite", "allow", "--force")
    assert result.exit_code == 0, result.exception
    assert "celeriac:" not in result.stderr

    result = run(system, predict, "digits", "rows.npy", "-o", "out.npy", "--on-nonfinite", "fail", "--force")
    assert isinstance(result.exception, RowsFailedError)
    assert "row 0 failed at infer: NonFiniteError" in str(result.exception)


def test_a_job_that_was_left_says_so_when_it_is_fetched(system: System, folder: Path) -> None:
    job = run(system, predict, "digits", "rows.npy", "--detach", "--quiet").stdout.strip()
    result = run(system, fetch, job, "-o", "out.npy")
    assert result.exit_code == 0, result.exception
    assert LINE in result.stderr
    assert read_beside(folder / "out.npy")[0].ledger["nonfinite_inputs"] == 4
    job = run(system, predict, "digits", "rows.npy", "--detach", "--quiet", "--on-nonfinite", "allow").stdout.strip()
    assert "celeriac:" not in run(system, fetch, job, "-o", "other.npy").stderr


def test_failed_rows_are_marked_and_mended(system: System, folder: Path) -> None:
    words = ["predict", "label", "rows.npy", "-o", "out.npz", "--on-error", "fill", "--on-nonfinite", "fail", "--json"]
    result = run(system, predict, *words[1:])
    assert result.exit_code == 0, result.exception
    with np.load(folder / "out.npz") as arrays:
        assert np.flatnonzero(arrays["failed"]).tolist() == BAD
        assert np.flatnonzero(arrays["label"] == -1).tolist() == BAD
        assert np.flatnonzero(arrays["code"] == 255).tolist() == BAD
    fill = Fill("failed", {"label": -1, "code": 255})
    assert read_beside(folder / "out.npz")[0].fill == fill
    assert json.loads(result.stdout.splitlines()[-1])["fill"] == {"mark": "failed", "values": fill.values}

    # What is allowed now has not failed any more.
    result = run(system, predict, *words[1:5], "--resume", "--only-failed")
    assert result.exit_code == 0, result.exception
    assert LINE in result.stderr
    with np.load(folder / "out.npz") as arrays:
        assert not arrays["failed"].any()
        assert set(arrays["code"].tolist()) == {1}


def test_an_array_alone_has_its_marks_beside_it(system: System, folder: Path) -> None:
    words = ["digits", "rows.npy", "-o", "out.npy", "--on-error", "fill", "--on-nonfinite", "fail"]
    assert run(system, predict, *words).exit_code == 0
    assert np.flatnonzero(np.load(mask_path(folder / "out.npy"))).tolist() == BAD
    assert run(system, predict, *words[:4], "--force").exit_code == 0
    assert not mask_path(folder / "out.npy").exists()
