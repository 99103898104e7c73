"""What is at hand in memory, or comes from elsewhere, known by its protocols: as views, in order, and read once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from producer.rows.kept import KeptColumns
from producer.rows.source import BatchSource, Source, frame_of
from producer.sources import ArraySource, from_batches, from_loader, has_batches, open_source
from producer.sources.choose import for_models
from producer.sources.picked import PickedRows
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.rows import MAX_BATCH_BYTES
from tasks.protocol.records import ModelInfo, TensorSpec
from worker_config.errors import InputError, UsageError

PIXELS = np.arange(12, dtype=np.float32).reshape(4, 3)
TABLE = pa.table(
    {
        "n": np.arange(4),
        "pixels": pa.FixedSizeListArray.from_arrays(pa.array(PIXELS.ravel()), 3),
        "word": ["a", "b", "c", "d"],
    }
)


class Exported:
    """What exports a table by protocol alone: none of its library's names."""

    def __init__(self, data: Any) -> None:
        self.data = data


class Streamed(Exported):
    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.data.__arrow_c_stream__(requested_schema)


class Batch(Exported):
    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self.data.__arrow_c_array__(requested_schema)


class Tensor(Exported):
    def __dlpack__(self, **options: Any) -> object:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self.data.__dlpack_device__()


def all_of(data: object) -> Any:
    """All rows, as lists."""
    opened = open_source(data)
    if isinstance(opened, Source):
        rows: Any = opened.take(0, opened.rows)
        return {name: np.asarray(column).tolist() for name, column in rows.items()}
    batches: list[Any] = list(opened.batches())
    return {name: [value for batch in batches for value in np.asarray(batch[name]).tolist()] for name in batches[0]}


