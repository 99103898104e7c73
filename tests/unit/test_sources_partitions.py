"""Folders named `key=value` as columns of Parquet files, held against what pyarrow's data sets give."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from producer.rows.source import splits_of
from producer.sources import fingerprint, open_parquet, open_source
from tasks.datasets.columns import columns_of
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.split_ref import SplitRef, cut
from worker_config.errors import InputError

NULL = "__HIVE_DEFAULT_PARTITION__"
ROWS = 7

# For each kind the folders, and columns of the files besides `x`.
KINDS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "numbers": {"year=2024/month=01": {}, "year=2024/month=12": {}, "year=-5/month=3": {}},
    "text": {"city=Rome": {}, "city=0x": {}, "city=": {}},
    "too large for int32": {"id=2147483647": {}, "id=2147483648": {}},
    "hexadecimal": {"id=0x10": {}, "id=7": {}},
    "signs and spaces": {"id=+5": {}, "id= 6": {}},
    "nulls of numbers": {"id=1": {}, f"id={NULL}": {}},
    "nulls of text": {"id=a": {}, f"id={NULL}": {}},
    "escaped": {"city=a%20b%2Fc": {}, "city=%C3%BC": {}, "a%20key=1/city=%25": {}},
    "not in all": {"id=1": {}, "id=1/deep=2": {}},
    "twice": {"id=1/id=2": {}},
    "equal signs": {"id=a=b": {}},
    "other folders between": {"id=1/plain": {}, "plain/id=2": {}},
    "in the files too": {"id=a": {"id": pa.array(["other"] * ROWS)}, "id=b": {"id": pa.array(["b"] * ROWS)}},
    "in the files too, as numbers": {"id=3": {"id": pa.array([77] * ROWS, pa.int32())}},
    "in some files too": {"id=3": {"id": pa.array([77] * ROWS, pa.int32())}, "id=4": {}},
}


def _write(folder: Path, kind: Mapping[str, Mapping[str, Any]]) -> Path:
    """Files of 7 rows in row groups of 3, and what is to be left out."""
    for number, (name, more) in enumerate(kind.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        x = list(range(number * ROWS, (number + 1) * ROWS))
        pq.write_table(pa.table({"x": x, **more}), folder / name / f"part-{number}.parquet", row_group_size=3)
        (folder / name / "_SUCCESS").touch()
        (folder / name / ".hidden.parquet").write_bytes(b"none")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "x.parquet").write_bytes(b"none")
    return folder


def _of_pyarrow(folder: Path) -> dict[int, dict[str, Any]]:
    """Of each x the other columns."""
    table = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    return {row.pop("x"): row for row in table.to_pylist()}


def _check(rows: Any, wanted: dict[int, dict[str, Any]]) -> None:
    columns = columns_of(plain(rows), "rows")
    for at, x in enumerate(columns["x"].tolist()):
        values = wanted[x]
        assert (at in unfed_of(rows)) == (None in values.values())
        if None not in values.values():
            found = {name: column[at] for name, column in columns.items() if name != "x"}
            assert {name: getattr(one, "item", lambda one=one: one)() for name, one in found.items()} == values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["folder", "pattern"])
def test_rows_have_what_pyarrow_gives_them(
    tmp_path: Path, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _write(tmp_path / "data", KINDS[kind])
    wanted, rows = _of_pyarrow(folder), ROWS * len(KINDS[kind])
    monkeypatch.chdir(tmp_path)
    path = {"folder": "data", "pattern": f"{folder}/**/part-*.parquet"}[how]
    source: Any = open_source(path) if how == "pattern" or kind != "other folders between" else open_parquet(path)
    assert source.rows == rows
    schema = ds.dataset(folder, format="parquet", partitioning="hive").schema
    assert set(source.table.names) == set(schema.names)
    splits: Any = splits_of(source)
    ref = splits.open().in_place()
    assert isinstance(ref, SplitRef)
    reader = SplitReader(Opener([tmp_path]))
    for start, stop in ((0, 2), (2, rows), (0, rows), (1, 5)):
        _check(reader.read(cut(ref, start, stop)), wanted)
    for name in schema.names:
        kind_of = schema.field(name).type
        first = columns_of(plain(splits.open().take_marked(0, rows)), "rows")[name]
        assert first.dtype == (object if pa.types.is_string(kind_of) else kind_of.to_pandas_dtype())
    reader.close()


def test_columns_of_folders_are_chosen_and_alone(tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", KINDS["numbers"])
    source: Any = open_source(folder, columns=["month"])
    months = [month for batch in source.batches() for month in batch["month"].tolist()]
    assert months == [3] * ROWS + [1] * ROWS + [12] * ROWS  # in the order of the files' names
    source = open_source(folder, columns={"both": ["year", "x"]})
    assert [batch["both"].shape[1] for batch in source.batches()] == [2] * 3
    with pytest.raises(InputError, match="has no column 'day'"):
        open_source(folder, columns=["day"])


def test_only_what_stands_below_the_folder_or_the_pattern_counts(tmp_path: Path) -> None:
    folder = _write(tmp_path / "a=9" / "data", KINDS["numbers"])
    names = {
        str(folder): {"x", "year", "month"},
        f"{folder}/**/part-*.parquet": {"x", "year", "month"},
        f"{folder}/year=2024": {"x", "month"},
        f"{folder}/year=2024/*/part-*.parquet": {"x", "month"},
        f"{folder}/year=2024/month=01": {"x"},
        f"{folder}/year=2024/month=01/part-0.parquet": {"x"},
    }
    for path, wanted in names.items():
        source: Any = open_source(path)
        assert set(source.table.names) == wanted, path


def test_folders_that_are_all_null_are_left_alone_with_their_name(tmp_path: Path) -> None:
    source: Any = open_source(_write(tmp_path / "data", {f"id={NULL}": {}}))
    assert list(source.table.names) == ["x"]
    assert source.table.others == {"id": "null"}
    with pytest.raises(InputError, match="column 'id': is null, which no model takes"):
        source.table.only(["id"])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"id=a": {"id": pa.array([1] * ROWS)}}, "column 'id' is int64, which folders named id= are not"),
        ({"id=1": {}, "plain": {"id": pa.array([1] * ROWS)}}, "has column 'id', which others have in their folders'"),
        (
            {"id=1": {"id": pa.array([1] * ROWS)}, "id=2": {"id": pa.array([1] * ROWS, pa.int8())}},
            "part-1.parquet: column 'id' is int8, in ",
        ),
        ({"id=%FF": {}}, "id=%FF is no text; rename the folder"),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path: Path, kind: Any, why: str) -> None:
    folder = _write(tmp_path / "data", kind)
    with pytest.raises(InputError) as caught:
        open_source(folder)
    assert str(caught.value).startswith(str(folder))
    assert why in str(caught.value)


def test_a_link_to_the_same_file_has_the_values_of_its_own_folder(tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", {"id=1": {}})
    (folder / "id=2").symlink_to(folder / "id=1")
    splits: Any = splits_of(open_source(folder))
    rows: Any = SplitReader(Opener([tmp_path])).read(splits.open().in_place())
    assert rows["id"].tolist() == [1] * ROWS + [2] * ROWS


def test_a_run_that_continues_sees_a_change_in_any_folder(tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", KINDS["numbers"])
    before = fingerprint(folder)
    assert (before["files"], before) == (3, fingerprint(folder))
    os.utime(folder / "year=2024" / "month=12" / "part-1.parquet", ns=(1, 1))
    assert fingerprint(folder) != before


def test_a_folder_with_other_files_of_its_own_is_no_such_one(tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", KINDS["numbers"])
    (folder / "photo.jpg").touch()
    assert open_source(folder).rows == 1
