"""Arrays and files behind URLs, of formats that are more than one stream of rows: what comes, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from producer.rows.source import splits_of
from producer.sources import fingerprint, open_source
from tasks.datasets.columns import columns_of
from tasks.datasets.input_limit import InputLimit
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.split_ref import SplitRef, cut
from tasks.storage import objects, stores
from tests.fault_proxy import FaultProxy, proxy_before
from tests.object_stores import ObjectStore
from tests.split_files import partitioned
from worker_config.errors import InputError, ObjectChangedError, StoreUnavailableError
from worker_config.object_urls import object_url

ROWS = 600
VALUES = np.random.default_rng(3).random((ROWS, 5))
NUMBERS = np.arange(ROWS, dtype=np.int32)


@pytest.fixture(autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Where no other test has objects."""
    return f"s3://rows/{request.node.name.replace('[', '-').rstrip(']')}"


def _put(path: Path, prefix: str) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        objects.put(object_url(f"{prefix}/{file.relative_to(path.parent)}"), file)
    return f"{prefix}/{path.name}"


def _ref(source: Any) -> SplitRef:
    splits = splits_of(source)
    assert splits
    ref = splits.open().in_place()
    assert isinstance(ref, SplitRef), ref
    return ref


def _npz(path: Path, seed: int) -> Path:
    np.savez(path, a=np.random.default_rng(seed).random((20_000, 10)), b=np.arange(20_000))
    return path


def _hdf5(path: Path, seed: int) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.random.default_rng(seed).random((20_000, 10)), chunks=(500, 10))
    return path


@pytest.mark.parametrize("write", [_npz, _hdf5])
def test_an_object_that_was_overwritten_is_told_and_not_read(tmp_path: Path, prefix: str, write: Any) -> None:
    path = write(tmp_path / f"x.{write.__name__.removeprefix('_').replace('hdf5', 'h5')}", 1)
    url, size = _put(path, prefix), path.stat().st_size
    ref = _ref(open_source(url))
    reader = SplitReader(Opener([prefix]))
    rows: Any = reader.read(cut(ref, 0, 10))
    np.testing.assert_array_equal(rows["a"], np.random.default_rng(1).random((20_000, 10))[:10])
    _put(write(path, 2), prefix)
    assert path.stat().st_size == size  # so that nothing but the ETag tells
    for one in (reader, SplitReader(Opener([prefix]))):
        with pytest.raises(ObjectChangedError, match=rf"^{url}: has changed since it was looked at"):
            one.read(cut(ref, 19_000, 19_100))
    with pytest.raises(InputError, match=rf"^{url} is not under a URL of CELERIAC_DATA_ROOTS here"):
        SplitReader(Opener([f"{prefix}/other"])).read(cut(ref, 0, 10))


