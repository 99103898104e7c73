"""`celeriac predict` with rows that fail, by a system whose model fails for the rows that a test names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from producer.cli.predict import predict
from producer.outputs.sidecar_files import failures_path, read_beside
from tasks.outputs.failed_mask import mask_path
from tests.failed_rows import rows_of
from tests.unit.test_only_failed import FAILED, ROWS, Model, one
from worker_config.errors import OutputError

Runner = Any


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run the command in a folder with `rows.npy`; these rows fail."""
    np.save(tmp_path / "rows.npy", np.arange(ROWS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("producer.cli.request.check_names", lambda *_: None)
    monkeypatch.setattr("producer.cli.request.model_digests", lambda *_: ({"m": "9f3c"}, {}))
    monkeypatch.setattr("producer.cli.request.not_independent", lambda *_: [])

    def runs(bad: set[int], *words: str) -> Result:
        @contextmanager
        def system(*_: object, **__: object) -> Iterator[Model]:
            yield Model(one, bad)

        monkeypatch.setattr("producer.cli.request.local", system)
        return CliRunner().invoke(predict, ["m", "rows.npy", "-o", "out.npy", "--json", *words])

    return runs


@pytest.mark.parametrize("policy", ["skip", "fill"])
def test_failed_rows_are_told_and_mended(tmp_path: Path, run: Runner, policy: str) -> None:
    path = tmp_path / "out.npy"
    result = run(FAILED, "--on-error", policy)
    assert result.exit_code == 0, result.exception
    told, summary = result.output.splitlines()
    assert told.startswith("32 rows predicted in ")
    assert told.endswith(f", 8 failed (see {failures_path(path)}), written to {path}")
    assert (json.loads(summary)["failures"], json.loads(summary)["ledger"]["failed"]) == (8, 8)
    assert read_beside(path)[0].source["path"] == str(tmp_path / "rows.npy")

    result = run({30}, "--resume", "--only-failed")
    assert result.exit_code == 0, result.exception
    told, summary = result.output.splitlines()
    assert told.startswith("7 rows predicted in ")
    assert f", after 32 by an earlier run, 1 failed (see {failures_path(path)}), written to {path}" in told
    assert rows_of(read_beside(path)[1]) == [30]

    result = run(set(), "--resume", "--only-failed", "--on-error", policy)
    assert "1 row predicted in " in result.output
    assert "failed (see" not in result.output
    np.testing.assert_array_equal(np.load(path), one(np.arange(ROWS)))
    result = run(set(), "--resume", "--only-failed")
    assert isinstance(result.exception, OutputError)
    assert "nothing is left to predict again" in str(result.exception)


def test_changed_rows_are_refused(tmp_path: Path, run: Runner) -> None:
    assert run(FAILED, "--on-error", "fill").exit_code == 0
    np.save(tmp_path / "rows.npy", np.arange(ROWS) + 1)
    result = run(set(), "--resume", "--only-failed")
    assert isinstance(result.exception, OutputError)
    assert "cannot be continued: its input has changed (modified: " in str(result.exception)


def test_marks_of_another_name_are_told(tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run({3, 5}, "--on-error", "fill", "--force")
    assert "marked as" not in result.stderr
    assert np.flatnonzero(np.load(mask_path(tmp_path / "out.npy"))).tolist() == [3, 5]
    monkeypatch.setattr("tests.unit.test_predict_command.one", lambda rows: {"failed": rows})
    result = run({3, 5}, "--on-error", "fill", "-o", "out.npz")
    assert "celeriac: an output or a model is named 'failed': rows that failed are marked as 'failed_rows'" in (
        result.stderr.splitlines()
    )
    assert json.loads(result.stdout.splitlines()[-1])["fill"] == {"mark": "failed_rows", "values": {"failed": -1}}


def test_how_rows_that_are_not_finite_are_treated_is_one_of_three(run: Runner) -> None:
    result = run(set(), "--on-nonfinite", "weep")
    assert result.exit_code == 2
    assert "'warn', 'fail', 'allow'" in result.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["m", "none.npy", "-o", "out.npy"], "none.npy"),
        (["m", "rows.npy"], "Missing option '-o' / '--output'."),
        (["m", "rows.npy", "-o", "out.npy", "--resumes"], "No such option '--resumes'"),
        (["m,m", "rows.npy", "-o", "out.npy"], "name at least one, and each one once"),
        (["m", "rows.npy", "-o", "out.npy", "--broker", "http://here"], "'http://here' is not a Redis URL"),
    ],
)
def test_what_could_not_begin_has_its_object_too(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str
) -> None:
    result = CliRunner().invoke(predict, [*words, "--json"])
    assert result.exit_code
    told = json.loads(result.stdout.splitlines()[-1])
    assert text in told["error"]
    assert (told["job"], told["output"], told["failures"], told["ledger"]["failed"]) == (None, None, 0, 0)
    assert text not in CliRunner().invoke(predict, words).stdout, "without --json there is none"


def test_records_agree_with_failed_rows_where_the_first_one_ends_the_job(run: Runner) -> None:
    result = run({3})
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["failures"], told["ledger"]["failed"]) == (1, 1)
