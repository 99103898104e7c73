"""Frames, streams and records through real workers: equal to the arrays in them, and given back with predictions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from producer import AsyncClient, Client
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving
from worker_config.errors import InputError, RowsFailedError, UsageError

FUNCTIONS = """
import numpy as np


def picky(rows):
    if 13 in rows["n"]:
        raise ValueError("a row that I do not like")
    return {"n": rows["n"] * 2, "pair": np.stack([rows["n"]] * 2, axis=1)}


def total(rows):
    return rows["x"] + rows["y"]
"""
ROWS = 500
RANDOM = np.random.default_rng(7)
LEFT, RIGHT = RANDOM.normal(size=(ROWS, 4)).astype(np.float32), RANDOM.integers(0, 10, (ROWS, 3))
PIXELS = RANDOM.normal(size=(ROWS, 64)).astype(np.float32)
NAMES = [f"p{number}" for number in range(64)]


def lists(values: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


PAIR = pa.table({"id": [f"row {row}" for row in range(ROWS)], "right": lists(RIGHT), "left": lists(LEFT)})


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "functions.py").write_text(FUNCTIONS)
    entries = {name: {"path": str(models / f"{name}.keras")} for name in ("digits", "pair")}
    steps = {name: {"path": f"functions:{name}", "batch_rows": 64} for name in ("picky", "total")}
    with serving(folder, write_manifest(folder, {**entries, **steps}), 2) as system:
        yield system


@pytest.fixture(scope="module")
def pair(models: Path) -> Any:
    return in_one_process(models / "pair.keras", {"left": LEFT, "right": RIGHT})


@pytest.fixture(scope="module")
def digits(models: Path) -> Any:
    return in_one_process(models / "digits.keras", PIXELS)


def check(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found.tolist()), wanted, rtol=1e-4, atol=1e-5)


WAYS = {
    "table": lambda: PAIR,
    "chunks": lambda: pa.concat_tables([PAIR.slice(0, 111), PAIR.slice(111)]),
    "polars": lambda: polars.DataFrame(PAIR),
    "pandas": lambda: PAIR.to_pandas(),
    "pandas of arrow": lambda: PAIR.to_pandas(types_mapper=pandas.ArrowDtype),
    "reader": lambda: PAIR.to_reader(64),
    "dicts": lambda: PAIR.to_pylist(),
    "iterator": lambda: iter(PAIR.to_pylist()),
}


@pytest.mark.parametrize("rows", [3, ROWS], ids=["few", "all"])
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_gives_the_outputs_of_its_arrays(client: Client, pair: Any, way: str, rows: int) -> None:
    data: Any = WAYS[way]()
    if rows < ROWS:
        data = (
            [row for row, _ in zip(data, range(rows), strict=False)]
            if way in ("dicts", "iterator")
            else (PAIR.slice(0, rows).to_reader() if way == "reader" else data[:rows])
        )
    found: Any = client.predict("pair", data)
    for name in ("wide", "narrow"):
        check(found[name], pair[name][:rows])


def test_a_query_is_read_in_order_by_jobs_and_streams(client: Client, digits: Any) -> None:
    with duckdb.connect() as connection:
        connection.register("pixels", pandas.DataFrame({**{name: PIXELS[:, at] for at, name in enumerate(NAMES)}}))
        check(client.predict("digits", connection.sql("select * from pixels")), digits)
        check(np.array(list(client.stream("digits", connection.sql("select * from pixels"), chunk_rows=50))), digits)


@pytest.mark.parametrize("rows", [3, ROWS], ids=["few", "all"])
def test_columns_of_numbers_are_the_only_input_of_a_model(client: Client, digits: Any, rows: int) -> None:
    frame = pandas.DataFrame(PIXELS, columns=NAMES)
    mixed = frame.assign(p3=frame["p3"].astype("float64"))
    for data in (frame, mixed, polars.DataFrame(frame), pa.table(mixed), mixed.to_dict("list")):
        check(client.predict("digits", data[:rows] if not isinstance(data, dict) else data)[:rows], digits[:rows])
    check(np.array(list(client.stream("digits", frame, chunk_rows=64))), digits)
    with pytest.raises(InputError, match="no column 'pixels', nor 64 columns of numbers, which would be taken side by"):
        client.predict("digits", frame.drop(columns="p7"))
    with pytest.raises(InputError, match=r"is made of texts \(column 'p7'\) and numbers"):
        client.predict("digits", frame.assign(p7="x"))


@pytest.mark.parametrize("rows", [5, ROWS], ids=["few", "all"])
@pytest.mark.parametrize("way", ["table", "polars", "pandas"])
def test_a_frame_comes_back_with_its_predictions(client: Client, pair: Any, way: str, rows: int) -> None:
    data: Any = WAYS[way]()[:rows]
    if way == "pandas":
        data.index = [7] * rows
    found: Any = client.predict("pair", data, returns="frame")
    assert type(found) is type(data)
    assert list(getattr(found, "column_names", None) or found.columns) == ["id", "right", "left", "narrow", "wide"]
    table = pa.table(found) if way != "pandas" else found
    check(np.stack(table["wide"].to_numpy()), pair["wide"][:rows])
    check(table["narrow"].to_numpy(), pair["narrow"][:rows, 0])
    if way == "pandas":
        assert list(found.index) == [7] * rows
        pandas.testing.assert_frame_equal(found[["id", "left"]], data[["id", "left"]])
    job = client.submit("pair", data)
    again: Any = job.result(returns="frame")
    assert again.equals(found) if way != "pandas" else list(again.index) == [7] * rows
    assert set(job.result()) == {"wide", "narrow"}


@pytest.mark.parametrize("rows", [20, ROWS], ids=["few", "all"])
def test_rows_that_failed_leave_the_frame_or_hold_fillers(client: Client, rows: int) -> None:
    whole: list[Any] = [None if row == 2 else row for row in range(rows)]
    for data in (
        pa.table({"n": whole}),
        polars.DataFrame({"n": whole}),
        pandas.DataFrame({"n": pandas.array(whole, "Int64")}),
    ):
        skipped: Any = pa.table(client.predict("picky", data, returns="frame", on_error="skip"))
        kept = [row for row in range(rows) if row not in (2, 13)]
        assert skipped["n"].to_pylist() == kept
        assert skipped["n_predicted"].to_pylist() == [2 * row for row in kept]
        filled: Any = client.predict("picky", data, returns="frame", on_error="fill")
        values = np.asarray(filled["n_predicted"].to_numpy()).tolist()
        assert values == [-1 if row in (2, 13) else 2 * row for row in range(rows)]
        with pytest.raises((RowsFailedError, InputError), match=r"row 2 is or holds null|a row that I do not like"):
            client.predict("picky", data, returns="frame")


def test_frames_in_an_event_loop(system: System, pair: Any) -> None:
    async def work() -> None:
        async with AsyncClient(settings=system.settings()) as client:
            for rows in (3, ROWS):
                found = await client.predict("pair", polars.DataFrame(PAIR)[:rows], returns="frame")
                check(np.stack(found["wide"].to_numpy()), pair["wide"][:rows])
            with pytest.raises(UsageError, match="the data set is no frame"):
                await client.predict("pair", {"left": LEFT, "right": RIGHT}, returns="frame")
            rows = [row async for row in client.stream("pair", PAIR.to_reader(100))]
            check(np.stack([row["wide"] for row in rows]), pair["wide"])
            with pytest.raises(UsageError, match="leave keep out"):
                await client.predict("pair", PAIR, returns="frame", keep="id")

    asyncio.run(work())


def test_frames_that_lack_something_are_told(client: Client) -> None:
    cases = [
        (PAIR.rename_columns(["id", "Right", "left"]), "no column 'right' .'Right' is like it."),
        (PAIR.drop_columns(["right"]).append_column("right", pa.array(["x"] * ROWS)), r"input right .* \(\)"),
        (pandas.DataFrame(PIXELS[:, :2], columns=["a", "a"]), "two columns of the name 'a'"),
        (pandas.DataFrame(index=range(3)), "has no columns"),
        (PAIR.to_reader(), "the data set is no frame"),
        (WAYS["dicts"](), "the data set is no frame"),
    ]
    for data, words in cases:
        with pytest.raises((InputError, UsageError), match=words):
            client.predict("pair", data, returns="frame")


@pytest.mark.parametrize("way", ["table", "polars", "pandas"])
def test_a_frame_without_rows_comes_back_without_rows(client: Client, way: str) -> None:
    frame = pa.table(dict.fromkeys(NAMES, PIXELS[:0, 0]))
    kinds: dict[str, Any] = {"table": frame, "polars": polars.DataFrame(frame), "pandas": frame.to_pandas()}
    found: Any = client.predict("digits", kinds[way], returns="frame")
    assert len(found) == 0
    assert list(getattr(found, "column_names", None) or found.columns) == [*NAMES, "scores"]


def test_a_stream_that_raises_ends_the_job_after_the_rows_before(client: Client) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from PAIR.slice(0, 300).to_batches(max_chunksize=100)
        raise OSError("the disk is gone")

    job = client.submit("pair", pa.RecordBatchReader.from_batches(PAIR.schema, batches()), chunk_rows=100)
    parts, came = job.parts(), 0
    for _ in range(3):
        came += next(parts).rows
    with pytest.raises(InputError, match=r"record batch 3, from row 300 on, did not come: .*the disk is gone"):
        next(parts)
    assert came == 300


STREAM = """
import numpy as np
import psutil
import pyarrow as pa
from producer import Client

asked = 0

def batches():
    global asked
    while True:
        asked += 1
        yield pa.record_batch({"x": np.arange(2**17) + asked, "y": np.zeros(2**17)})  # 2 MiB

with Client() as client:
    before = psutil.Process().memory_info().rss
    stream = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64(), "y": pa.float64()}), batches())
    job = client.submit("total", stream, max_waiting_bytes=2**20)
    taken = 0
    for part in job.parts():
        taken += part.rows
        if taken > 300 * 2**17:  # 600 MiB
            break
    print(asked * 2**17 - taken, psutil.Process().memory_info().rss - before)
    job.cancel()
    assert job.wait(timeout_seconds=60)
"""


def test_a_stream_that_is_larger_than_memory_takes_no_more_of_it(system: System) -> None:
    """What waits is bounded by what is in flight, and the giver is asked for no more."""
    ahead, taken_bytes = system.numbers_of(STREAM)
    assert ahead < 100 * 2**17
    assert taken_bytes < 400 * 2**20