def test_arrays_of_an_npz_come_by_name_and_alone(tmp_path: Path, prefix: str) -> None:
    np.savez(tmp_path / "x.npz", values=VALUES, numbers=NUMBERS)
    url = _put(tmp_path / "x.npz", prefix)
    rows: Any = open_source(url, columns=["values", "numbers"]).take(100, 200)  # type: ignore[union-attr]
    np.testing.assert_array_equal(rows["values"], VALUES[100:200])
    np.testing.assert_array_equal(rows["numbers"], NUMBERS[100:200])
    alone: Any = open_source(url, array="numbers")
    np.testing.assert_array_equal(alone.take(0, ROWS), NUMBERS)
    with pytest.raises(InputError, match=r"x\.npz: .*'none'"):
        open_source(url, array="none")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_in_any_other_form_is_read_as_the_file_is(
    tmp_path: Path, prefix: str, save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {
        "truth": NUMBERS > 7,
        "big": NUMBERS.astype(">i4"),
        "fortran": np.asfortranarray(VALUES),
        "text": NUMBERS.astype(str),
        "plain": VALUES,
        "when": NUMBERS.astype("M8[s]"),
    }
    save(tmp_path / "x.npz", **arrays)
    url = _put(tmp_path / "x.npz", prefix)
    for options in ({}, {"columns": ["when", "text"]}, {"array": "big"}, {"array": "fortran"}):
        here: Any = open_source(tmp_path / "x.npz", **options)
        there: Any = open_source(url, **options)
        wanted, found = (columns_of(one.take(100, 300), "rows") for one in (here, there))
        assert {name: (one.dtype, one.tolist()) for name, one in found.items()} == {
            name: (one.dtype, one.tolist()) for name, one in wanted.items()
        }
    monkeypatch.setattr("producer.sources.numpy_files.input_limit", lambda: InputLimit(1_000))
    with pytest.raises(InputError, match=r"x\.npz: array '\w+': what is compressed, up to this array, has"):
        open_source(url)


def test_an_npz_that_is_none_is_told_so(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a zip file" * 50)
    url = _put(tmp_path / "x.npz", prefix)
    with pytest.raises(InputError, match=rf"^{url}: is damaged or cut short"):
        open_source(url)


def test_an_npy_of_records_gives_its_fields(tmp_path: Path, prefix: str) -> None:
    records = np.empty(ROWS, [("number", "i4"), ("values", "f8", 5), ("text", "S5")])
    records["number"], records["values"], records["text"] = NUMBERS, VALUES, NUMBERS.astype("S5")
    np.save(tmp_path / "x.npy", records)
    here: Any = open_source(tmp_path / "x.npy")
    there: Any = open_source(_put(tmp_path / "x.npy", prefix))
    for start, stop in ((0, ROWS), (7, 9), (5, 5)):
        wanted, found = here.take(start, stop), there.take(start, stop)
        assert {name: one.tolist() for name, one in found.items()} == {n: one.tolist() for n, one in wanted.items()}
    assert there.table.only(["text"]).take(3, 4)["text"].tolist() == [b"3"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bool", ">i4"])
def test_any_slice_of_a_zarr_array_is_what_was_written(tmp_path: Path, zarr_format: Any, dtype: str) -> None:
    data = (VALUES * 9).astype(dtype)
    shards = {"shards": (120, 4)} if zarr_format == 3 and dtype == "float32" else {}
    zarr.create_array(tmp_path / "x.zarr", data=data, chunks=(30, 2), zarr_format=zarr_format, **shards)
    url = _put(tmp_path / "x.zarr", f"s3://rows/slices-{zarr_format}-{dtype.strip('<>')}")
    source: Any = open_source(url)
    for start, stop in ((0, 0), (0, ROWS), (17, 163), (ROWS - 1, ROWS)):
        rows = source.take(start, stop)
        assert rows.tolist() == data[start:stop].tolist()
    assert open_source(f"{url}/").rows == ROWS  # type: ignore[union-attr]


def test_a_zarr_group_gives_its_arrays_by_name(tmp_path: Path, prefix: str) -> None:
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("values", data=VALUES, chunks=(50, 5))
    group.create_array("numbers", data=NUMBERS, chunks=(70,))
    group.create_group("deep").create_array("inner", data=NUMBERS * 2, chunks=(70,))
    url = _put(tmp_path / "x.zarr", prefix)
    rows: Any = open_source(url).take(40, 130)  # type: ignore[union-attr]
    assert set(rows) == {"values", "numbers"}
    np.testing.assert_array_equal(rows["values"], VALUES[40:130])
    inner: Any = open_source(url, array="deep/inner")
    np.testing.assert_array_equal(inner.take(5, 100), NUMBERS[5:100] * 2)
    ref = _ref(open_source(url))
    with pytest.raises(InputError, match=r"is not under a URL of CELERIAC_DATA_ROOTS here"):
        SplitReader(Opener([f"{prefix}/x.zarr/values"])).read(cut(ref, 0, 10))
    with pytest.raises(InputError, match="is no Zarr array or group"):
        open_source(f"{prefix}/none.zarr")


def test_chunks_of_zarr_are_asked_for_once_each_and_side_by_side(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=VALUES, chunks=(50, 1))
    ref = _ref(open_source(_put(tmp_path / "x.zarr", prefix)))
    with _proxy(object_store, monkeypatch) as proxy:
        reader = SplitReader(Opener([prefix]))
        np.testing.assert_array_equal(plain(reader.read(cut(ref, 0, 100))), VALUES[:100])
        asked = [line.split()[1] for line, _ in proxy.seen if "/c/" in line]
        assert len(asked) == len(set(asked)) == 10


def test_a_run_that_continues_sees_that_a_chunk_of_zarr_has_changed(tmp_path: Path, prefix: str) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=VALUES, chunks=(50, 5), compressors=None)
    url = _put(tmp_path / "x.zarr", prefix)
    before = fingerprint(url)
    assert before == fingerprint(url)
    chunk = tmp_path / "x.zarr" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    objects.put(object_url(f"{url}/c/3/0"), chunk)
    assert before != fingerprint(url)


def test_of_a_web_server_an_array_of_zarr_is_read_and_a_group_is_not_listed(
    object_store: ObjectStore, tmp_path: Path, prefix: str
) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=VALUES, chunks=(50, 5))
    zarr.create_group(tmp_path / "group.zarr").create_array("values", data=VALUES, chunks=(50, 5))
    web = f"http://127.0.0.1:{object_store.web_port}/buckets/"
    url = _put(tmp_path / "x.zarr", prefix).replace("s3://", web)
    source: Any = open_source(url)
    np.testing.assert_array_equal(source.take(30, 170), VALUES[30:170])
    assert fingerprint(url) == fingerprint(url)
    with pytest.raises(InputError, match="web servers do not list what they have"):
        open_source(_put(tmp_path / "group.zarr", prefix).replace("s3://", web))


@contextmanager
def _proxy(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with proxy_before(store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr(stores, "_stores", {})
        yield proxy


def _photos(folder: Path) -> Path:
    (folder / "photos").mkdir()
    for row in range(40):
        (folder / "photos" / f"{row:02}.jpg").write_bytes(bytes([row]) * (row * 100))
    (folder / "photos" / "deep").mkdir()
    (folder / "photos" / "deep" / "x.jpg").write_bytes(b"deep")
    return folder / "photos"


def test_a_folder_of_objects_is_their_urls_or_their_bytes(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{_put(_photos(tmp_path), prefix)}/"
    source: Any = open_source(url)
    assert source.take(0, 40).tolist() == [f"{url}{row:02}.jpg" for row in range(40)]
    assert f"its subfolders are left out: deep; for their files too give the pattern {url}**/*" in caplog.text
    assert open_source(f"{url}**/*").rows == 41  # type: ignore[union-attr]
    contents: Any = open_source(url, contents=True)
    assert contents.take(5, 25).tolist() == [bytes([row]) * (row * 100) for row in range(5, 25)]
    assert contents.table.only(["path"]).take(3, 4)["path"].tolist() == [f"{url}03.jpg"]


def test_an_object_that_is_gone_fails_alone_but_not_a_store_that_is(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    url = f"{_put(_photos(tmp_path), prefix)}/"
    ref = _ref(open_source(url, contents=True))
    objects.delete([object_url(f"{url}07.jpg")])
    objects.put(object_url(f"{url}09.jpg"), b"other")
    rows = SplitReader(Opener([prefix])).read(ref)
    assert sorted(unfed_of(rows)) == [7, 9]
    assert unfed_of(rows)[7].startswith(f"{url}07.jpg: no such object")
    assert [len(one) for one in plain(rows)] == [0 if row in (7, 9) else row * 100 for row in range(40)]
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.0)
    with _proxy(object_store, monkeypatch) as proxy:
        proxy.refused["20.jpg"] = (10**6, 503)
        with pytest.raises(StoreUnavailableError, match=r"20\.jpg: cannot be read: the store is busy"):
            SplitReader(Opener([prefix])).read(ref)


def test_a_folder_of_partitions_is_known_again(tmp_path: Path, prefix: str) -> None:
    path, values = partitioned(tmp_path)
    url = f"{_put(path, prefix)}/"
    source: Any = open_source(url)
    assert set(source.table.names) == set(values)
    before = fingerprint(url)
    assert (before["files"], before) == (3, fingerprint(url))
    objects.put(object_url(f"{url}year=2024/kind=c/part-0.parquet"), b"other")
    assert fingerprint(url) != before


def test_objects_of_a_kind_that_is_not_read_are_told(prefix: str) -> None:
    objects.put(object_url(f"{prefix}/x.xlsx"), b"1")
    with pytest.raises(InputError, match=r"x\.xlsx: objects of type '\.xlsx' cannot be read; .*name a folder"):
        open_source(f"{prefix}/x.xlsx")