WAYS = {
    "table": lambda: TABLE,
    "record batch": lambda: TABLE.to_batches()[0],
    "polars": lambda: polars.DataFrame(TABLE),
    "pandas": lambda: TABLE.to_pandas(),
    "pandas of arrow": lambda: TABLE.to_pandas(types_mapper=pandas.ArrowDtype),
    "reader": lambda: TABLE.to_reader(1),
    "stream": lambda: Streamed(TABLE),
    "array": lambda: Batch(TABLE.to_batches()[0]),
    "dicts": lambda: TABLE.to_pylist(),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_gives_the_same_rows(way: str) -> None:
    assert all_of(WAYS[way]()) == TABLE.to_pydict()


def test_a_query_gives_its_rows_in_order() -> None:
    with duckdb.connect() as connection:
        connection.register("rows", TABLE)
        relation = connection.sql("select * from rows order by n desc")
        assert all_of(relation)["n"] == [3, 2, 1, 0]


def test_tensors_are_taken_by_dlpack_without_a_copy() -> None:
    source: Any = open_source(Tensor(PIXELS))
    assert np.shares_memory(source.take(1, 3), PIXELS)
    assert open_source({"x": Tensor(PIXELS)}).rows == 4


def test_one_array_of_arrow_is_one_array() -> None:
    source: Any = open_source(Batch(pa.array([1.5, 2.5])))
    assert source.take(0, 2).tolist() == [1.5, 2.5]


def test_columns_in_blocks_of_their_own_are_not_copied_whole() -> None:
    frame = pandas.DataFrame({name: pandas.Series(PIXELS[:, at]) for at, name in enumerate("abc")}, copy=False)
    assert open_source(frame).table.matrix(["a", "b", "c"]) is None  # type: ignore[union-attr]


def test_numbers_and_lists_of_one_size_are_views_of_the_table() -> None:
    table = pa.concat_tables([TABLE, TABLE.slice(1)])  # of two chunks
    source: Any = open_source(table)
    for start, stop in ((1, 3), (4, 6)):
        rows = source.take(start, stop)
        for name in ("n", "pixels"):
            column = table.column(name).chunk(start // 4)
            inner = column.flatten() if name == "pixels" else column
            assert np.shares_memory(rows[name], inner.to_numpy())
    assert source.take(3, 5)["n"].tolist() == [3, 1]


def test_columns_that_stand_side_by_side_are_a_view_of_the_frame() -> None:
    info = ModelInfo("m", "d", 4, [TensorSpec("x", "float32", (None, 3))], [], 0.0, 0)
    frame = pandas.DataFrame(PIXELS, columns=["c", "a", "b"], copy=False)
    whole: Any = for_models(open_source(frame), [info])
    assert np.shares_memory(whole.take(1, 3)["x"], frame.to_numpy())
    assert frame_of(whole) is frame
    apart = pandas.DataFrame({"c": PIXELS[:, 0], "a": PIXELS[:, 1].astype(np.int16), "b": PIXELS[:, 2]})
    for data in (apart, polars.DataFrame(apart), pa.table(apart), apart.to_dict("records")):
        made: Any = for_models(open_source(data), [info])
        np.testing.assert_array_equal(made.take(1, 4)["x"], PIXELS[1:])


@pytest.mark.parametrize(
    ("columns", "inputs"),
    [
        ({"x": [1.0], "y": [2.0]}, [TensorSpec("x", "float32", (None, 2))]),  # one has the input's name
        ({"a": [1.0], "b": [2.0]}, [TensorSpec("x", "float32", (None, None))]),
        ({"a": [1.0], "b": [2.0]}, [TensorSpec("x", "float32", (None, 3))]),
        ({"a": [1.0], "b": [2.0]}, [TensorSpec("x", "string", (None, 2))]),
        ({"a": [1.0], "b": [2.0]}, [TensorSpec("x", "float32", (None, 2)), TensorSpec("y", "float32", (None, 2))]),
    ],
)
def test_columns_are_no_matrix_unless_the_model_leaves_no_choice(columns: Any, inputs: list[TensorSpec]) -> None:
    made: Any = for_models(open_source(pa.table(columns)), [ModelInfo("m", "d", 4, inputs, [], 0.0, 0)])
    assert "x" not in made.take(0, 1) or made.take(0, 1)["x"].ndim == 1


def test_a_key_that_a_row_lacks_is_a_null_of_it() -> None:
    source: Any = open_source([{"a": 1}, {"a": 2, "b": "x"}, {"b": None, "a": None}])
    rows = source.take_marked(0, 3)
    assert unfed_of(rows).keys() == {0, 2}
    assert {name: column.tolist()[1] for name, column in plain(rows).items()} == {"a": 2, "b": "x"}  # type: ignore[union-attr]
    with pytest.raises(InputError, match="row 1 is a int, those before it are dicts"):
        open_source([{"a": 1}, 2])


def test_values_of_many_shapes_are_left_alone_in_dicts() -> None:
    assert all_of([{"a": 1, "b": [1]}, {"a": 2, "b": [1, 2]}]) == {"a": [1, 2]}
    with pytest.raises(InputError, match=r"input 'b': is an array of Python objects \(2 list\)"):
        open_source([{"a": 1, "b": [1]}, {"a": 2, "b": [1, 2]}], columns="b")


# --- streams ----------------------------------------------------------------------------------------------------------


def failing(rows: int) -> Iterator[pa.RecordBatch]:
    yield TABLE.to_batches()[0].slice(0, rows)
    raise OSError("the disk is gone")


def test_a_stream_that_raises_gives_the_rows_before() -> None:
    batches = open_source(pa.RecordBatchReader.from_batches(TABLE.schema, failing(3))).batches()  # type: ignore[union-attr]
    assert next(batches)["n"].tolist() == [0, 1, 2]  # type: ignore[index,call-overload]
    words = (
        "the RecordBatchReader: record batch 1, from row 3 on, did not come: OSError: .*the disk is gone; see the cause"
    )
    with pytest.raises(InputError, match=words) as refused:
        next(batches)
    assert "Traceback" not in str(refused.value)


def test_a_stream_is_read_once(caplog: pytest.LogCaptureFixture) -> None:
    reader = TABLE.to_reader()
    source = open_source(reader)
    assert isinstance(source, BatchSource)
    with pytest.raises(UsageError, match="can be read only once; keep 'row' alone"):
        KeptColumns(source, ["word"])
    list(source.batches())
    with pytest.raises(InputError, match="can be read only once, and was"):
        source.batches()
    with caplog.at_level(logging.WARNING):
        assert list(open_source(reader).batches()) == []  # type: ignore[union-attr]
    assert "a reader that was read before has none again" in caplog.text


def test_a_record_batch_that_is_large_comes_in_parts() -> None:
    rows = 3 * MAX_BATCH_BYTES // 8
    wide = pa.record_batch({"x": np.arange(rows, dtype=np.float64)})
    batches: list[Any] = list(open_source(Streamed(wide)).batches())  # type: ignore[union-attr]
    assert len(batches) == 3
    assert all(np.shares_memory(batch["x"], wide.column("x").to_numpy()) for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), np.arange(rows))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TABLE.select([]).to_reader(), "no columns to read"),
        (pa.table([[1], [2]], names=["a", "a"]).to_reader(), "two columns of the name 'a'"),
        (Streamed(pa.chunked_array([[1, 2]])), "the Streamed: gives no stream of record batches"),
        (Streamed(pa.table({"at": pa.array([0], pa.date32())})), "column 'at': is date32"),
        (polars.DataFrame({"a": [1]}).lazy(), r"is one LazyFrame, not rows; call its \.collect\(\) first"),
    ],
)
def test_streams_that_are_no_data_set_are_refused(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(open_source(data).batches())  # type: ignore[union-attr]


def test_a_null_of_a_stream_names_column_and_row() -> None:
    table = pa.table({"a": pa.chunked_array([[1, 2], [3, None]])})
    with pytest.raises(InputError, match="the RecordBatchReader: column 'a': row 3 is or holds null"):
        list(open_source(table.to_reader()).batches())  # type: ignore[union-attr]


# --- iterables, loaders -----------------------------------------------------------------------------------------------


def test_frames_one_after_another_are_batches() -> None:
    frames = [pandas.DataFrame({"a": [1, 2]}), pandas.DataFrame({"a": [3]})]
    batches: list[Any] = list(from_batches(iter(frames)).batches())
    assert [batch["a"].tolist() for batch in batches] == [[1, 2], [3]]
    gaps = from_batches([pa.table({"a": [1, None]})])
    [rows] = gaps.marked_batches()
    assert unfed_of(rows).keys() == {1}
    with pytest.raises(InputError, match=r"row 0 is a DataFrame, which has rows of its own; give .*from_batches"):
        list(open_source(iter(frames)).batches())  # type: ignore[union-attr]


class Sampler:
    pass


class SequentialSampler:
    pass


class BatchSampler:
    pass


class Loader:
    """With the attributes of a DataLoader of PyTorch, which tests/integration/test_foreign_data.py feeds."""

    def __init__(self, batches: list[Any], sampler: object, drop_last: bool = False, batched: bool = True) -> None:
        self.batches, self.sampler, self.drop_last = batches, sampler, drop_last
        self.dataset = self.collate_fn = None
        self.batch_sampler = BatchSampler() if batched else None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_a_loader_gives_its_batches(caplog: pytest.LogCaptureFixture) -> None:
    pairs = Loader([[PIXELS[:3], np.zeros(3)], [PIXELS[3:], np.zeros(1)]], SequentialSampler())
    source = open_source(pairs)
    assert [len(batch) for batch in source.batches()] == [2, 2]  # type: ignore[union-attr,arg-type]
    assert "features=0" in source.hint  # type: ignore[union-attr]
    only = from_loader(pairs, features=0)
    np.testing.assert_array_equal(np.concatenate(list(only.batches())), PIXELS)  # type: ignore[arg-type]
    assert not only.once
    with pytest.raises(UsageError, match="features is 2, a batch has 2 parts"):
        list(from_loader(pairs, features=2).batches())
    [rows] = open_source(Loader(list(PIXELS), SequentialSampler(), batched=False)).batches()  # type: ignore[union-attr]
    np.testing.assert_array_equal(np.asarray(rows), PIXELS)
    assert not caplog.records


def test_a_loader_that_shuffles_or_drops_rows_is_told_and_read_once(caplog: pytest.LogCaptureFixture) -> None:
    source: Any = open_source(Loader([[PIXELS]], Sampler(), drop_last=True))
    assert source.once
    assert "in an order of its own" in caplog.text
    assert "leaves out the last rows" in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_what_gives_no_single_rows_is_known(way: str) -> None:
    assert has_batches(WAYS[way]())
    assert not has_batches(PIXELS)
    assert not has_batches(iter(PIXELS))


def test_sequences_that_are_no_lists_keep_their_values() -> None:
    assert isinstance(source := open_source(range(3)), ArraySource)
    assert source.take(0, 3).tolist() == [0, 1, 2]  # type: ignore[union-attr]


# --- rows in any order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["table", "record batch", "polars", "pandas", "pandas of arrow", "dicts"])
@pytest.mark.parametrize("made", [False, True], ids=["by name", "side by side"])
def test_rows_are_picked_in_any_order(way: str, made: bool) -> None:
    source: Any = open_source(WAYS[way](), columns={"both": ["n", "pixels"]} if made else ["n", "word"])
    order = np.array([3, 0, 2])
    one_by_one = [source.take(row, row + 1) for row in order]
    found: Any = PickedRows("some", source, order).take(0, 3)
    assert list(found) == list(one_by_one[0])
    for name, column in found.items():
        assert column.tolist() == [rows[name][0].tolist() if made else rows[name][0] for rows in one_by_one]


@pytest.mark.parametrize(
    "make",
    [
        pa.table,
        polars.DataFrame,
        lambda rows: pandas.DataFrame(pa.table(rows).to_pandas(types_mapper=pandas.ArrowDtype)),
    ],
)
def test_a_null_among_rows_that_were_picked_names_its_row(make: Any) -> None:
    source = open_source(make({"n": [1, None, 3, None], "word": ["a", "b", None, "d"]}))
    rows: Any = PickedRows("some", source, np.array([3, 0, 1, 2])).take_marked(0, 4)  # type: ignore[arg-type]
    assert {at: why.partition("column ")[2].partition(" is")[0] for at, why in unfed_of(rows).items()} == {
        0: "'n': row 3",
        2: "'n': row 1",
        3: "'word': row 2",
    }


def test_a_frame_of_arrow_s_types_may_have_no_rows() -> None:
    frame = TABLE.slice(0, 0).to_pandas(types_mapper=pandas.ArrowDtype)
    assert all_of(frame) == {"n": [], "pixels": [], "word": []}
