"""Opening any data set with one function."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from producer.sources import ArraySource, BatchSource, Source, from_arrays, from_rows, open_source
from producer.sources.formats.split_source import SplitSource
from worker_config.errors import ConfigError, InputError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(3))
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "x.parquet")
    (tmp_path / "x.tfrecord").write_bytes(b"")
    (tmp_path / "x.tfrecord.gz").write_bytes(b"")
    (tmp_path / "x.tfrecord-00000-of-00001").write_bytes(b"")
    zarr.create_array(tmp_path / "x.zarr", data=np.arange(3))
    return tmp_path


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.zarr"])
def test_files_that_are_sliced(folder: Path, name: str) -> None:
    for path in (folder / name, str(folder / name)):
        source = open_source(path)
        assert isinstance(source, Source)
        assert not isinstance(source, BatchSource)
        assert (source.rows, source.label) == (3, name)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("x.parquet", 3), ("x.tfrecord", None), ("x.tfrecord.gz", None), ("x.tfrecord-00000-of-00001", None)],
)
def test_files_that_are_read_in_order(folder: Path, name: str, rows: int | None) -> None:
    source = open_source(folder / name)

    assert isinstance(source, BatchSource)
    assert not isinstance(source, Source)
    assert (source.rows, source.label) == (rows, name)


def test_a_folder_or_pattern_is_what_its_files_are(folder: Path) -> None:
    assert isinstance(open_source(folder / "*.parquet"), BatchSource)
    assert isinstance(open_source(folder / "*.tfrecord*"), BatchSource)
    assert isinstance(open_source(folder), ArraySource)
    parts = folder / "parts"
    parts.mkdir()
    (folder / "x.parquet").rename(parts / "0.parquet")
    (parts / "_SUCCESS").write_bytes(b"")
    for path in (parts, parts / "*"):
        source = open_source(path)
        assert isinstance(source, BatchSource)
        assert source.rows == 3


def test_other_files_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")

    assert open_source(tmp_path / "*.jpg").take(0, 1).tolist() == [str(tmp_path / "a.jpg")]  # type: ignore[union-attr]
    assert isinstance(open_source(tmp_path, contents=True), SplitSource)


def test_a_zarr_folder_needs_no_suffix(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "data", data=np.arange(3))

    assert isinstance(open_source(tmp_path / "data"), SplitSource)


@pytest.mark.parametrize(
    "data", [np.zeros((3, 2)), [1, 2, 3], {"a": np.zeros(3)}, (np.zeros(3), np.zeros(3)), range(3), ["a", "b", "c"]]
)
def test_what_is_in_memory_is_sliced(data: object) -> None:
    source = open_source(data)

    assert isinstance(source, ArraySource)
    assert source.rows == 3


def test_iterators_and_iterables_without_length_are_rows() -> None:
    class Endless:
        def __iter__(self) -> Iterator[int]:
            return iter(int, 1)

    for data in ((row for row in [1, 2]), iter([1, 2]), map(int, "12"), Endless()):
        source = open_source(data, batch_rows=2)
        assert isinstance(source, BatchSource)
        assert len(next(iter(source.batches()))) == 2


def test_a_source_is_a_source() -> None:
    for source in (from_arrays([1]), from_rows([1])):
        assert open_source(source) is source


def test_options_that_do_not_belong_are_refused(folder: Path) -> None:
    assert isinstance(open_source(folder / "x.parquet", columns=["a"]), BatchSource)
    with pytest.raises(UsageError, match=r"x\.npy: .*'columns'"):
        open_source(folder / "x.npy", columns=["a"])
    with pytest.raises(UsageError, match=r"list: .*'batched'"):
        open_source([1, 2], batched=True)


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.parquet", "x.zarr", "x.tfrecord", "*.csv", ".npy", "a\0b"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path))


def test_other_types_are_told_which_ones_work(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"a")

    with pytest.raises(InputError, match=r"save as \.npy, \.npz, \.parquet, \.csv, \.tfrecord, \.zarr"):
        open_source(tmp_path / "x.txt")


@pytest.mark.parametrize("data", [None, 5, object()])
def test_what_is_no_data_set_is_refused(data: object) -> None:
    with pytest.raises(InputError):
        open_source(data)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("x.parquet", "pyarrow", "parquet"),
        ("x.tfrecord", "google_crc32c", "tfrecord"),
        ("x.zarr", "zarr", "zarr"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ConfigError, match=rf"pip install 'celeriac\[{extra}\]'"):
        open_source(folder / name)


def test_importing_brings_no_library_that_only_some_need() -> None:
    check = "import sys, producer.sources; print({'pyarrow', 'zarr', 'google_crc32c', 'tensorflow'} & set(sys.modules))"

    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "set()"
