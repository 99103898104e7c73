"""Columns of a data set beside the predictions of its rows."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.rows.kept import KeptColumns
from producer.rows.part import Marks, Part
from producer.sinks import open_sink
from producer.sources import from_rows, open_source
from producer.sources.picked import pick
from tasks.protocol.messages import FailureRecord
from worker_config.errors import InputError, UsageError
from worker_config.files import path_text

ROWS = 1_000
COLUMNS = {"id": np.array([f"i{row}" for row in range(ROWS)], object), "n": np.arange(ROWS) * 2}


@pytest.fixture(params=["dict", "parquet", "csv"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "dict":
        return open_source(COLUMNS)
    if request.param == "parquet":
        pq.write_table(pa.table(COLUMNS), tmp_path / "x.parquet", row_group_size=64)
        return open_source(tmp_path / "x.parquet")
    lines = [f"{name},{n}\n" for name, n in zip(*COLUMNS.values(), strict=True)]
    (tmp_path / "x.csv").write_text("".join(["id,n\n", *lines]))
    return open_source(tmp_path / "x.csv")


def part(start: int, stop: int, *missing: int) -> Part:
    failed = tuple(FailureRecord(row, row + 1, "infer", "E", "no") for row in missing)
    return Part(0, start, stop, np.zeros(stop - start - len(missing)), failed, len(missing))


def test_rows_of_parts_have_their_values_beside_them(source: Any) -> None:
    kept = KeptColumns(source, ["n", "row", "id"])
    for one in (part(100, 130), part(130, 400, 200, 399), part(400, ROWS), part(7, 9)):
        outputs: Any = kept.beside(one, "churn").outputs
        numbers = one.numbers()
        assert list(outputs) == ["n", "row", "id", "churn"]
        assert outputs["n"].tolist() == (numbers * 2).tolist()
        assert outputs["row"].tolist() == numbers.tolist()
        assert outputs["id"].tolist() == [f"i{row}" for row in numbers]
        assert len(outputs["churn"]) == len(numbers)
    kept.close()


def test_all_outputs_have_them_beside_them(source: Any) -> None:
    numbers = np.array([3, 4, 900])
    outputs: Any = KeptColumns(source, ["id"]).beside_all({"a": np.zeros(3)}, numbers)
    assert (list(outputs), outputs["id"].tolist()) == (["id", "a"], ["i3", "i4", "i900"])
    none: Any = KeptColumns(source, ["id"]).beside_all(np.zeros(0), numbers[:0])
    assert {name: len(column) for name, column in none.items()} == {"id": 0, "output": 0}


def test_rows_that_were_picked_keep_their_numbers(source: Any) -> None:
    rows = np.array([5, 6, 70])
    kept = KeptColumns(pick(source, rows), ["row", "n"], numbers=rows)
    outputs: Any = kept.beside(part(0, 3, 1)).outputs
    assert (outputs["row"].tolist(), outputs["n"].tolist()) == ([5, 70], [10, 140])


@pytest.mark.parametrize("kind", ["dict", "frame", "parquet", "csv"])
def test_columns_stay_to_be_kept_where_inputs_are_made_of_others(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"p0": np.arange(9.0), "p1": np.arange(9.0) + 1, "id": [f"i{row}" for row in range(9)]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    data: Any = {"frame": frame, "dict": {name: frame[name].to_numpy() for name in frame}}.get(kind)
    made: Any = open_source(tmp_path / f"x.{kind}" if data is None else data, columns={"pixels": ["p0..p1"]})
    for names, numbers in (["id"], None), (["p1", "id"], np.array([3, 5, 8])):
        source = made if numbers is None else pick(made, numbers)
        outputs: Any = KeptColumns(source, names).beside(part(0, 3)).outputs
        rows = [0, 1, 2] if numbers is None else numbers.tolist()
        assert outputs["id"].tolist() == [f"i{row}" for row in rows]
        assert list(outputs) == [*names, "output"]


def test_a_stream_that_inputs_are_made_of_is_still_read_only_once() -> None:
    reader = pa.table({"p0": [1.0], "p1": [2.0], "id": ["a"]}).to_reader()
    with pytest.raises(UsageError, match="or can be read only once"):
        KeptColumns(open_source(reader, columns={"pixels": ["p0", "p1"]}), ["id"])


def test_text_has_a_width_for_files_of_numpy(source: Any) -> None:
    kept = KeptColumns(source, ["id", "n"])
    kept.fix_width()
    outputs: Any = kept.beside(part(0, 2)).outputs
    assert (outputs["id"].dtype, outputs["id"].tolist()) == (np.dtype("U4"), ["i0", "i1"])


def test_text_that_numpy_would_cut_keeps_its_form() -> None:
    kept = KeptColumns(
        open_source({"id": np.array(["a\0", "b"], object), "mixed": np.array(["a", b"b"], object)}), ["id", "mixed"]
    )
    kept.fix_width()
    outputs: Any = kept.beside(part(0, 2)).outputs
    assert outputs["id"].tolist() == ["a\0", "b"]
    assert outputs["mixed"].dtype == object


def test_files_have_a_path(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    for contents in (True, False):
        outputs: Any = KeptColumns(open_source(tmp_path, contents=contents), ["path"]).beside(part(1, 2)).outputs
        assert outputs["path"].tolist() == [str(tmp_path / "b.jpg")]


@pytest.mark.parametrize(
    ("data", "names", "models", "error", "words"),
    [
        (COLUMNS, ["gone"], ["m"], InputError, "has no column 'gone'; its columns are 'id', 'n'"),
        (COLUMNS, ["id", "n"], ["m", "n"], UsageError, "column 'n' cannot be kept: the outputs of a model"),
        (np.zeros(3), ["id"], ["m"], UsageError, "has no columns by name to keep"),
        (from_rows(iter([{"id": 1}])), ["id"], ["m"], UsageError, "or can be read only once"),
    ],
)
def test_what_cannot_be_kept_is_told_before_the_work(
    data: Any, names: list[str], models: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        KeptColumns(open_source(data), names, models)


def test_a_column_of_the_name_of_an_output_is_refused(source: Any) -> None:
    with pytest.raises(UsageError, match="column 'n' cannot be kept: an output has this name"):
        KeptColumns(source, ["n"]).beside(part(0, 2), "n")


def test_a_job_knows_the_numbers_of_its_rows() -> None:
    marks = Marks()
    for one in (part(4, 6), part(0, 4, 1), part(6, 9, 6, 7, 8)):
        marks.add(one)
    assert marks.numbers().tolist() == [0, 2, 3, 4, 5]
    marks.clear()
    assert marks.numbers().tolist() == []


GAPS: dict[str, Any] = {
    "id": np.array(["a", None, "c", "d"], object),
    "n": np.array([1, 2, None, 2**60 + 1], object),
    "x": np.array([0.5, None, 2.5, 3.5], object),
    "all": np.arange(4),
}


@pytest.fixture(params=["dict", "parquet", "csv"])
def gaps(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Columns with nulls; an empty text in CSV is a text."""
    if request.param == "dict":
        return open_source(GAPS)
    if request.param == "parquet":
        pq.write_table(pa.table(GAPS), tmp_path / "x.parquet")
        return open_source(tmp_path / "x.parquet")
    rows = zip(*(column.tolist() for column in GAPS.values()), strict=True)
    lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
    (tmp_path / "x.csv").write_text("\n".join([",".join(GAPS), *lines]))
    return open_source(tmp_path / "x.csv")


