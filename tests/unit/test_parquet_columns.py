"""How columns stand in a Parquet file: which have dictionaries, and that readers of others give the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tasks.outputs.formats import WRITERS
from tasks.outputs.row_spec import RowSpec
from tasks.outputs.temp_paths import OutputTarget

ROWS = 5_000
RANDOM = np.random.default_rng(0)
ARRAYS: dict[tuple[str, ...], Any] = {
    ("float",): RANDOM.random(ROWS, np.float32),
    ("half",): RANDOM.random(ROWS).astype(np.float16),
    ("a.b", "vector"): RANDOM.random((ROWS, 3)),
    ("label",): RANDOM.integers(0, 10, ROWS),
    ("labels",): RANDOM.integers(0, 10, (ROWS, 2)).astype(np.int32),
    ("text",): np.array([f"text {n % 7}" for n in range(ROWS)], object),
    ("failed",): RANDOM.random(ROWS) < 0.1,
}
# Ascending, with gaps of any size.
NUMBERS = np.cumsum(RANDOM.integers(1, 2**40, ROWS))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "out.parquet"
    writer = WRITERS[".parquet"](OutputTarget(path, ROWS, "t"))
    writer.create()
    writer.begin({key: RowSpec(array.dtype, array.shape[1:]) for key, array in ARRAYS.items()}, ARRAYS)
    for start in range(0, ROWS, 999):
        piece = slice(start, start + 999)
        writer.write(start, {key: array[piece] for key, array in ARRAYS.items()}, NUMBERS[piece])
    writer.finish(ROWS)
    writer.publish()
    return path


def test_columns_whose_values_may_be_few_have_dictionaries_and_no_others(path: Path) -> None:
    group = pq.read_metadata(path).row_group(0)
    encodings = {
        column.path_in_schema.split(".list")[0]: {*column.encodings} - {"RLE"}
        for column in map(group.column, range(group.num_columns))
    }
    assert encodings.pop("row") == {"DELTA_BINARY_PACKED"}
    plain = {name for name, found in encodings.items() if "RLE_DICTIONARY" not in found}
    assert plain == {"float", "half", "a.b/vector", "failed"}


def test_other_readers_give_the_same_values(path: Path) -> None:
    read = {
        "pyarrow": pq.read_table(path).to_pydict(),
        "polars": pl.read_parquet(path).to_dict(as_series=False),
        "duckdb": duckdb.sql(f"from '{path}'").to_arrow_table().to_pydict(),
    }
    expected = {"row": NUMBERS.tolist()} | {"/".join(key): array.tolist() for key, array in ARRAYS.items()}
    for reader, columns in read.items():
        assert columns.keys() == expected.keys(), reader
        for name, values in columns.items():
            assert [list(one) if isinstance(one, tuple) else one for one in values] == expected[name], (reader, name)
