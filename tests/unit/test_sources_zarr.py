"""Zarr arrays and groups as a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from producer.sources import Source, open_zarr
from worker_config.errors import InputError


def written(path: Path, data: Any, **options: Any) -> Path:
    zarr.create_array(path, data=data, **options)
    return path


def refused(path: Path, row: int = 0) -> str:
    with pytest.raises(InputError) as caught:
        open_zarr(path).take(row, row + 1)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", ">i4", "float16"])
def test_any_slice_is_what_was_written(tmp_path: Path, dtype: str, zarr_format: Any) -> None:
    data = np.random.default_rng(0).integers(0, 2, (23, 3)).astype(dtype)
    source = open_zarr(written(tmp_path / "x.zarr", data, chunks=(4, 2), zarr_format=zarr_format))

    assert isinstance(source, Source)
    assert (source.label, source.rows, source.row_bytes) == ("x.zarr", 23, 3 * data.dtype.itemsize)
    for start, stop in [(0, 0), (0, 23), (3, 9), (4, 8), (22, 23), (23, 23), (0, 1)]:
        part = source.take(start, stop)
        assert isinstance(part, np.ndarray)
        assert part.dtype.isnative
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(part, data[start:stop])


def test_blocks_follow_each_other_without_gap(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((700, 8192), np.float32)  # 22 MiB
    source = open_zarr(written(tmp_path / "x.zarr", data, chunks=(100, 8192), compressors=None))

    parts = [source.take(start, min(start + 64, 700)) for start in range(0, 700, 64)]

    np.testing.assert_array_equal(np.concatenate(parts), data)  # type: ignore[arg-type]


def test_no_chunk_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_zarr(written(tmp_path / "x.zarr", np.zeros((1000, 4096)), chunks=(300, 4096)))
    reads: list[slice] = []
    read = zarr.Array.__getitem__

    def counted(array: Any, rows: slice) -> Any:
        reads.append(rows)
        return read(array, rows)

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)

    for start in range(0, 1000, 100):
        source.take(start, start + 100)

    assert [(rows.start, rows.stop) for rows in reads] == [(0, 300), (300, 600), (600, 900), (900, 1000)]


def test_text_comes_as_objects(tmp_path: Path) -> None:
    text = np.array(["a", "bé", "", "dddd"], np.dtypes.StringDType())
    source = open_zarr(written(tmp_path / "x.zarr", text, chunks=(3,)))

    part = source.take(1, 4)

    assert source.row_bytes > 0
    assert part.dtype == object  # type: ignore[union-attr]
    assert list(part) == ["bé", "", "dddd"]


def test_a_group_gives_its_arrays_by_name(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    group.create_array("image", data=np.arange(6).reshape(3, 2))
    group.create_array("age", data=np.arange(3.0))

    source = open_zarr(tmp_path / "x.zarr")

    assert (source.rows, source.row_bytes) == (3, 24)
    np.testing.assert_equal(source.take(1, 3), {"age": np.array([1.0, 2.0]), "image": np.array([[2, 3], [4, 5]])})


def test_no_rows_are_a_data_set(tmp_path: Path) -> None:
    source = open_zarr(written(tmp_path / "x.zarr", np.empty((0, 3), np.float32)))

    assert source.rows == 0
    assert source.take(0, 0).shape == (0, 3)  # type: ignore[union-attr]


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are 4"):
        open_zarr(written(tmp_path / "x.zarr", np.zeros(4))).take(0, 5)


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "x.zarr")
    assert "is no Zarr array or group" in refused(tmp_path)
    assert "is one value" in refused(written(tmp_path / "value.zarr", np.array(1.0)))
    assert "is a time" in refused(written(tmp_path / "time.zarr", np.zeros(2, "datetime64[s]"), zarr_format=2))
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    assert "holds no arrays" in refused(tmp_path / "group.zarr")
    group.create_array("a", data=np.zeros(2))
    group.create_array("b", data=np.zeros(3))
    assert "'a' has 2, 'b' has 3" in refused(tmp_path / "group.zarr")
    (tmp_path / "group.zarr" / "zarr.json").write_bytes(b"{")
    assert "damaged" in refused(tmp_path / "group.zarr")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zarr", np.arange(100), chunks=(50,))
    (path / "c" / "1").write_bytes(b"nonsense")

    assert "rows from 50: is damaged" in refused(path, 70)
