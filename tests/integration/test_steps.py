"""Functions around a model run in the worker: files are opened there, uneven rows made even, outputs made labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from producer.sources import open_files
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode, RowsFailedError

STEPS = """
import os

import numpy as np


def open_images(paths):
    return np.stack([np.resize(np.load(path), 64).astype(np.float32) for path in paths])


def open_sequences(paths):
    return [np.load(path)[:, :4] for path in paths]


def label(scores):
    return {"label": scores.argmax(axis=1), "name": [f"digit {number}" for number in scores.argmax(axis=1)]}



def lose(rows):
    return rows[1:]


def fail(rows):
    raise LookupError(f"no image {rows[0]}")
"""
FILES = 30


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_steps.py").write_text(STEPS)
    digits = {"path": models / "digits.keras"}
    manifest = write_manifest(
        folder,
        {
            "images": digits | {"preprocess": "my_steps:open_images", "postprocess": "my_steps:label"},
            "sequences": {"path": special_models / "mean.keras", "preprocess": "my_steps:open_sequences"},
            "loses": digits | {"preprocess": "my_steps:lose"},
            "fails": digits | {"preprocess": "my_steps:fail"},
        },
    )
    with serving(folder, manifest) as system:
        yield system


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of uneven shape, each with other values."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(5)
    for number in range(FILES):
        np.save(folder / f"{number:03}.npy", rng.random((7 + number % 3, 8), np.float32))
    return folder


@pytest.mark.parametrize("chunk_rows", [None, 1, 7])
def test_rows_are_paths_that_the_worker_opens(
    client: Client, images: Path, models: Path, chunk_rows: int | None
) -> None:
    rows = np.stack([np.resize(np.load(path), 64) for path in sorted(images.iterdir())])
    labels = in_one_process(models / "digits.keras", rows).argmax(axis=1)
    outputs = client.predict("images", str(images), chunk_rows=chunk_rows)
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["label"], labels)
    assert outputs["name"].tolist() == [f"digit {number}" for number in labels]


def test_what_a_function_makes_may_be_of_uneven_shape(client: Client, images: Path, special_models: Path) -> None:
    expected = [
        in_one_process(special_models / "mean.keras", np.load(p)[None, :, :4])[0] for p in sorted(images.iterdir())
    ]
    outputs = client.predict("sequences", open_files(images), chunk_rows=11)
    np.testing.assert_allclose(outputs, np.stack(expected), rtol=1e-5, atol=1e-6)


def test_no_rows_need_no_function(client: Client) -> None:
    outputs = client.predict("images", np.empty((0,), dtype=object))
    assert isinstance(outputs, dict)
    assert (outputs["label"].shape, outputs["name"].shape) == ((0,), (0,))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("loses", "rows 0-5 failed at preprocess: .*preprocess my_steps:lose returned 4 rows for 5"),
        (
            "fails",
            r"row 0 \(.*000.npy\) failed at preprocess: .*:fail raised LookupError: .*no image .*000.npy",
        ),
    ],
)
def test_a_function_that_fails_is_named(client: Client, images: Path, model: str, told: str) -> None:
    with pytest.raises(RowsFailedError, match=told):
        client.predict(model, open_files(images), chunk_rows=5)


def test_a_function_that_cannot_be_imported_ends_the_worker(system: System, models: Path) -> None:
    manifest = system.folder / "wrong.toml"
    manifest.write_text(f'[models.digits]\npath = "{models}/digits.keras"\npreprocess = "no_such:f"\n')
    worker = system.start_worker(manifest, 1)
    wait_until(lambda: worker.process.poll() is not None, "the worker has ended")
    assert worker.process.returncode == ExitCode.MODEL
    assert "the function no_such:f (ModuleNotFoundError: No module named 'no_such')" in worker.output()
    assert str(system.folder) in worker.output().splitlines()[-1]
