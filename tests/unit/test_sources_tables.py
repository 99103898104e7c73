"""Columns by name: of dicts, records, frames, tables of Arrow and files; which of them are taken, and what is said."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from producer.rows.readers import SliceReader
from producer.rows.source import Source, Table, table_of
from producer.sources import BatchSource, from_batches, open_source
from producer.sources.choose import ColumnNames, choose, for_models
from producer.sources.picked import pick
from tasks.datasets.rows import Marked
from tasks.protocol.records import ModelInfo, TensorSpec
from worker_config.errors import InputError, UsageError

DAYS = [datetime.date(2024, 5, day) for day in (1, 2, 3)]
DATES = [str(day) for day in DAYS]
TABLE = pa.table(
    {
        "id": ["a", "b", "c"],
        "age": [30, 40, 50],
        "joined": DAYS,
        "at": pa.array([datetime.datetime(2024, 5, 1, 10, 30)] * 3, pa.timestamp("s", "Europe/Berlin")),
        "p0": [0.0, 1, 2],
        "p1": [3.0, 4, 5],
        "image": [
            {"bytes": b"x", "size": {"w": 1}},
            {"bytes": b"y", "size": {"w": 2}},
            {"bytes": b"", "size": {"w": 3}},
        ],
    }
)
RECORDS = np.array(
    [("a", 30, DAYS[0], (0, 3)), ("b", 40, DAYS[1], (1, 4)), ("c", 50, DAYS[2], (2, 5))],
    [("id", "U5"), ("age", ">i4"), ("joined", "M8[D]"), ("p", "f4", (2,))],
)


def pandas_frame() -> Any:
    pandas = needed("pandas")
    zone = datetime.timezone(datetime.timedelta(hours=2))
    return pandas.DataFrame(
        {
            "id": ["a", "b", "c"],
            "age": pandas.array([30, 40, 50], "Int64"),
            "joined": np.array(DAYS, "M8[s]"),
            "at": [datetime.datetime(2024, 5, 1, 12, 30, tzinfo=zone)] * 3,
        }
    )


def polars_frame() -> Any:
    columns = TABLE.select(["id", "age", "joined", "at"])
    return needed("polars").DataFrame(columns.to_pydict())


def needed(library: str) -> Any:
    return pytest.importorskip(library, reason=f"{library} is not installed; pip install 'celeriac[frames]'")


FRAMES = {"pandas": pandas_frame, "polars": polars_frame}


def rows_of(source: Source | BatchSource) -> Any:
    if isinstance(source, Source):
        return source.take(0, source.rows)
    [batch] = source.batches()
    return batch


def as_lists(source: Source | BatchSource) -> dict[str, Any]:
    return {name: column.tolist() for name, column in rows_of(source).items()}


@pytest.fixture(params=["parquet", "table", "batch", "records", "npy", "pandas", "polars", "dict"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same columns in every form that has such."""
    if request.param == "parquet":
        pq.write_table(TABLE, tmp_path / "x.parquet")
        return tmp_path / "x.parquet"
    if request.param == "npy":
        np.save(tmp_path / "x.npy", RECORDS)
        return tmp_path / "x.npy"
    if request.param in FRAMES:
        return FRAMES[request.param]()
    kinds = {"table": TABLE, "batch": TABLE.to_batches()[0], "records": RECORDS}
    return kinds.get(request.param, {name: RECORDS[name] for name in RECORDS.dtype.names or ()})


def test_columns_that_models_take_come_by_name(data: Any) -> None:
    source = open_source(data)
    rows = as_lists(source)
    assert (source.rows, rows["id"], rows["age"]) == (3, ["a", "b", "c"], [30, 40, 50])
    assert "joined" not in rows


def test_dates_come_as_text_to_who_names_them(data: Any) -> None:
    named = as_lists(open_source(data, columns=["joined,id"]))
    assert named["id"] == ["a", "b", "c"]
    assert [day.removesuffix("T00:00:00") for day in named["joined"]] == DATES  # pandas has no dates without times


