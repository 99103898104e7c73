"""The textbook tabular model, one input a feature, from every form of table: equal to Keras, with an id kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import Client, Loader
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.models import keras_may_warn
from tests.systems import System, serving
from worker_config.errors import ExitCode, InputError

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


# The two rows in which a value is missing, and in which column; of NumPy's own types only dates can have none.
NULLS = {"age": 7, "branch": 101}
DATES = {"joined": (7, 101)}


def with_nulls() -> dict[str, Any]:
    """The table with None in two rows."""
    table = dict(TABLE)
    for name, row in NULLS.items():
        table[name] = table[name].astype(object)
        table[name][row] = None
    return table


@pytest.fixture
def tables(celeriac: Celeriac) -> Celeriac:
    """The table in files of each form, and once more with nulls in two rows."""
    undated = {**TABLE, "joined": TABLE["joined"].copy()}
    for name, at in DATES.items():
        undated[name][list(at)] = "NaT"
    for stem, table, of_numpy in (("rows", TABLE, TABLE), ("nulls", with_nulls(), undated)):
        pq.write_table(pa.table(table), celeriac.folder / f"{stem}.parquet")
        with (celeriac.folder / f"{stem}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(table)
            lines.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        fixed = {name: texts_of_width(column) for name, column in of_numpy.items()}
        np.savez(celeriac.folder / f"{stem}.npz", **fixed)
        np.save(celeriac.folder / f"{stem}.npy", records(fixed))
    return celeriac


def texts_of_width(column: Any) -> Any:
    return column.astype("U16") if column.dtype == object else column


def records(table: dict[str, Any] = TABLE) -> np.ndarray[Any, Any]:
    """A record array."""
    rows = np.empty(ROWS, [(name, column.dtype) for name, column in table.items()])
    for name, column in table.items():
        rows[name] = column
    return rows


def masked() -> Any:
    """A record array whose missing values are masked."""
    rows = np.ma.array(records({name: texts_of_width(column) for name, column in TABLE.items()}))
    for name, row in NULLS.items():
        rows[name][row] = np.ma.masked
    return rows


def pandas_frame() -> Any:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; pip install 'celeriac[frames]'")
    table = {**with_nulls(), "plan": pandas.Categorical(TABLE["plan"])}
    return pandas.DataFrame(table).astype({"branch": "Int64", "country": "string"})


def polars_frame() -> Any:
    polars = pytest.importorskip("polars", reason="polars is not installed; pip install 'celeriac[frames]'")
    columns = {name: column.tolist() for name, column in with_nulls().items()}
    return polars.DataFrame(columns, schema_overrides={"age": polars.Int32, "plan": polars.Categorical})


def check(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(ROWS, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.npz", "rows.npy"])
def test_a_file_becomes_one_with_ids(tables: Celeriac, at: list[str], expected: Any, name: str) -> None:
    tables.succeeds("predict", "churn", name, "-o", "out.parquet", "--keep", "id", *at)
    table = pq.read_table(tables.folder / "out.parquet")
    assert table.column_names == ["row", "id", "churn"]
    assert table["id"].to_pylist() == TABLE["id"].tolist()
    check(table["churn"].to_pylist(), expected)


@pytest.mark.parametrize("name", ["nulls.parquet", "nulls.csv", "nulls.npz", "nulls.npy"])
def test_of_a_file_with_nulls_in_two_rows_these_fail_alone(
    tables: Celeriac, at: list[str], expected: Any, name: str
) -> None:
    command = ["predict", "churn", name, "-o", "out.parquet", "--keep", "id", *at]
    tables.succeeds(*command, "--on-error", "fill", "--chunk-rows", "32")
    table = pq.read_table(tables.folder / "out.parquet")
    assert table["id"].to_pylist() == TABLE["id"].tolist()
    check_but_two(table["churn"].to_pylist(), expected)
    lines = (tables.folder / "out.parquet.failures.jsonl").read_text().splitlines()
    columns = dict.fromkeys(DATES["joined"], "joined") if name.startswith("nulls.np") else by_row()
    for record, (row, column) in zip(map(json.loads, lines), columns.items(), strict=True):
        assert (record["start"], record["stop"], record["stage"]) == (row, row + 1, "read")
        assert f"column {column!r}: row {row} is or holds null; fill nulls before" in record["text"]

    tables.succeeds(*command, "--on-error", "skip", "--force")
    table = pq.read_table(tables.folder / "out.parquet")
    assert table["row"].to_pylist() == [row for row in range(ROWS) if row not in by_row()]
    ended = tables.run(*command, "--force")
    assert ended.code == ExitCode.INPUT
    assert "row 7 is or holds null; fill nulls before, or leave the column out, or let such rows fail" in ended.stderr


def by_row() -> dict[int, str]:
    return {row: name for name, row in NULLS.items()}


def check_but_two(found: Any, expected: Any) -> None:
    """All rows but two are what Keras gives; these have the filler."""
    scores, failed = np.asarray(found, np.float32).reshape(ROWS, 1), [*by_row()]
    assert np.isnan(scores[failed]).all()
    check(np.where(np.isnan(scores), expected, scores), expected)
    assert np.isnan(scores).sum() == len(failed)


@pytest.mark.parametrize(
    "make",
    [with_nulls, lambda: records(with_nulls()), masked, lambda: pa.table(with_nulls()), pandas_frame, polars_frame],
    ids=["dict", "records", "masked", "arrow", "pandas", "polars"],
)
def test_of_a_table_in_memory_with_nulls_in_two_rows_these_fail_alone(system: System, expected: Any, make: Any) -> None:
    with Client(system.url) as client:
        found: Any = client.predict("churn", make(), keep=["id"], on_error="fill")
        assert found["id"].tolist() == TABLE["id"].tolist()
        check_but_two(found["churn"], expected)
        job = client.submit("churn", make(), on_error="skip", chunk_rows=32)
        check_but_two(np.insert(np.asarray(job.result()), [7, 100], np.nan, axis=0), expected)
        assert [(record.start, record.stop, record.stage) for record in job.failures()] == [
            (row, row + 1, "read") for row in by_row()
        ]
        for record, column in zip(job.failures(), NULLS, strict=True):
            assert f"column {column!r}: row {record.start} is or holds null" in record.text
        with pytest.raises(InputError, match=r"column 'age': row 7 is or holds null.*or let such rows fail"):
            client.predict("churn", make())


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


@pytest.mark.parametrize("shuffle", [False, 40])
@pytest.mark.parametrize("kind", ["dict", "parquet"])
def test_training_takes_the_columns_of_the_step_and_leaves_out_rows_with_nulls(
    system: System, expected: Any, tmp_path: Path, kind: str, shuffle: bool | int
) -> None:
    pq.write_table(pa.table(with_nulls()), tmp_path / "rows.parquet")
    pq.write_table(pa.table({"left": list(range(ROWS)), **features()}), tmp_path / "bare.parquet")
    with Client(system.url) as client:
        source: Any = with_nulls() if kind == "dict" else tmp_path / "rows.parquet"
        with Loader(client, "churn", source, batch_rows=16, shuffle=shuffle, chunk_rows=32) as loader:
            found = np.concatenate(list(loader))
            assert [(record.start, record.stage) for record in loader.failures()] == [(7, "read"), (101, "read")]
        wanted = np.delete(expected, [7, 101], axis=0)
        np.testing.assert_allclose(*map(np.sort if shuffle else np.asarray, (found[:, 0], wanted[:, 0])), rtol=1e-4)
        source = {**features(), "left": np.arange(ROWS)} if kind == "dict" else tmp_path / "bare.parquet"
        with Loader(client, "bare", source, batch_rows=16) as loader:
            check(np.concatenate(list(loader)), expected)


def test_a_frame_is_predicted_whatever_else_stands_in_it(system: System, expected: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; pip install 'celeriac[frames]'")
    frame = pandas.DataFrame(features() | {"id": TABLE["id"], "joined": TABLE["joined"].astype("M8[s]")})
    frame["what"] = pandas.Series([{}] * ROWS, dtype=object)
    with Client(system.url) as client:
        found: Any = client.predict("bare", frame, keep=["id", "joined"])
        assert found["joined"][0].startswith(str(TABLE["joined"][0]))
        check(found["churn"], expected)
        frame["plan"] = frame["what"]
        with pytest.raises(InputError, match=r"'plan': is an array of Python objects \(150 dict\); convert it to"):
            client.predict("bare", frame)


def test_scalar_columns_are_inputs_by_name(system: System, expected: Any) -> None:
    with Client(system.url) as client:
        check(client.predict("bare", features()), expected)
        check(client.predict("bare", {**features(), "id": TABLE["id"], "joined": TABLE["joined"]}), expected)
        job = client.submit("bare", features(), detach=True, chunk_rows=37)
        check(client.attach(job).result(), expected)
