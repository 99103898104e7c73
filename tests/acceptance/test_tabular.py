"""The textbook tabular model, one input a feature, from every form of table: equal to Keras, with an id kept."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import Client
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.models import keras_may_warn
from tests.systems import System, serving
from worker_config.errors import ExitCode

ROWS = 150
NUMBERS = ("age", "tenure", "balance", "salary")
WORDS = {"plan": ["basic", "pro", "team"], "country": ["at", "de", "fr"], "device": ["phone", "desk"]}
CODES = {"branch": 40, "products": 5, "visits": 9}
FEATURES = (*NUMBERS, *WORDS, *CODES, "days", "active")

STEPS = """
import numpy as np


def days(rows):  # since the day on which a customer joined, whom a date comes as text for
    joined = np.asarray(rows["joined"], "datetime64[D]")
    return {**rows, "days": (np.datetime64("2024-06-01") - joined).astype(np.float32)}
"""


def make_table() -> dict[str, Any]:
    """Twelve features, a date in the place of `days`, and what no model takes."""
    random = np.random.default_rng(18)
    return {
        "id": np.array([f"customer {row}" for row in range(ROWS)], object),
        "age": random.integers(18, 90, ROWS),
        "tenure": random.integers(0, 20, ROWS).astype(np.int32),
        "balance": random.normal(1000, 500, ROWS).round(2),
        "salary": random.lognormal(10, 1, ROWS).astype(np.float32),
        **{name: random.choice(np.array([*words, "else"], object), ROWS) for name, words in WORDS.items()},
        **{name: random.integers(0, 2 * most, ROWS) for name, most in CODES.items()},
        "active": random.random(ROWS) < 0.5,
        "joined": np.datetime64("2023-01-01") + random.integers(0, 500, ROWS).astype("m8[D]"),
    }


TABLE = make_table()


def features() -> dict[str, Any]:
    """What the model itself is given."""
    days = (np.datetime64("2024-06-01") - TABLE["joined"]).astype(np.float32)
    return {name: days if name == "days" else TABLE[name] for name in FEATURES}


@keras_may_warn()
def write_model(path: Path) -> Any:
    """Write the model, and give what it predicts."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(5)
    inputs, encoded = {}, []
    for name, column in features().items():
        dtype = "string" if name in WORDS else "int64" if name in CODES else "float32"
        one = inputs[name] = keras.Input((1,), name=name, dtype=dtype)
        if name in WORDS:
            encoded.append(keras.layers.StringLookup(vocabulary=WORDS[name], output_mode="one_hot")(one))
        elif name in CODES:
            lookup = keras.layers.IntegerLookup(vocabulary=list(range(CODES[name])))
            encoded.append(keras.layers.Flatten()(keras.layers.Embedding(CODES[name] + 1, 3)(lookup(one))))
        else:
            scale = keras.layers.Normalization(axis=None)
            scale.adapt(column.astype(np.float32))
            encoded.append(scale(one))
    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()(encoded))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="churn")(hidden))
    model.save(path)
    kinds = {name: tf.string if name in WORDS else tf.int64 if name in CODES else tf.float32 for name in FEATURES}
    rows = {
        name: tf.constant(column.tolist() if name in WORDS else column, kinds[name])[:, tf.newaxis]
        for name, column in features().items()
    }
    return np.asarray(model(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    return write_model(folder / "churn.keras")


@pytest.fixture(scope="module")
def system(folder: Path, expected: Any) -> Iterator[System]:
    (folder / "tab_steps.py").write_text(STEPS)
    model = {"path": "churn.keras"}
    manifest = write_manifest(folder, {"bare": model, "churn": {**model, "preprocess": "tab_steps:days"}})
    # In TOML a table within a line is no JSON.
    manifest.write_text(f'{manifest.read_text()}columns = {{joined = ["joined"]}}\n')
    with serving(folder, manifest, children=1) as system:
        yield system


@pytest.fixture
def tables(celeriac: Celeriac) -> Celeriac:
    pq.write_table(pa.table(TABLE), celeriac.folder / "rows.parquet")
    with (celeriac.folder / "rows.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(TABLE)
        lines.writerows(zip(*(column.tolist() for column in TABLE.values()), strict=True))
    np.save(celeriac.folder / "rows.npy", records())
    return celeriac


def records() -> np.ndarray[Any, Any]:
    """A record array, whose texts have a width."""
    kinds = [(name, "U16" if column.dtype == object else column.dtype) for name, column in TABLE.items()]
    rows = np.empty(ROWS, kinds)
    for name, column in TABLE.items():
        rows[name] = column
    return rows


def check(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(ROWS, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.npy"])
def test_a_file_becomes_one_with_ids(tables: Celeriac, at: list[str], expected: Any, name: str) -> None:
    tables.succeeds("predict", "churn", name, "-o", "out.parquet", "--keep", "id", *at)
    table = pq.read_table(tables.folder / "out.parquet")
    assert table.column_names == ["row", "id", "churn"]
    assert table["id"].to_pylist() == TABLE["id"].tolist()
    check(table["churn"].to_pylist(), expected)


def test_csv_comes_out(tables: Celeriac, at: list[str], expected: Any) -> None:
    tables.succeeds("predict", "churn", "rows.csv", "-o", "out.csv", "--keep", "id,joined", *at)
    with (tables.folder / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == TABLE["id"].tolist()
    assert [line["joined"] for line in lines] == TABLE["joined"].astype(str).tolist()
    check([line["churn_0"] for line in lines], expected)


@pytest.mark.parametrize("suffix", [".npz", ".jsonl"])
def test_the_others_keep_columns_too(tables: Celeriac, at: list[str], expected: Any, suffix: str) -> None:
    tables.succeeds("predict", "churn", "rows.parquet", "-o", f"out{suffix}", "--keep", "id,row", *at)
    if suffix == ".npz":
        with np.load(tables.folder / "out.npz") as found:
            assert found["id"].tolist() == TABLE["id"].tolist()
            assert found["row"].tolist() == list(range(ROWS))
            check(found["churn"], expected)
    told = tables.refuses(ExitCode.USAGE, "predict", "churn", "rows.parquet", "-o", "x.npy", "--keep", "id", *at)
    assert ".npy has no place for columns beside the predictions" in told


@pytest.mark.parametrize("make", [lambda: TABLE, records, lambda: pa.table(TABLE)], ids=["dict", "records", "arrow"])
def test_tables_in_memory_are_predicted(system: System, expected: Any, make: Any) -> None:
    with Client(system.url) as client:
        check(client.predict("churn", make()), expected)
        found: Any = client.predict("churn", make(), keep=["id", "row"])
    assert list(found) == ["id", "row", "churn"]
    assert found["id"].tolist() == TABLE["id"].tolist()
    check(found["churn"], expected)


def test_scalar_columns_are_inputs_by_name(system: System, expected: Any) -> None:
    with Client(system.url) as client:
        check(client.predict("bare", features()), expected)
        check(client.predict("bare", {**features(), "id": TABLE["id"], "joined": TABLE["joined"]}), expected)
        job = client.submit("bare", features(), detach=True, chunk_rows=37)
        check(client.attach(job).result(), expected)
