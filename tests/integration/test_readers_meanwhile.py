"""Folders that workers write, read by what people read them with, while the job runs: the first rows, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pytest
import zarr

from producer import Client
from producer.rows.part import Part
from producer.sinks import Sink
from tests.output_sets import assert_nothing_beside
from tests.split_writes import ROWS, predict, rows_with, stepped, write_part, writing
from tests.systems import System
from tests.waiting import wait_until

# Rows of a folder, and nothing but them.
Read: TypeAlias = Callable[[Path], Any]


def _table(columns: dict[str, Any]) -> Any:
    """The three values of each row, in a column of lists or three of numbers; rows are numbered from zero."""
    row, *values = columns.values()
    np.testing.assert_array_equal(row, np.arange(len(row)))
    return np.array(values[0] if len(values) == 1 else list(zip(*values, strict=True)), np.float32).reshape(-1, 3)


def _arrow(name: str) -> Read:
    return lambda folder: _table(ds.dataset(folder, format=name).to_table().to_pydict())


def _duckdb(function: str) -> Read:
    def read(folder: Path) -> Any:
        query = f"FROM {function}('{folder}/*{folder.suffix}')"
        return _table(duckdb.connect().sql(query).to_arrow_table().to_pydict())

    return read


def _polars(scan: Callable[..., pl.LazyFrame]) -> Read:
    return lambda folder: _table(scan(folder / f"*{folder.suffix}").collect().to_dict(as_series=False))


def _numpy(folder: Path) -> Any:
    return np.concatenate([np.load(path) for path in sorted(folder.iterdir())])


def _zarr(folder: Path) -> Any:
    return zarr.open_array(folder, mode="r")[:]


READERS: list[tuple[str, str, Read]] = [
    (".parquet", "arrow", _arrow("parquet")),
    (".parquet", "duckdb", _duckdb("read_parquet")),
    (".parquet", "polars", _polars(pl.scan_parquet)),
    (".feather", "arrow", _arrow("feather")),
    (".feather", "polars", _polars(pl.scan_ipc)),
    (".csv", "arrow", _arrow("csv")),
    (".csv", "duckdb", _duckdb("read_csv")),
    (".csv", "polars", _polars(pl.scan_csv)),
    (".jsonl", "arrow", _arrow("json")),
    (".jsonl", "duckdb", _duckdb("read_json")),
    (".jsonl", "polars", _polars(pl.scan_ndjson)),
    (".npy", "numpy", _numpy),
    (".zarr", "zarr", _zarr),
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with writing(tmp_path_factory.mktemp("w"), stepped("one")) as system:
        yield system


@pytest.mark.parametrize(("suffix", "name", "read"), READERS, ids=[f"{one[0]} {one[1]}" for one in READERS])
def test_whoever_reads_while_the_job_runs_finds_the_first_rows(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str, read: Read
) -> None:
    monkeypatch.setattr("tasks.outputs.zarr.ZARR_BLOCK_BYTES", 4_096)
    data, output = rows_with(), out / f"{name}{suffix}"
    over, found, seen = threading.Event(), list[BaseException](), [0]

    def look() -> None:
        try:
            while not over.wait(0.001):
                if not (output.exists() and any(output.iterdir())):
                    continue
                values = read(output)
                np.testing.assert_array_equal(values, data[: len(values), 1:4])
                assert len(values) >= seen[-1], "what was there stays"
                seen.append(len(values))
        except BaseException as error:
            found.append(error)

    def waits(sink: Sink, part: Part) -> None:
        """Until somebody has read more rows than so many, of which the sink takes note meanwhile."""
        if (least := {1_024: 0, 2_560: 1_024}.get(part.start)) is not None:
            wait_until(lambda: sink._sync() or seen[-1] > least or found, "somebody has looked")  # type: ignore[func-returns-value]
        write_part(sink, part)

    monkeypatch.setattr(Sink, "write", waits)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        predict(client, "one", data, output, part_bytes=1, sync_seconds=0.0)
        wait_until(lambda: seen[-1] == ROWS or found, "somebody has seen all rows")
    finally:
        over.set()
        thread.join()
    assert found == []
    assert len({*seen} - {0, ROWS}) > 1
    assert_nothing_beside(output)
