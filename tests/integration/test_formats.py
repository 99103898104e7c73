"""Functions and frozen graphs are models like any other: through a real worker, and in what `celeriac models` says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tests.formats import FUNCTIONS, NAMES, Case, frozen_case
from tests.manifests import write_manifest
from tests.systems import BIN, serving
from worker_config.errors import RowsFailedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def frozen(folder: Path) -> Case:
    return frozen_case(folder)


@pytest.fixture(scope="module")
def client(folder: Path, frozen: Case) -> Iterator[Client]:
    (folder / "format_functions.py").write_text(FUNCTIONS)
    manifest = write_manifest(
        folder,
        {
            "frozen": {"path": "frozen2.0.pb", "batch_rows": 5, **NAMES},
            "double": {"path": "format_functions:double", "batch_rows": 5},
            **{name: f"format_functions:{name}" for name in ("both", "sizes")},
            "fails": "format_functions:fail",
        },
    )
    with serving(folder, manifest) as system, Client(system.url) as client:
        yield client


@pytest.mark.parametrize("chunk_rows", [None, 1, 7])
def test_a_frozen_graph_by_tensor_names(client: Client, frozen: Case, chunk_rows: int | None) -> None:
    outputs = client.predict("frozen", frozen.rows, chunk_rows=chunk_rows)
    assert isinstance(outputs, dict)
    assert list(outputs) == NAMES["outputs"]
    for name, expected in frozen.expected.items():
        if expected.dtype == object:
            assert outputs[name].tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(outputs[name].astype(float), expected.astype(float), rtol=1e-5)


@pytest.mark.parametrize("chunk_rows", [None, 1, 7])
def test_a_function_takes_rows_as_they_are(client: Client, chunk_rows: int | None) -> None:
    rows = np.arange(23 * 2).reshape(23, 2)
    np.testing.assert_array_equal(client.predict("double", rows, chunk_rows=chunk_rows), rows * 2)
    both = client.predict("both", {"a": rows[:, 0], "b": rows}, chunk_rows=chunk_rows)
    assert isinstance(both, dict)
    np.testing.assert_array_equal(both["sum"], rows[:, 0] + rows.sum(axis=1))
    assert both["name"].tolist() == [f"row {row}" for row in rows[:, 0]]


def test_rows_without_end_without_number_and_uneven_reach_a_function(client: Client) -> None:
    np.testing.assert_array_equal(client.predict("double", (np.full(2, i) for i in range(9)))[:, 0], np.arange(9) * 2)
    assert len(client.predict("double", iter([]))) == 0
    assert len(client.predict("double", np.empty((0, 3)))) == 0
    sizes = client.predict("sizes", (np.zeros(1 + number % 3) for number in range(23)))
    assert isinstance(sizes, dict)
    assert sizes["size"].tolist() == [1 + number % 3 for number in range(23)]


def test_a_function_that_fails_is_named(client: Client) -> None:
    with pytest.raises(RowsFailedError, match="model fails: function format_functions:fail raised LookupError: no"):
        client.predict("fails", np.arange(3))


def test_models_are_shown_with_their_functions(client: Client, folder: Path) -> None:
    command = [str(BIN / "celeriac"), "models", "--models", "models.toml"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "from format_functions:double" in shown.stdout
    assert "odd/right.1-x:0 (?, 3) int64" in shown.stdout