def test_rows_that_were_picked_have_the_same_columns(data: Any) -> None:
    table = table_of(pick(open_source(data), np.array([0, 2])))
    assert table is not None
    assert "joined" in table.others
    named = as_lists(table.only(["joined", "age"]))
    assert ([day[:10] for day in named["joined"]], named["age"]) == (DATES[::2], [30, 50])


def test_a_column_that_is_not_there_is_told_with_those_that_are(data: Any) -> None:
    with pytest.raises(InputError, match="has no column 'wage'; its columns are 'id', 'age'"):
        open_source(data, columns="wage")


@pytest.mark.parametrize("make", [lambda: TABLE, pandas_frame, polars_frame])
def test_times_with_a_zone_are_in_utc(make: Callable[[], Any]) -> None:
    assert as_lists(open_source(make(), columns="at"))["at"][0].startswith("2024-05-01T10:30:00")


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (["pixels=p0..p1,age"], {"pixels": [[0, 3, 30], [1, 4, 40], [2, 5, 50]]}),
        ({"pixels": ["p0..p1"], "id": ["id"]}, {"pixels": [[0, 3], [1, 4], [2, 5]], "id": ["a", "b", "c"]}),
        (["image.bytes", "w=image.size.w"], {"image.bytes": [b"x", b"y", b""], "w": [1, 2, 3]}),
    ],
)
def test_inputs_are_made_of_columns_and_of_fields(tmp_path: Path, columns: ColumnNames, rows: Any) -> None:
    pq.write_table(TABLE, tmp_path / "x.parquet")
    for data in (TABLE, tmp_path / "x.parquet"):
        assert as_lists(open_source(data, columns=columns)) == rows


