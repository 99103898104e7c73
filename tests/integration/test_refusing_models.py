"""Models that refuse blank rows, through a real worker: loaded, right, and with an output for a data set of no rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.refusing import Saved, write_refusing
from tests.systems import System, serving
from worker_config.errors import RowsFailedError

KINDS = ["examples", "photos", "paths", "texts", "ids", "ratios", "lookup"]
MEMORY = "_in_memory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def saved(folder: Path) -> dict[str, Saved]:
    return write_refusing(folder)


@pytest.fixture(scope="module")
def system(folder: Path, saved: dict[str, Saved]) -> Iterator[System]:
    keys = {name: {"path": path, "allow_file_operations": name == "paths"} for name, (path, *_) in saved.items()}
    keys |= {name + MEMORY: {**keys[name], "prefer": "memory"} for name in ("ids", "ratios", "lookup")}
    np.save(folder / "calibration.npy", saved["ids"][1])
    keys["ids_calibrated"] = {**keys["ids"], "calibration": "calibration.npy"}
    with serving(folder, write_manifest(folder, keys), children=1) as system:
        yield system


@pytest.mark.parametrize("name", [*KINDS, "ids_in_memory", "ratios_in_memory", "lookup_in_memory", "ids_calibrated"])
def test_a_model_that_refuses_blank_rows_is_right_on_those_that_it_takes(
    client: Client, saved: dict[str, Saved], name: str
) -> None:
    _, rows, expected = saved[name.partition("_")[0]]
    outputs = client.predict(name, rows, chunk_rows=5)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_no_rows_have_the_form_of_the_outputs_and_reach_no_model(
    client: Client, saved: dict[str, Saved], name: str
) -> None:
    _, rows, expected = saved[name]
    outputs = client.predict(name, rows[:0])
    assert isinstance(outputs, np.ndarray)
    assert (outputs.shape, outputs.dtype) == ((0, *expected.shape[1:]), expected.dtype)


@pytest.mark.parametrize("name", ["ids", "ids_in_memory", "ratios", "ratios_in_memory", "lookup_in_memory"])
def test_a_row_that_the_model_refuses_has_failed_whichever_way_it_is_run(
    client: Client, saved: dict[str, Saved], name: str
) -> None:
    _, rows, expected = saved[name.partition("_")[0]]
    rows = rows.copy()
    rows[7] = "unknown" if rows.dtype == object else 0
    with pytest.raises(RowsFailedError, match="failed at infer"):
        client.predict(name, rows)
    job = client.submit(name, rows, on_error="skip")
    outputs = job.result()
    assert isinstance(outputs, np.ndarray)
    assert [record.start for record in job.failures()] == [7]
    np.testing.assert_allclose(outputs, np.delete(expected, 7, axis=0), rtol=1e-5, atol=1e-5)


def test_models_says_what_was_not_warmed_up(system: System, client: Client) -> None:
    notes = {info.name: info.note for info in client.describe(["examples", "paths", "ids", "ids_calibrated"])}
    assert "its first batch warms it up, as it refuses blank rows (InvalidArgumentError: " in notes["examples"]
    assert "NotFoundError" in notes["paths"]
    assert "its first batch warms it up" in notes["ids"]
    assert "warms it up" not in notes["ids_calibrated"]
    shown = system.celeriac("models", "--models", system.folder / "models.toml", CELERIAC_BROKER_URL="")
    assert shown.returncode == 0, shown.stderr
    assert "its first batch warms it up" in shown.stdout
