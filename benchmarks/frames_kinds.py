"""The same rows as arrays, as a table of Arrow and as DataFrames: several columns, or one matrix; and their models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import polars
import pyarrow as pa

COLUMNS = 8
NAMES = [f"c{number}" for number in range(COLUMNS)]
KINDS = ("arrays", "table", "polars", "pandas")
BATCH_ROWS = 65_536

MANIFEST = f"""
[models.by_name]
path = "benchmarks.split_reads_model:total"
batch_rows = {BATCH_ROWS}

[models.matrix]
path = "matrix.keras"
"""


def columns_of(rows: int) -> dict[str, npt.NDArray[np.float64]]:
    """Columns of numbers that are all different."""
    return {name: np.arange(rows, dtype=np.float64) + number for number, name in enumerate(NAMES)}


def matrix_of(rows: int) -> npt.NDArray[np.float32]:
    """The rows of a matrix, by rows."""
    return (np.arange(rows * COLUMNS, dtype=np.float32) % 1_000).reshape(rows, COLUMNS)


def by_name(kind: str, rows: int) -> Any:
    """Columns that a function takes by their names."""
    columns = columns_of(rows)
    makers: dict[str, Callable[[], Any]] = {
        "arrays": lambda: columns,
        "table": lambda: pa.table(columns),
        "polars": lambda: polars.DataFrame(pa.table(columns)),
        "pandas": lambda: pandas.DataFrame(columns),
    }
    return makers[kind]()


def matrix(kind: str, rows: int) -> Any:
    """The only input of a model: an array, a column of lists of one size, or the columns of a DataFrame."""
    array = matrix_of(rows)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), COLUMNS)
    makers: dict[str, Callable[[], Any]] = {
        "arrays": lambda: array,
        "table": lambda: pa.table({"x": lists}),
        "polars": lambda: polars.DataFrame(pa.table({"x": lists})),
        "pandas": lambda: pandas.DataFrame(array, columns=NAMES),
    }
    return makers[kind]()


FORMS: dict[str, Callable[[str, int], Any]] = {"by_name": by_name, "matrix": matrix}