def test_a_field_of_a_struct_that_is_null_is_null(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"x"}, None]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"column 'image\.bytes': row 1 is or holds null"):
        rows_of(open_source(tmp_path / "x.parquet", columns="image.bytes"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TABLE, r"column 'image': is struct<.*>, which no model takes.*named with a dot, as image\.bytes"),
        ({"image": np.zeros(2, [("a", "f4")]), "b": np.zeros(2)}, "structured"),
    ],
)
def test_columns_that_nobody_can_be_given_are_told_where_they_are_named(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_source(data, columns="image")


def test_a_time_that_is_none_is_null(tmp_path: Path) -> None:
    times = np.array(["NaT", "2024", "NaT"], "M8[D]")
    records = np.rec.fromarrays([times, np.zeros(3)], names="at,b")
    np.save(tmp_path / "x.npy", records)
    np.savez(tmp_path / "x.npz", at=times, b=np.zeros(3))
    for data in (records, {"at": times, "b": np.zeros(3)}, tmp_path / "x.npy", tmp_path / "x.npz"):
        source: Any = open_source(data, columns="at")
        assert source.take_marked(0, 3).unfed.keys() == {0, 2}
        assert source.take_marked(1, 2)["at"].tolist() == ["2024-01-01"]
        assert source.take_marked(2, 3).unfed == {
            0: "column 'at': row 2 is or holds null; fill nulls before, or leave the column out"
        }


@pytest.mark.parametrize("columns", [{}, {"age": [1, 2, 3], 3: [1, 2, 3]}])
def test_frames_without_names_are_refused(columns: dict[Any, Any]) -> None:
    words = r"the DataFrame: (has no columns|names of columns must be strings, 3 is none)"
    nameless = needed("pandas").DataFrame(columns)
    with pytest.raises(InputError, match=words):
        open_source(nameless)


# --- nulls, and what frames have of their own -------------------------------------------------------------------------

GAP = {"whole": [2**60 + 1, None, 3], "truth": [True, None, False], "word": ["x", None, "z"], "real": [1.5, None, 2.5]}


def pandas_gaps() -> Any:
    pandas = needed("pandas")
    kinds = {"whole": "Int64", "truth": "boolean", "word": "string", "real": "Float64"}
    columns: dict[str, Any] = {name: pandas.array(GAP[name], kind) for name, kind in kinds.items()}
    columns |= {"kind": pandas.Categorical(GAP["word"]), "object": pandas.Series(GAP["word"], dtype=object)}
    return pandas.DataFrame({**columns, "count": pandas.Series(GAP["whole"], dtype=object), "nan": [1.0, np.nan, 3.0]})


def polars_gaps() -> Any:
    polars = needed("polars")
    more = {"kind": polars.Series(GAP["word"], dtype=polars.Categorical), "nan": [1.0, float("nan"), 3.0]}
    return polars.DataFrame({**GAP, **more, "list": [[1, 2], [3, None], [4, 5]]})


def arrow_gaps() -> pa.Table:
    views = {"text": pa.array(GAP["word"], pa.string_view()), "bytes": pa.array([b"x", None, b"z"], pa.binary_view())}
    lists = {"views": pa.array([["x"], [None], ["z"]], pa.list_(pa.string_view())), "list": [[1, 2], [3, None], [4, 5]]}
    chunks = pa.chunked_array([pa.array(part).dictionary_encode() for part in (["x", None], ["z"])])
    return pa.table({**GAP, **views, **lists, "kind": chunks, "nan": [1.0, float("nan"), 3.0]})


LISTS = {
    **GAP,
    "nan": [1.0, float("nan"), 3.0],
    "masked": [np.ma.array([1, 2], mask=[row == 1, 0]) for row in range(3)],
}


@pytest.mark.parametrize(
    "make",
    [
        pandas_gaps,
        polars_gaps,
        arrow_gaps,
        lambda: {**{name: np.array(column, object) for name, column in GAP.items()}, "nan": np.array([1.0, np.nan, 3])},
        lambda: {name: pandas_gaps()[name] for name in pandas_gaps()},
        lambda: {name: polars_gaps()[name] for name in polars_gaps().columns},
        lambda: dict(zip(arrow_gaps().column_names, arrow_gaps().columns, strict=True)),
        lambda: arrow_gaps().to_pandas(types_mapper=needed("pandas").ArrowDtype),
        lambda: LISTS,
    ],
    ids=["pandas", "polars", "arrow", "dict", "of pandas", "of polars", "of arrow", "pandas of arrow", "of lists"],
)
def test_a_null_marks_its_row_and_other_values_stay_exact(make: Callable[[], Any]) -> None:
    source: Any = open_source(make())
    every: Any = source.take_marked(0, 3)
    assert every.unfed.keys() == {1}
    assert {"whole", "truth", "word", "real", "nan"} <= every.rows.keys()
    for name, column in every.rows.items():
        one = source.table.only([name]).take_marked(0, 3)
        if name == "nan":  # a value
            np.testing.assert_array_equal(one["nan"], [1, np.nan, 3])
            continue
        told = f"column {name!r}: row 1 is or holds null; fill nulls before, or leave the column out"
        assert [(row, why.removeprefix(f"the {source.label}: ")) for row, why in one.unfed.items()] == [(1, told)]
        assert one.rows[name][[0, 2]].tolist() == column[[0, 2]].tolist()
    assert every.rows["whole"].dtype == np.int64
    assert every.rows["truth"].dtype == np.bool_
    assert {name: every.rows[name][[0, 2]].tolist() for name in GAP} == {name: GAP[name][::2] for name in GAP}
    with pytest.raises(InputError, match=r"row 1 is or holds null; .*, or let such rows fail"):
        source.take(0, 3)


def test_a_column_of_nulls_alone_has_rows_that_all_fail_where_it_has_a_type() -> None:
    source: Any = open_source(pa.table({"x": pa.array([None, None], pa.int32())}))
    assert source.take_marked(0, 2).unfed.keys() == {0, 1}
    with pytest.raises(InputError, match=r"2 NoneType, the first missing value in row 0.*no value at all: leave it"):
        open_source({"x": np.array([None, None], object)})
    polars = needed("polars")
    frame = open_source(polars.DataFrame({"x": [None, None], "y": [1, 2]}))
    assert as_lists(frame) == {"y": [1, 2]}
    with pytest.raises(InputError, match="the DataFrame: column 'x': is null, which no model takes"):
        frame.table.only(["x"])  # type: ignore[union-attr]


def test_objects_in_a_frame_that_no_model_takes_are_left_alone_and_told_where_they_are_named() -> None:
    pandas = needed("pandas")
    mixed = pandas.Series([{"a": 1}, 2, None], dtype=object)
    source = open_source(pandas.DataFrame({"x": [1, 2, 3], "mixed": mixed, "day": pandas.Series(DAYS, dtype=object)}))
    assert list(rows_of(source)) == ["x"]
    table = table_of(source)
    assert table is not None
    assert table.others == {"mixed": "object", "day": "object"}
    words = r"'mixed': is an array of Python objects \(1 dict, 1 int, 1 NoneType.*convert it to numbers or texts"
    with pytest.raises(InputError, match=words):
        table.only(["mixed"])


def test_types_of_pandas_and_polars_that_no_model_takes_are_left_alone_too() -> None:
    pandas, polars = needed("pandas"), needed("polars")
    months = pandas.period_range("2024-01", periods=2, freq="M")
    cut = pandas.Categorical(pandas.cut([1, 5], [0, 2, 6]))
    decimals = pandas.array([Decimal(1), None], pandas.ArrowDtype(pa.decimal128(3)))
    frame = pandas.DataFrame({"x": [1, 2], "cut": cut, "month": months, "price": decimals})
    things = polars.DataFrame({"x": [1, 2], "wide": polars.Series([1, 2], dtype=polars.Int128)}).with_columns(
        polars.Series("thing", [{1}, {2}], dtype=polars.Object)
    )
    for data, others in ((frame, ["cut", "month", "price"]), (things, ["wide", "thing"])):
        source = open_source(data)
        assert as_lists(source) == {"x": [1, 2]}
        table = table_of(source)
        assert table is not None
        assert sorted(table.others) == sorted(others)
        for name in others:
            with pytest.raises(InputError, match=f"{name}.*(which no model takes|convert it)"):
                table.only([name])


def test_a_time_has_one_text_whatever_the_unit_of_its_column() -> None:
    texts = ["2024-05-01T10:30:00", "2024-05-01T10:30:00.05"]
    for unit in ("ms", "us", "ns"):
        times = np.array(texts, f"M8[{unit}]")
        columns = {"at": times, "x": [1, 2]}
        for data in (columns, pa.table(columns), needed("pandas").DataFrame(columns)):
            assert as_lists(open_source(data, columns="at")) == {"at": texts}


def test_integers_in_lists_stay_exact() -> None:
    assert as_lists(open_source({"x": [2**64 - 1, 5]})) == {"x": [2**64 - 1, 5]}
    assert as_lists(open_source({"x": [2.0**60, 1.5, 3]})) == {"x": [2.0**60, 1.5, 3.0]}
    with pytest.raises(InputError, match=r"input 'x': is an array of Python objects \(1 int, 1 float\)"):
        open_source({"x": [2**60 + 1, 1.5]})


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "x.parquet")
    for data in (table, tmp_path / "x.parquet"):
        with pytest.raises(InputError, match="has two columns of the name 'a'; rename one"):
            open_source(data)


