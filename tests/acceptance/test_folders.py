"""Outputs that are folders of files, by the command: columns beside them, rows that fail and are mended, tries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.output_sets import assert_same, names_in
from worker_config.errors import ExitCode

ROWS = 60
BAD = [0, 7, *range(12, 24), 59]

STEPS = """
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def read(rows):
    texts = rows["number"] if isinstance(rows, dict) else rows
    if (HERE / "strict").exists() and any(text.startswith("bad") for text in texts):
        raise ValueError("a bad row")
    return np.array([float(text.removeprefix("bad")) for text in texts], np.float32)


def halves(values):
    return {"half": values / 2, "sign": np.sign(values).astype(np.int8)}
"""


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    """A table of two columns besides that of the models, and rows that fail as long as `strict` is there."""
    (celeriac.folder / "steps.py").write_text(STEPS)
    (celeriac.folder / "strict").touch()
    write_manifest(
        celeriac.folder,
        {
            name: {"preprocess": "steps:read", "postprocess": "steps:halves", "columns": {"number": ["number"]}}
            for name in ("numbers", "others")
        },
    )
    table = {
        "id": [None if row % 5 == 3 else f"id {row}" for row in range(ROWS)],
        "number": [f"bad{row}" if row in BAD else str(row) for row in range(ROWS)],
        "when": np.arange(ROWS).astype("datetime64[s]"),
    }
    pq.write_table(pa.table(table), celeriac.folder / "rows.parquet", row_group_size=16)
    return celeriac


def words(output: str, *more: object, models: str = "numbers") -> list[str]:
    fixed = ("--columns", "number", "--keep", "id,when", "--json", "--workers", 1, "--chunk-rows", 6)
    return ["predict", models, "rows.parquet", "-o", output, *map(str, (*fixed, *more))]


def without_keep(output: str, *more: object) -> list[str]:
    both = words(output, "--on-error", "fill", *more, models="numbers,others")
    return [word for word in both if word not in ("--keep", "id,when")]


@pytest.mark.parametrize(
    ("suffix", "policy", "models"),
    [(".parquet", "skip", "numbers"), (".parquet", "fill", "numbers,others"), (".jsonl", "fill", "numbers")],
)
def test_rows_have_their_columns_beside_them_before_and_after_they_are_mended(
    celeriac: Celeriac, suffix: str, policy: str, models: str
) -> None:
    folder, file = celeriac.folder / f"out{suffix}", celeriac.folder / f"file{suffix}"
    told = {}
    for step in (["--on-error", policy], ["--resume", "--only-failed"]):
        for output in (f"{folder.name}/", file.name):
            told[output] = celeriac.succeeds(*words(output, *step, models=models)).json
        assert names_in(folder) == [f"part-00000{suffix}"]
        assert_same(folder, file)
        assert told[f"{folder.name}/"]["fill"] == told[file.name]["fill"]
        assert told[f"{folder.name}/"]["failures"] == told[file.name]["failures"]
        (celeriac.folder / "strict").unlink(missing_ok=True)
    assert told[file.name]["ledger"]["failed"] == 0
    refused = celeriac.run(*words(f"{folder.name}/", "--resume", "--only-failed", models=models))
    assert (refused.code, "no row of it has failed" in refused.stderr) == (ExitCode.USAGE, True)


def test_a_try_says_what_the_run_would_and_leaves_nothing(celeriac: Celeriac) -> None:
    (celeriac.folder / "strict").unlink()  # of a batch in which every row fails nobody knows the outputs
    before = celeriac.visible_names()
    told = celeriac.succeeds(*words("out.parquet/", "--on-error", "skip", "--dry-run")).json
    assert told["output"] == str(celeriac.folder / "out.parquet")
    assert celeriac.succeeds(*without_keep("out.zarr/", "--dry-run")).json["output"] == str(
        celeriac.folder / "out.zarr"
    )
    assert (celeriac.visible_names(), celeriac.hidden_names()) == (before, set())
    refused = celeriac.run(*words("out.npy/", "--dry-run"))
    assert "no place for columns beside the predictions" in refused.stderr
    refused = celeriac.run(*words("out.txt/", "--dry-run"))
    assert "a folder of such files cannot be written" in refused.stderr


def test_a_zarr_store_takes_each_option_or_says_why_not(celeriac: Celeriac) -> None:
    folder, file = celeriac.folder / "out.zarr", celeriac.folder / "file.zarr"
    refused = celeriac.run(*words("out.zarr/"))
    assert ".zarr has no place for columns beside the predictions" in refused.stderr
    told = {}
    for step in (["--job", "{}"], ["--resume", "--only-failed"]):
        for output in ("out.zarr/", "file.zarr"):
            options = [word.format(output[0]) for word in step]
            told[output] = celeriac.succeeds(*without_keep(output, *options)).json
        assert_same(folder, file)
        for what in ("fill", "failures"):
            assert told["out.zarr/"][what] == told["file.zarr"][what]
        (celeriac.folder / "strict").unlink(missing_ok=True)
    assert told["out.zarr/"]["failures"] == 0
    assert celeriac.hidden_names() == set()


def test_an_output_that_is_continued_must_keep_the_same(celeriac: Celeriac) -> None:
    output = Path("out.csv/")
    celeriac.succeeds(*words(f"{output}/", "--on-error", "skip"))
    others = [word.replace("id,when", "id") for word in words(f"{output}/", "--resume", "--only-failed")]
    refused = celeriac.run(*others)
    assert "the columns of the input that it keeps are others (--keep id,when before, --keep id now)" in refused.stderr
    manifest = json.loads((celeriac.folder / "out.csv.manifest.json").read_text())
    assert (manifest["complete"], manifest["rows"]) == (True, ROWS - len(BAD))
