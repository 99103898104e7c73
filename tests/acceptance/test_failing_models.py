"""`predict` and `fetch` with a model that fails: the others' output is whole where the format can, and all is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.acceptance.commands import Celeriac, Ended
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 60
BAD = 33
FUNCTIONS = """
from pathlib import Path


def sums(rows):
    return {"sum": rows.sum(axis=1), "double": rows * 2}


def gated(rows):
    if (rows == 42).any():
        (Path(__file__).parent / "gate").read_bytes()  # waits, where it is a pipe, until somebody opens its other end
    if (rows > 90).any():
        raise LookupError("too much")
    return rows + 1
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, special_models: Path) -> Iterator[System]:
    """A worker of one child, which takes chunks in order; `words` knows the numbers 0 to 9."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_functions.py").write_text(FUNCTIONS)
    paths = {"words": special_models / "words.keras", "sums": "my_functions:sums", "gated": "my_functions:gated"}
    with serving(folder, write_manifest(folder, paths), 1) as system:
        yield system


@pytest.fixture
def rows(celeriac: Celeriac) -> np.ndarray:
    rows = np.random.default_rng(4).integers(0, 10, (ROWS, 3)).astype(np.int32)
    rows[BAD] = 17
    np.save(celeriac.folder / "rows.npy", rows)
    return rows


def predict(system: System, models: str, output: str, *words: object) -> list[object]:
    common = ("--chunk-rows", 10, "--json", "--broker", system.url)
    return ["predict", models, "rows.npy", "-o", output, *common, *words]


def read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    group = zarr.open_group(str(path), mode="r")
    return {name: member[:] for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)}


def check_went_on(celeriac: Celeriac, ended: Ended, bad: str, output: str) -> dict[str, Any]:
    """One line, the exit code, and a complete output; gives the summary."""
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert f"model {bad} failed alone at row 33 (infer: " in ended.lines[0]
    assert ended.lines[0].endswith(
        f"; its outputs are left out of {celeriac.folder / output}, which is complete with the others"
    )
    assert celeriac.visible_names() == {"rows.npy", output}
    summary = ended.json
    assert (summary["output"], summary["error"]) == (str(celeriac.folder / output), None)
    assert list(summary["failed_models"]) == [bad]
    assert summary["failed_models"][bad]["start"] == 33
    assert (summary["ledger"]["predicted"], summary["ledger"]["written"]) == (ROWS, ROWS)
    return summary


@pytest.mark.parametrize("output", ["out.npz", "out.zarr"])
@pytest.mark.parametrize("models", ["words,sums", "sums,words"])
def test_the_others_go_on_where_the_output_has_a_place_for_each(
    celeriac: Celeriac, system: System, rows: np.ndarray, models: str, output: str
) -> None:
    ended = celeriac.run(*predict(system, models, output))
    check_went_on(celeriac, ended, "words", output)
    assert "60 rows predicted in" in ended.stdout
    arrays = read(celeriac.folder / output)
    assert arrays.keys() == {"sums/sum", "sums/double"}
    np.testing.assert_array_equal(arrays["sums/sum"], rows.sum(axis=1))
    np.testing.assert_array_equal(arrays["sums/double"], rows * 2)


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
def test_rows_that_stand_together_end_with_the_model(
    celeriac: Celeriac, system: System, rows: np.ndarray, output: str
) -> None:
    ended = celeriac.run(*predict(system, "words,sums", output))
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert "row 33 failed in model words at infer: " in ended.lines[0]
    assert "; with .npz or .zarr the other models would go on; 30 rows are safe beside " in ended.lines[0]
    assert (ended.json["output"], ended.json["failed_models"]) == (None, {})
    assert ended.json["ledger"]["failed"] == 1
    assert celeriac.visible_names() == {"rows.npy"}


def test_a_run_that_continues_does_not_bring_the_model_back(
    celeriac: Celeriac, system: System, rows: np.ndarray
) -> None:
    rows[55] = 99  # for the other model, which is the last one then
    np.save(celeriac.folder / "rows.npy", rows)
    command = predict(system, "words,gated", "out.npz")
    ended = celeriac.run(*command)
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert "row 55 failed in model gated at infer: " in ended.lines[0]
    assert list(ended.json["failed_models"]) == ["words"]
    assert ended.safe_rows == 50

    ended = celeriac.run(*command, "--resume")
    assert ended.code == ExitCode.ROWS_FAILED, ended
    assert "row 55 failed at infer: " in ended.lines[0]
    assert list(ended.json["failed_models"]) == ["words"]
    assert ended.json["ledger"]["chunks_sent"] == 1


def test_an_interrupted_run_goes_on_without_the_model(celeriac: Celeriac, system: System, rows: np.ndarray) -> None:
    rows[50] = 42
    np.save(celeriac.folder / "rows.npy", rows)
    gate = system.folder / "gate"
    os.mkfifo(gate)
    command = predict(system, "words,gated,sums", "out.npz", "--chunk-rows", 2)
    begun = celeriac.start(*command)

    def dropped() -> bool:
        begun.check_running()
        journal = celeriac.folder / ".out.npz.journal"
        return journal.exists() and b'"dropped"' in journal.read_bytes()

    wait_until(dropped, "the drop is noted")
    begun.signal(signal.SIGKILL)
    begun.end()
    gate.write_bytes(b"")
    gate.unlink()
    gate.touch()

    ended = celeriac.run(*command, "--chunk-rows", 7, "--resume")
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert "model words failed alone at row 33 (infer: " in ended.lines[0]
    assert ended.json["ledger"]["resumed"] > 0
    arrays = read(celeriac.folder / "out.npz")
    assert arrays.keys() == {"gated", "sums/sum", "sums/double"}
    np.testing.assert_array_equal(arrays["gated"], rows + 1)
    np.testing.assert_array_equal(arrays["sums/double"], rows * 2)


@pytest.mark.parametrize("output", ["out.npz", "out.zarr", "out.parquet"])
def test_a_job_that_was_left_goes_on_too(celeriac: Celeriac, system: System, rows: np.ndarray, output: str) -> None:
    words = ("--broker", system.url)
    left = celeriac.run("predict", "words,sums", "rows.npy", "--detach", "--quiet", "--chunk-rows", 10, *words)
    job = left.stdout.strip()
    fetched = celeriac.run("fetch", job, "-o", output, "--json", *words)
    if output == "out.parquet":
        assert fetched.code == ExitCode.ROWS_FAILED
        celeriac.check_one_line(fetched)
        assert f"job {job}: row 33 failed in model words at infer: " in fetched.lines[0]
        assert fetched.lines[0].endswith("; with .npz or .zarr the other models would go on")
        assert celeriac.visible_names() == {"rows.npy"}
    else:
        check_went_on(celeriac, fetched, "words", output)
        arrays = read(celeriac.folder / output)
        assert arrays.keys() == {"sums/sum", "sums/double"}
        np.testing.assert_array_equal(arrays["sums/double"], rows * 2)
    told = celeriac.succeeds("status", job, *words).stdout
    assert "failed     model words failed alone at row 33 (infer: " in told


def test_a_keras_model_beside_it_gives_what_it_gives_alone(
    celeriac: Celeriac, system: System, special_models: Path
) -> None:
    rows = np.random.default_rng(4).integers(0, 10, (ROWS, 3)).astype(np.int32)
    np.save(celeriac.folder / "rows.npy", rows)
    ended = celeriac.succeeds(*predict(system, "words,sums", "out.npz"))
    assert ended.json["failed_models"] == {}
    expected = in_one_process(special_models / "words.keras", rows)
    np.testing.assert_allclose(read(celeriac.folder / "out.npz")["words"], expected, rtol=1e-5, atol=1e-6)
