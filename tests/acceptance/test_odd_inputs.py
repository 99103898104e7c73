"""Files whose names are odd, and whose dtype NumPy does not know, by the command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.systems import System, serving
from worker_config.errors import ExitCode

STEPS = """
import os
import pathlib

import numpy as np


def double(rows):
    return rows * 2


def read(paths):
    return np.array([float(pathlib.Path(os.fsdecode(path)).read_text()) for path in paths])
"""
ROWS = np.arange(6, dtype=np.float32)
NAMES = [
    "with space",
    'it\'s "quoted"',
    "a[1]",
    "star*",
    "né ☃",
    "-dash",
    "line\nbreak",
    "percent%s{0}",
    os.fsdecode(b"raw\xff"),
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "odd_steps.py").write_text(STEPS)
    models = {"double": {"path": "odd_steps:double"}, "read": {"path": "odd_steps:read"}}
    with serving(folder, write_manifest(folder, models), children=1) as system:
        yield system


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_input_and_output(celeriac: Celeriac, at: list[str], name: str) -> None:
    np.save(celeriac.folder / f"{name}.npy", ROWS)
    output = f"{name} out.npz"
    words = ["predict", *at, "-o", output, "--json", "--", "double", f"{name}.npy"]
    assert celeriac.succeeds(*words).json["output"].endswith(" out.npz")
    with np.load(celeriac.folder / output) as found:
        (array,) = (found[key] for key in found.files)
    np.testing.assert_array_equal(array, ROWS * 2)
    assert "exists; use --force to replace it" in celeriac.refuses(ExitCode.USAGE, *words)
    assert celeriac.visible_names() == {f"{name}.npy", output}


def test_a_folder_of_odd_names_is_predicted_and_one_of_them_mended(celeriac: Celeriac, at: list[str]) -> None:
    folder = celeriac.folder / "ro\nws"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_text(str(number))
    names = sorted(NAMES, key=os.fsencode)
    (folder / "a[1]").write_text("broken")
    words = ["predict", "read", "ro\nws", "-o", "out.npy", *at, "--json"]
    assert celeriac.succeeds(*words, "--on-error", "skip").json["ledger"]["failed"] == 1
    (folder / "a[1]").write_text("2")

    line = celeriac.refuses(ExitCode.USAGE, *words, "--resume", "--only-failed")
    assert "cannot be continued: its input has changed (bytes: " in line
    ended = celeriac.succeeds(*words, "--resume", "--only-failed", "--accept-changes")

    assert ended.json["ledger"]["failed"] == 0
    expected = [NAMES.index(name) for name in names]
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), expected)


@pytest.mark.parametrize("data", ["rows.npy", "rows.npz"])
def test_bfloat16_that_numpy_saved_as_raw_bytes(celeriac: Celeriac, at: list[str], data: str) -> None:
    rows = ROWS.astype(ml_dtypes.bfloat16)
    path = celeriac.folder / data
    save(path, rows)
    words = ["predict", "double", data, "-o", "out.jsonl", *at, "--json", *(["--array", "x"] if "z" in data else [])]
    line = celeriac.refuses(ExitCode.INPUT, *words)
    assert data in line
    assert "--dtype" in line or "dtype" in line
    line = celeriac.refuses(ExitCode.USAGE, *words, "--dtype", "words")
    assert "dtype is 'words', for raw bytes in a NumPy file; give one of bfloat16" in line

    celeriac.succeeds(*words, "--dtype", "bfloat16")

    lines = (celeriac.folder / "out.jsonl").read_text().splitlines()
    assert lines == [f'{{"row":{row},"output":{2.0 * row}}}' for row in range(len(ROWS))]
    save(path, ROWS)
    line = celeriac.refuses(ExitCode.INPUT, *words, "--dtype", "bfloat16", "--force")
    assert "holds no raw bytes of 2 each that could be bfloat16; leave out the dtype" in line


def save(path: Path, rows: np.ndarray) -> None:
    if path.suffix == ".npz":
        np.savez(path, x=rows)
    else:
        np.save(path, rows)
