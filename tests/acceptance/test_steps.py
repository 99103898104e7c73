"""A folder of files, a model's own functions beside the manifest, one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.models import in_one_process
from worker_config.errors import ExitCode

STEPS = """
import numpy as np


def open_images(paths):
    return np.stack([np.load(path) for path in paths])


def read_images(contents):
    return np.stack([np.frombuffer(content, np.float32) for content in contents])


def label(scores):
    return scores.argmax(axis=1)
"""


@pytest.fixture
def celeriac(celeriac: Celeriac, models: Path) -> Celeriac:
    images = {"preprocess": "my_steps:open_images", "postprocess": "my_steps:label"}
    write_manifest(celeriac.folder, {"images": {"path": models / "digits.keras", **images}})
    (celeriac.folder / "my_steps.py").write_text(STEPS)
    return celeriac


def test_a_folder_of_files_becomes_labels(celeriac: Celeriac, models: Path) -> None:
    images = np.random.default_rng(8).random((50, 64), np.float32)
    (celeriac.folder / "images").mkdir()
    for number, image in enumerate(images):
        np.save(celeriac.folder / "images" / f"{number:02}.npy", image)
    celeriac.succeeds("predict", "images", "images", "-o", "labels.jsonl", "--workers", 1)
    lines = [json.loads(line) for line in (celeriac.folder / "labels.jsonl").read_text().splitlines()]
    expected = in_one_process(models / "digits.keras", images).argmax(axis=1)
    assert lines == [{"row": row, "output": int(label)} for row, label in enumerate(expected)]


def test_the_bytes_of_files_may_travel(celeriac: Celeriac, models: Path) -> None:
    images = np.random.default_rng(9).random((20, 64), np.float32)
    for number, image in enumerate(images):
        (celeriac.folder / f"{number:02}.raw").write_bytes(image.tobytes())
    manifest = celeriac.folder / "models.toml"
    manifest.write_text(manifest.read_text().replace("open_images", "read_images"))
    celeriac.succeeds("predict", "images", "*.raw", "-o", "labels.npy", "--contents", "--workers", 1)
    expected = in_one_process(models / "digits.keras", images).argmax(axis=1)
    np.testing.assert_array_equal(np.load(celeriac.folder / "labels.npy"), expected)


def test_a_file_that_cannot_be_opened_is_one_line(celeriac: Celeriac) -> None:
    (celeriac.folder / "images").mkdir()
    (celeriac.folder / "images" / "no-image.txt").write_text("text")
    line = celeriac.refuses(
        ExitCode.ROWS_FAILED, "predict", "images", "images", "-o", "labels.npy", "--workers", 1, "--quiet"
    )
    assert f"row 0 ({celeriac.folder / 'images' / 'no-image.txt'}) failed at preprocess" in line
    assert "my_steps:open_images raised ValueError" in line


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        ("no_steps:f", "ModuleNotFoundError: No module named 'no_steps'"),
        ("my_steps:decode", "has no attribute 'decode'"),
    ],
)
def test_a_step_whose_function_is_not_there_is_one_line(celeriac: Celeriac, function: str, cause: str) -> None:
    write_manifest(celeriac.folder, {"decode": {"preprocess": function}})
    np.save(celeriac.folder / "rows.npy", np.zeros(3))
    line = celeriac.refuses(ExitCode.MODEL, "predict", "decode", "rows.npy", "-o", "out.npy", "--workers", 1)
    assert f"model decode cannot be loaded from {function}" in line
    assert cause in line


def test_rows_that_a_step_drops_are_in_no_output(celeriac: Celeriac) -> None:
    (celeriac.folder / "my_steps.py").write_text(
        "def odd(rows):\n    return [row if row % 2 else None for row in rows]\n"
    )
    write_manifest(celeriac.folder, {"odd": {"preprocess": "my_steps:odd", "drops_rows": True}})
    np.save(celeriac.folder / "rows.npy", np.arange(1_000))
    ended = celeriac.succeeds("predict", "odd", "rows.npy", "-o", "odd.parquet", "--workers", 1, "--json")
    ledger = json.loads(ended.stdout.splitlines()[-1])["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["skipped"], ledger["written"]) == (1_000, 500, 500, 500)
    table = pyarrow.parquet.read_table(celeriac.folder / "odd.parquet").to_pydict()
    assert table["row"] == table["output"] == list(range(1, 1_000, 2))
    line = celeriac.refuses(
        ExitCode.USAGE, "predict", "odd", "rows.npy", "-o", "odd.parquet", "--resume", "--only-failed"
    )
    assert "odd.parquet" in line


def test_a_function_that_is_not_there_is_one_line(celeriac: Celeriac) -> None:
    (celeriac.folder / "my_steps.py").unlink()
    np.save(celeriac.folder / "rows.npy", np.zeros((3, 64), np.float32))
    words = ("predict", "images", "rows.npy", "-o", "labels.npy", "--workers", 1)
    line = celeriac.refuses(ExitCode.MODEL, *words)
    assert "model images" in line
    assert "the function my_steps:open_images (ModuleNotFoundError: No module named 'my_steps')" in line
