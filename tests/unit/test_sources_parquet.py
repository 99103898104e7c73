"""Parquet files as a data set."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.sources import open_parquet
from producer.sources.picked import pick
from tasks.datasets.rows import MAX_BATCH_BYTES, Marked
from worker_config.errors import InputError


def written(path: Path, columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def all_rows(path: Path, **options: Any) -> Any:
    source = open_parquet(path, **options)
    batches: Any = list(source.batches())
    assert source.rows == sum(len(next(iter(batch.values()))) for batch in batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(open_parquet(path, **options).batches())
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "data",
    [
        np.arange(5, dtype=np.int8),
        np.linspace(0, 1, 5, dtype=np.float32),
        np.arange(5, dtype=np.float16),
        np.array([True, False, True, True, False]),
        np.array(["a", "", "bé", "d\0", "e"], object),
        np.array([b"a", b"", b"\0", b"d\0", b"\xff"], object),
    ],
)
def test_values_come_as_they_were_written(tmp_path: Path, data: Any) -> None:
    read = all_rows(written(tmp_path / "x.parquet", {"x": pa.array(data)}))["x"]

    assert read.dtype == data.dtype
    assert read.tolist() == data.tolist()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (pa.list_(pa.float32(), 2), np.arange(6, dtype=np.float32).reshape(3, 2)),
        (pa.list_(pa.int64()), np.arange(6).reshape(3, 2)),
        (pa.large_list(pa.list_(pa.uint8(), 2)), np.arange(12, dtype=np.uint8).reshape(3, 2, 2)),
        (pa.list_(pa.string()), np.array([["a", "b"], ["c", "d"]], object)),
        (pa.list_(pa.int8()), np.empty((3, 0), np.int8)),
        (pa.dictionary(pa.int8(), pa.string()), np.array(["a", "b", "a"], object)),
        (pa.binary(2), np.array([b"a\0", b"bc"], object)),
    ],
)
def test_lists_of_one_length_are_arrays(tmp_path: Path, kind: Any, data: Any) -> None:
    read = all_rows(written(tmp_path / "x.parquet", {"x": pa.array(data.tolist(), kind)}))["x"]

    assert (read.dtype, read.shape) == (data.dtype, data.shape)
    np.testing.assert_array_equal(read, data)


def test_tensors_keep_their_shape(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    written(tmp_path / "x.parquet", {"x": pa.FixedShapeTensorArray.from_numpy_ndarray(data)})

    np.testing.assert_array_equal(all_rows(tmp_path / "x.parquet")["x"], data)


def test_lists_of_many_lengths_are_a_list_of_arrays(tmp_path: Path) -> None:
    written(tmp_path / "x.parquet", {"x": [[1], [], [2, 3]]})

    (batch,) = open_parquet(tmp_path / "x.parquet").batches()

    assert isinstance(batch, dict)
    assert isinstance(batch["x"], list)
    assert [row.tolist() for row in batch["x"]] == [[1], [], [2, 3]]


def test_only_the_named_columns_are_read_in_their_order(tmp_path: Path) -> None:
    written(tmp_path / "x.parquet", {"a": [1, 2], "when": [datetime.date(2020, 1, 1)] * 2, "b": [3, 4]})

    assert list(all_rows(tmp_path / "x.parquet", columns=["b", "a"])) == ["b", "a"]
    assert list(all_rows(tmp_path / "x.parquet", columns="a")) == ["a"]


def test_files_of_a_folder_follow_each_other_by_name(tmp_path: Path) -> None:
    for part, rows in (("b", [3, 4]), ("a", [1, 2]), ("c", [5])):
        written(tmp_path / f"{part}.parquet", {"x": rows})
    (tmp_path / "_SUCCESS").write_bytes(b"")

    assert all_rows(tmp_path)["x"].tolist() == [1, 2, 3, 4, 5]
    assert all_rows(tmp_path / "[ac].parquet")["x"].tolist() == [1, 2, 5]


def test_no_rows_are_a_data_set(tmp_path: Path) -> None:
    source = open_parquet(written(tmp_path / "x.parquet", {"x": pa.array([], pa.int8())}))

    assert source.rows == 0
    assert list(source.batches()) == []


def test_batches_are_small_and_the_file_can_be_read_again(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((3000, 2048))
    written(tmp_path / "x.parquet", {"x": pa.FixedSizeListArray.from_arrays(data.ravel(), 2048)})
    source = open_parquet(tmp_path / "x.parquet")

    sizes = [batch["x"].nbytes for batch in source.batches()]  # type: ignore[call-overload,union-attr]

    assert len(sizes) > 1
    assert max(sizes) <= MAX_BATCH_BYTES
    assert sum(sizes) == data.nbytes


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(np.random.default_rng(0).random(2**20), 1024)})  # 8 MiB
    with pq.ParquetWriter(tmp_path / "x.parquet", table.schema, compression="none") as writer:
        for _ in range(12):
            writer.write_table(table)
    before = pa.total_allocated_bytes()

    held = [pa.total_allocated_bytes() - before for _ in open_parquet(tmp_path / "x.parquet").batches()]

    assert max(held) < 3 * MAX_BATCH_BYTES


def test_closing_the_iterator_closes_the_file(tmp_path: Path) -> None:
    batches = open_parquet(written(tmp_path / "x.parquet", {"x": list(range(100000))})).batches()
    next(batches)
    assert files_open("x.parquet") == 1

    batches.close()

    assert files_open("x.parquet") == 0


def files_open(name: str) -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).endswith(name) for link in links)


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({"x": [1, None, 3]}, "column 'x': row 1 is or holds null"),
        ({"x": [[1], [2], [3, None]]}, "column 'x': row 2 is or holds null"),
        ({"x": pa.array([[1, 1], None], pa.list_(pa.int8(), 2))}, "column 'x': row 1 is or holds null"),
        ({"x": [[[1], [2, 3]]]}, "lists of different lengths in lists"),
        ({"x": [datetime.datetime(2020, 1, 1)]}, "column 'x': is timestamp"),
        ({"x": [[{"y": 1}]]}, "column 'x': is list<"),
        ({}, "no columns to read"),
    ],
)
def test_columns_that_no_model_takes_are_refused(tmp_path: Path, columns: Any, cause: str) -> None:
    assert cause in refused(written(tmp_path / "x.parquet", columns))


def test_rows_with_a_null_in_any_column_are_marked_and_the_others_are_whole(tmp_path: Path) -> None:
    count = 10
    columns = {
        "number": pa.array([None if row in (0, 3) else row for row in range(count)], pa.int32()),
        "text": pa.array([None if row == 4 else f"é{row}" for row in range(count)]),
        "label": pa.array([None if row == 5 else f"t{row % 2}" for row in range(count)]).dictionary_encode(),
        "list": pa.array([None if row == 6 else [row, None if row == 7 else row] for row in range(count)]),
        "fixed": pa.array([None if row == 8 else [row, row] for row in range(count)], pa.list_(pa.float32(), 2)),
    }
    path = written(tmp_path / "x.parquet", columns)

    (batch,) = open_parquet(path).marked_batches()

    assert isinstance(batch, Marked)
    assert list(batch.unfed) == [0, 3, 4, 5, 6, 7, 8]
    assert batch.unfed[4] == (
        f"{path}: column 'text': row 4 is or holds null; fill nulls before, or leave the column out"
    )
    rows: Any = batch.rows
    good = [1, 2, 9]
    assert {name: column.shape for name, column in rows.items()} == {
        **dict.fromkeys(("number", "text", "label"), (count,)),
        **dict.fromkeys(("list", "fixed"), (count, 2)),
    }
    assert rows["number"].dtype == np.int32
    for name, column in columns.items():
        assert rows[name][good].tolist() == column.take(good).to_pylist()
    (few,) = pick(open_parquet(path), np.array([1, 3, 9])).marked_batches()  # type: ignore[union-attr]
    assert isinstance(few, Marked)
    assert list(few.unfed) == [1]


def test_where_all_rows_have_a_null_all_are_marked(tmp_path: Path) -> None:
    kinds = {"x": pa.int32(), "text": pa.string(), "fixed": pa.list_(pa.float32(), 2), "list": pa.list_(pa.int8())}
    path = written(tmp_path / "x.parquet", {name: pa.array([None] * 3, kind) for name, kind in kinds.items()})

    (batch,) = open_parquet(path).marked_batches()

    assert isinstance(batch, Marked)
    assert list(batch.unfed) == [0, 1, 2]
    rows: Any = batch.rows
    assert [column.shape for column in rows.values()] == [(3,), (3,), (3, 2), (3, 0)]
    with pytest.raises(InputError, match=r"column 'x': row 0 is or holds null; .* or let such rows fail"):
        list(open_parquet(path).batches())


def test_a_null_in_a_later_batch_is_counted_from_the_start_of_the_file(tmp_path: Path) -> None:
    rows: list[Any] = [1] * 70000
    rows[69999] = None
    assert "row 69999 is" in refused(written(tmp_path / "x.parquet", {"x": rows}))


def test_a_missing_column_is_told_which_ones_there_are(tmp_path: Path) -> None:
    written(tmp_path / "x.parquet", {"a": [1], "b": [2]})

    assert "has no column 'c'; its columns are 'a', 'b'" in refused(tmp_path / "x.parquet", columns=["a", "c"])


def test_files_must_have_the_same_columns_and_types(tmp_path: Path) -> None:
    written(tmp_path / "1.parquet", {"a": [1], "b": [1]})
    written(tmp_path / "2.parquet", {"a": [1], "b": [1.5]})
    written(tmp_path / "3.parquet", {"a": [1]})

    assert "column 'b' is double, in the files before int64" in refused(tmp_path)
    (tmp_path / "2.parquet").unlink()
    assert "3.parquet: has no column 'b'" in refused(tmp_path)
    assert all_rows(tmp_path, columns=["a"])["a"].tolist() == [1, 1]


@pytest.mark.parametrize("content", [b"", b"PAR1 is how it begins", b"x" * 1000])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)

    assert "damaged or cut short" in refused(tmp_path / "x.parquet")


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", {"x": np.random.default_rng(0).random(10000)})
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)

    assert "again" in refused(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "x.parquet")
    assert "no files match" in refused(tmp_path / "*.parquet")
    assert "no .parquet files" in refused(tmp_path)
