"""Columns of texts of which the first rows have none: strings or bytes, as later ones show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, open_sink
from worker_config.errors import OutputError

ROWS = 30
HEAD = JournalHead(source={"name": "rows"})


def texts(rows: int, text: Any, shape: tuple[int, ...]) -> Any:
    array = np.empty((rows, *shape), object)
    array[...] = text
    return array


def opened(path: Path, *, journal: bool, resume: bool = False) -> Sink:
    return open_sink(path, ROWS, False, journal=HEAD if journal else None, resume=resume)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("text", ["a", b"\xff"])
@pytest.mark.parametrize("ending", ["without a journal", "with one", "continued"])
@pytest.mark.parametrize("first", ["dropped", "null"])
def test_the_first_text_decides(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], text: Any, ending: str, first: str
) -> None:
    path, journal = tmp_path / f"out{suffix}", ending != "without a journal"
    sink = opened(path, journal=journal)
    nulls = np.ma.array(texts(10, "", shape), mask=True)
    dropped = {"outputs": {"a": texts(0, "", shape), "n": np.zeros(0)}, "skipped": 10, "dropped": ((0, 10),)}
    sink.write(Part(0, 0, 10, **(dropped if first == "dropped" else {"outputs": {"a": nulls, "n": np.zeros(10)}})))
    for start in (10, 20):
        if ending == "continued":
            sink.abort()
            sink = opened(path, journal=True, resume=True)
        sink.write(Part(start // 10, start, start + 10, {"a": texts(10, text, shape), "n": np.ones(10)}))
    sink.commit()

    table = pq.read_table(path) if suffix == ".parquet" else pa.feather.read_table(path)
    value = pa.binary() if isinstance(text, bytes) else pa.string()
    assert table.schema.field("a").type == (pa.list_(value, 6) if shape else value)
    before = [] if first == "dropped" else [[None] * 6 if shape else None] * 10
    assert table["a"].to_pylist() == before + [[text] * 6 if shape else text] * 20
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_columns_are_decided_one_by_one(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.parquet", journal=True)
    for start, values in ((0, (None, None)), (10, (None, b"b")), (20, ("a", b"b"))):
        columns = {}
        for name, value in zip("ab", values, strict=True):
            columns[name] = np.ma.array(texts(10, value or "", ()), mask=value is None)
        sink.write(Part(start // 10, start, start + 10, columns))
    sink.commit()
    table = pq.read_table(tmp_path / "out.parquet")
    assert [field.type for field in table.schema][1:] == [pa.string(), pa.binary()]
    assert table["a"].to_pylist() == [None] * 20 + ["a"] * 10
    assert table["b"].to_pylist() == [None] * 10 + [b"b"] * 20


def test_a_column_is_not_decided_twice(tmp_path: Path) -> None:
    with opened(tmp_path / "out.parquet", journal=True) as sink:
        sink.write(Part(0, 0, 10, {"a": texts(0, "", ())}, (), 10, ((0, 10),)))
        sink.write(Part(1, 10, 20, {"a": texts(10, "a", ())}))
        with pytest.raises(OutputError, match="rows 20-30 is not string"):
            sink.write(Part(2, 20, 30, {"a": texts(10, b"\xff", ())}))