def test_a_null_is_kept_as_null(gaps: Any) -> None:
    kept = KeptColumns(gaps, list(GAPS))
    outputs: Any = kept.beside(part(0, 4)).outputs
    for name, column in GAPS.items():
        assert [value or None for value in outputs[name][1:].tolist()] == column[1:].tolist()
        assert outputs[name].tolist()[0] == column[0]
    assert (outputs["n"].dtype, outputs["x"].dtype) == (np.int64, np.float64)
    assert type(outputs["all"]) is np.ndarray
    kept.close()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_a_null_is_written_as_null(gaps: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    kept = KeptColumns(gaps, ["n", "x", "all"])
    with open_sink(path, 4, force=False) as sink:
        for start in (0, 2):
            sink.write(kept.beside(replace(part(start, start + 2), index=start // 2)))
        sink.commit()
    kept.close()
    if suffix == ".parquet":
        found: Any = pq.read_table(path)
        assert [str(field.type) for field in found.schema] == ["int64", "int64", "double", "int64", "double"]
        found = found.to_pydict()
    elif suffix == ".jsonl":
        lines = list(map(json.loads, path.read_text().splitlines()))
        found = {name: [line[name] for line in lines] for name in lines[0]}
    else:
        assert path.read_text().splitlines()[2:4] == ["1,2,,1,0", "2,,2.5,2,0"]
        return
    assert [found["n"], found["x"], found["all"]] == [GAPS["n"].tolist(), GAPS["x"].tolist(), [0, 1, 2, 3]]


def test_a_null_that_a_format_has_no_place_for_is_told_before_the_work(gaps: Any) -> None:
    with pytest.raises(InputError, match=r"column 'n': row 2 is null, for which \.npz has no place; keep it in \.parq"):
        KeptColumns(gaps, ["n"]).fix_width()


def test_many_columns_of_a_file_are_read_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"c{number}": [number, None] for number in range(50)}), tmp_path / "x.parquet")
    kept = KeptColumns(open_source(tmp_path / "x.parquet"), ["c0..c49"])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are not looked at
    outputs: Any = kept.beside(part(0, 2)).outputs
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208
    assert [outputs[f"c{number}"].tolist() for number in range(50)] == [[number, None] for number in range(50)]
    kept.close()


def test_what_is_no_text_in_a_column_of_texts_cannot_be_kept() -> None:
    kept = KeptColumns(open_source({"id": np.array(["a", "b", 5], object)}), ["id"])
    with pytest.raises(InputError, match=r"column 'id': row 2 cannot be kept: it is of type int, not a text"):
        kept.beside(part(1, 3))


# Every name has a text of its own: a backslash that looks like an escaped byte is escaped itself.
NAMES = {
    b"b\xff": "b\\xff",
    b"b\\xff": "b\\x5cxff",
    b"b\\xfg\\": "b\\xfg\\",
    b"\\\xc3": "\\\\xc3",
    "b\u00ff".encode(): "b\u00ff",
}


@pytest.mark.parametrize("columns", [None, ["path"]])
@pytest.mark.parametrize("picked", [False, True])
def test_the_path_of_a_file_whose_name_is_no_text_is_kept_escaped(
    tmp_path: Path, columns: list[str] | None, picked: bool
) -> None:
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    source: Any = open_source(tmp_path, columns=columns)
    source = pick(source, np.arange(len(NAMES))) if picked else source
    kept = KeptColumns(source, ["path"])
    kept.fix_width()
    outputs: Any = kept.beside(part(0, len(NAMES))).outputs
    assert outputs["path"].dtype.kind == "U"
    assert sorted(outputs["path"].tolist()) == sorted(f"{tmp_path}/{text}" for text in NAMES.values())
    assert {path_text(name) for name in NAMES} == {*NAMES.values()}
    rows = source.take(0, len(NAMES))
    raw = [row if isinstance(row, bytes) else row.encode() for row in (rows["path"] if columns else rows)]
    assert {os.path.basename(row) for row in raw} == {*NAMES}  # noqa: PTH119
