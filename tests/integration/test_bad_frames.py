"""Frames that a model cannot take: one line that says which column it is about, and what is there instead."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.systems import System, serving
from worker_config.errors import CeleriacError

FUNCTION = "def ratio(rows):\n    return rows['income'] / rows['age']\n"
# Few are a request, many a job.
FEW, MANY = 3, 600


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "functions.py").write_text(FUNCTION)
    entries = {"pair": str(models / "pair.keras"), "ratio": {"path": "functions:ratio", "batch_rows": 64}}
    with serving(folder, write_manifest(folder, entries), 1) as system:
        yield system


def people(rows: int, **columns: Any) -> pa.Table:
    """What the function takes, with some columns in the place of others; None leaves one out."""
    told = {"id": [f"i{row}" for row in range(rows)], "age": range(1, rows + 1), "income": np.ones(rows)}
    return pa.table({name: list(values) for name, values in (told | columns).items() if values is not None})


def pairs(rows: int, right: Any, name: str = "right") -> pa.Table:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * rows, np.float32)), 4)
    return pa.table({"left": lists, name: right})


NO_COLUMN = r"function functions:ratio raised KeyError: 'income'; it is given the columns 'id', 'age'"
NULL = r"column 'income': row 1 is or holds null; fill nulls before, or leave the column out, or let such rows fail"
TEXT = (
    r"model pair: input right \(\?, 3\) \w+; the data set is text \(object\), which does not convert; convert it to|"
    r"input 'right': is an array of Python objects \(\d+ ndarray\); make them numbers of one shape"
)
CASES: dict[str, tuple[str, Callable[[int], pa.Table], str]] = {
    "a column that an input needs": (
        "pair",
        lambda rows: pairs(rows, range(rows), "Right"),
        r"model pair has the inputs 'left', 'right'; the data set has 'left', 'Right', and no column 'right' "
        r"\('Right' is like it\); name columns as the inputs",
    ),
    "a column that a function asks for": (
        "ratio",
        lambda rows: people(rows, income=None),
        f"{NO_COLUMN}$",
    ),
    "one with nearly its name": (
        "ratio",
        lambda rows: people(rows, income=None, Incom=range(rows)),
        rf"{NO_COLUMN}, 'Incom' \('Incom' is like it\)$",
    ),
    "text in the place of numbers": ("pair", lambda rows: pairs(rows, [["x"] * 3] * rows), TEXT),
    "numbers of another shape": (
        "pair",
        lambda rows: pairs(rows, np.arange(rows)),
        r"model pair: input right \(\?, 3\) \w+; the data set's rows have the shape \(\)",
    ),
    "null": ("ratio", lambda rows: people(rows, income=[1, None, *range(2, rows)]), NULL),
    "structs": (
        "pair",
        lambda rows: pairs(rows, [{"a": 1}] * rows),
        r"'right'.*(convert it to numbers|no column 'right'|which no model takes)",
    ),
    "times": (
        "ratio",
        lambda rows: people(rows, income=[datetime.datetime(2026, 11, 29)] * rows),
        f"{NO_COLUMN}$",
    ),
}
KINDS: dict[str, Callable[[pa.Table], Any]] = {
    "table": lambda table: table,
    "polars": polars.DataFrame,
    "pandas": lambda table: table.to_pandas(),
    "pandas of arrow": lambda table: table.to_pandas(types_mapper=pandas.ArrowDtype),
}


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong(client: Client, case: str, kind: str, rows: int) -> None:
    model, make, words = CASES[case]
    if case == "null" and kind == "pandas":
        pytest.skip("there it is a NaN, which is a number")
    for returns in ("arrays", "frame"):
        with pytest.raises(CeleriacError, match=words) as raised:
            client.predict(model, KINDS[kind](make(rows)), returns=returns)  # type: ignore[call-overload]
        assert "\n" not in str(raised.value)


def test_an_index_that_repeats_is_kept(client: Client) -> None:
    for rows in (FEW, MANY):
        frame = people(rows).to_pandas().set_index(np.arange(rows) % 2)
        found = client.predict("ratio", frame, returns="frame")
        assert list(found.index) == list(frame.index)
        np.testing.assert_array_equal(found["output"], frame["income"] / frame["age"])