def test_lists_of_many_lengths_in_memory_are_rows_of_many_shapes() -> None:
    source: Any = open_source(pa.table({"x": [[1], [2, 3], [4]]}))
    assert [row.tolist() for row in source.take(0, 3)["x"]] == [[1], [2, 3], [4]]
    assert source.take(2, 3)["x"].tolist() == [[4]]


@pytest.mark.parametrize("data", [np.zeros(3), (np.zeros(3),), from_batches([{"a": np.zeros(3)}])])
def test_what_has_no_columns_by_name_has_none_to_choose(data: Any) -> None:
    with pytest.raises(UsageError, match="has no columns by name to choose from"):
        open_source(data, columns="a")


# --- what models need -------------------------------------------------------------------------------------------------


def model(*inputs: str, **more: Any) -> ModelInfo:
    specs = [TensorSpec(name, "float32", (None, 1)) for name in inputs]
    return ModelInfo("m", "d", 4, specs, [], 0.0, 0, **more)


@pytest.mark.parametrize(
    ("infos", "taken", "left"),
    [
        ([model("age")], ["age"], "id, p0, p1, joined (date32[day])"),
        ([model("age"), model("p1", "age")], ["age", "p1"], "id, p0, joined"),
        ([model("x", columns={"x": ["p0..p1"]})], ["p0", "p1"], "id, age, joined"),
        ([model("x", preprocess="f:p")], ["id", "age", "p0", "p1"], "joined (date32[day])"),
        (
            [model(preprocess="f:p", columns={"day": ["joined"]})],
            ["id", "age", "p0", "p1", "joined"],
            "at (timestamp[s, tz=Europe/Berlin])",
        ),
        ([model("joined")], ["joined"], "id, age, p0, p1"),
    ],
)
def test_a_job_takes_the_columns_that_its_models_need(
    infos: list[ModelInfo], taken: list[str], left: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        source = for_models(open_source(TABLE), infos)
    assert list(rows_of(source)) == taken
    assert f"Table: no model takes the columns {left}" in caplog.text


def test_an_input_that_the_data_set_has_itself_need_not_be_made_of_columns() -> None:
    made = model("x", columns={"x": ["p0", "p1"]})
    assert list(rows_of(for_models(open_source({"x": np.zeros((2, 2)), "id": np.zeros(2)}), [made]))) == ["x"]
    both = open_source({name: np.zeros(2) for name in ("x", "p0", "p1")})
    assert list(rows_of(for_models(both, [made]))) == ["p0", "p1"]
    with pytest.raises(InputError, match="has no column 'p1'"):
        for_models(open_source({"p0": np.zeros(2), "y": np.zeros(2)}), [made])


def test_columns_that_do_not_fit_are_left_for_the_model_to_tell() -> None:
    source = open_source(TABLE)
    assert for_models(source, [model("age", "wage")]) is source


def test_one_column_is_the_only_input_whatever_the_names(caplog: pytest.LogCaptureFixture) -> None:
    assert list(rows_of(for_models(open_source({"x": np.zeros(2)}), [model("y")]))) == ["x"]
    assert not caplog.text


# --- one array of several ---------------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path) -> list[Path]:
    np.savez(tmp_path / "x.npz", **{"a": np.arange(3), "g/b": np.arange(4.0)})
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    group.create_array("a", data=np.arange(3))
    group.create_group("g").create_array("b", data=np.arange(4.0))
    return [tmp_path / "x.npz", tmp_path / "x.zarr"]


def test_one_array_of_several_is_taken(groups: list[Path]) -> None:
    for path in groups:
        assert rows_of(open_source(path, array="g/b")).tolist() == [0, 1, 2, 3]
        with pytest.raises(InputError, match="has no array 'c'; its arrays are 'a', 'g/b'"):
            open_source(path, array="c")


def test_a_file_of_one_array_has_none_to_choose(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    zarr.save_array(tmp_path / "x.zarr", np.arange(3))
    for path in (tmp_path / "x.npy", tmp_path / "x.zarr"):
        with pytest.raises(UsageError, match="is one array; leave out the name 'a'"):
            open_source(path, array="a")


def test_an_input_that_is_made_of_columns_has_the_marks_of_these_alone(tmp_path: Path) -> None:
    fields = pa.array([{"x": 1}, None, {"x": 3}, {"x": None}])
    pq.write_table(pa.table({"s": fields, "n": [1, 2, None, 4], "left": [None, 1, 2, 3]}), tmp_path / "x.parquet")
    source: Any = open_source(tmp_path / "x.parquet", columns=["pair=s.x,n"])
    for chosen, unfed in (source, [1, 2, 3]), (pick(source, np.array([0, 2])), [1]):
        (batch,) = chosen.marked_batches()
        assert batch.rows["pair"][0].tolist() == [1, 1]
        assert sorted(batch.unfed) == unfed


def test_a_file_that_cannot_be_read_is_marked_where_an_input_is_made_of_it() -> None:
    rows: Any = Marked({"a": np.zeros(2), "b": np.ones(2)}, {1: "no such file"})
    table = Table(["a", "b"], lambda names: reader)
    reader = SliceReader("x", 2, 8.0, lambda start, stop: rows, table)
    source: Any = choose(reader, {"both": ["a", "b"]})
    assert source.take_marked(0, 2).rows["both"].tolist() == [[0, 1], [0, 1]]
    assert source.take_marked(0, 2).unfed == {1: "no such file"}
    with pytest.raises(InputError, match=r"no such file, or let such rows fail \(on_error is 'raise'\)"):
        source.take(0, 2)
