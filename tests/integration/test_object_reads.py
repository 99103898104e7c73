"""What is asked of a store for the rows of splits: the bytes that they need, side by side, and once."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from producer.rows.source import splits_of
from producer.sources import open_source
from tasks.datasets.marked import plain
from tasks.datasets.open_file import Opener
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.split_ref import SplitRef, cut
from tasks.storage import objects, stores
from tasks.storage.background import fetch
from tasks.storage.object_file import fetch_ranges, open_object
from tests.fault_proxy import FaultProxy, proxy_before
from tests.object_stores import ObjectStore
from tests.split_files import check, csv, jsonl, parquet, parquet_files, tfrecords, webdataset
from tests.waiting import wait_until
from worker_config.errors import ObjectMissingError, StoreUnavailableError
from worker_config.object_urls import ObjectUrl, object_url

# Of what a footer, or a header, is read with, and between ranges that are asked for as one.
BUFFER_BYTES, GAP_BYTES = 256 * 2**10, 64 * 2**10
GROUP_ROWS, GROUPS = 20_000, 12


@pytest.fixture
def proxy(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with proxy_before(object_store.port) as proxy:
        for name, value in object_store.environment(endpoint=proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(stores, "_stores", {})
        yield proxy


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Where no other test has objects."""
    return f"s3://rows/{request.node.name.replace('[', '-').rstrip(']')}"


def _put(path: Path, prefix: str) -> str:
    if path.is_file():
        objects.put(object_url(f"{prefix}/{path.name}"), path)
        return f"{prefix}/{path.name}"
    for file in path.iterdir():
        objects.put(object_url(f"{prefix}/{file.name}"), file)
    return f"{prefix}/"


def _ref(url: str, **options: Any) -> SplitRef:
    splits = splits_of(open_source(url, **options))
    assert splits
    ref = splits.open().in_place()
    assert isinstance(ref, SplitRef), ref
    return ref


def _table(seed: int, rows: int) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "first": random.random(rows),
            "unread": random.random((rows, 4)).tolist(),
            "names": pa.array([f"name {one}" for one in random.integers(0, 500, rows)]),
            "last": random.integers(0, 2**60, rows),
        }
    )


def _write(path: Path, seed: int = 0, groups: int = GROUPS) -> Path:
    """A file with many pages in each column, and a dictionary in one."""
    with pq.ParquetWriter(path, _table(0, 1).schema, data_page_size=4_096) as writer:
        for group in range(groups):
            writer.write_table(_table(100 * seed + group, GROUP_ROWS))
    return path


def _asked(proxy: FaultProxy) -> list[tuple[int, int]]:
    """The ranges of bytes that were asked for."""
    ranges = [asked.removeprefix("bytes=").split("-") for _, asked in proxy.seen if asked]
    return [(int(start), int(stop) + 1) for start, stop in ranges]


def _column_bytes(path: Path, group: int, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """Where the columns of a row group stand, by pyarrow."""
    row_group = pq.read_metadata(path).row_group(group)
    columns = [row_group.column(position) for position in range(row_group.num_columns)]
    starts = {
        one.path_in_schema.partition(".")[0]: one.dictionary_page_offset or one.data_page_offset for one in columns
    }
    sizes = {one.path_in_schema.partition(".")[0]: one.total_compressed_size for one in columns}
    return [(starts[name], starts[name] + sizes[name]) for name in names]


def test_of_parquet_only_the_columns_are_asked_for_in_few_requests(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "x.parquet")
    ref = _ref(_put(path, prefix), columns=["first", "names"])
    proxy.seen.clear()
    reader, table = SplitReader(Opener()), pq.read_table(path)
    for group in range(0, GROUPS, 2):  # as one of two slots
        start, stop = group * GROUP_ROWS, (group + 1) * GROUP_ROWS
        rows: Any = reader.read(cut(ref, start, stop))
        np.testing.assert_array_equal(rows["first"], table["first"].to_numpy()[start:stop])
        assert rows["names"].tolist() == table["names"].to_pylist()[start:stop]
    reader.close()

    ranges = [one for group in range(0, GROUPS, 2) for one in _column_bytes(path, group, ("first", "names"))]
    needed = sum(stop - start for start, stop in ranges)
    asked = _asked(proxy)
    assert len(asked) == len(set(asked)) <= 1 + 2 * GROUPS // 2  # the footer, and two columns of six row groups
    assert needed < sum(stop - start for start, stop in asked) <= needed + BUFFER_BYTES


def test_of_hdf5_the_chunks_of_the_rows_are_asked_for_in_few_requests(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    rows, values = 20_000, np.random.default_rng(4).random((20_000, 20))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("packed", data=values, chunks=(500, 20), compression="gzip")
        file.create_dataset("plain", data=values)
        sizes = {at: file["packed"].id.get_chunk_info_by_coord((at, 0)).size for at in range(0, rows, 500)}
    ref, reader = _ref(_put(tmp_path / "x.h5", prefix)), SplitReader(Opener([prefix]))

    def read(start: int, stop: int) -> None:
        found: Any = reader.read(cut(ref, start, stop))
        np.testing.assert_array_equal(found["packed"], values[start:stop])
        np.testing.assert_array_equal(found["plain"], values[start:stop])

    read(0, 500)
    proxy.seen.clear()
    read(5_000, 8_000)
    read(12_250, 13_750)
    needed = [*range(5_000, 8_000, 500), *range(12_000, 14_000, 500)]
    asked = _asked(proxy)
    assert len(asked) <= 5  # two of each dataset, and where chunks are
    least = sum(sizes[at] for at in needed) + 4_500 * 20 * 8
    assert least <= sum(stop - start for start, stop in asked) <= least + BUFFER_BYTES + 2 * GAP_BYTES
    reader.close()


def _slot(ref: SplitRef, rows: int) -> tuple[SplitReader, Callable[[int], Any]]:
    """A slot, one of two that take chunks of so many rows in turn, and what has it read one of them."""
    reader = SplitReader(Opener(["s3://rows"]))

    def read(chunk: int) -> Any:
        part = cut(ref, chunk * rows, (chunk + 1) * rows, slots=2)
        found = reader.read(part)
        reader.fetch_ahead(part)
        return found

    return reader, read


@pytest.mark.parametrize("kind", ["row groups", "files"])
def test_a_slot_finds_what_it_reads_next_fetched(proxy: FaultProxy, prefix: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "many"
    path.mkdir()
    for number in range(1 if kind == "row groups" else GROUPS):
        _write(path / f"part-{number:02}.parquet", number, GROUPS if kind == "row groups" else 1)
    table = pq.read_table(path)["first"].to_numpy()
    reader, read = _slot(_ref(_put(path, prefix), columns=["first"]), GROUP_ROWS)

    def check_chunk(chunk: int) -> None:
        np.testing.assert_array_equal(read(chunk)["first"], table[chunk * GROUP_ROWS : (chunk + 1) * GROUP_ROWS])

    def asked_for(chunks: int) -> int:
        return 1 + chunks if kind == "row groups" else 2 * chunks  # footers, and the column

    proxy.seen.clear()
    check_chunk(0)
    check_chunk(2)
    for chunk in (4, 6):
        wait_until(lambda chunk=chunk: len(_asked(proxy)) == asked_for(chunk // 2 + 1), f"chunk {chunk} is fetched")  # type: ignore[misc]
        check_chunk(chunk)
    wait_until(lambda: len(_asked(proxy)) == asked_for(5), "chunk 8 is fetched")
    for chunk in (
        9,
        10,
        3,
    ):  # of other slots, and not what was said of the one before, so that nothing is fetched ahead
        check_chunk(chunk)
    assert len(_asked(proxy)) == asked_for(8)
    reader.close()


def test_a_slot_finds_the_chunks_of_zarr_that_it_reads_next_read(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    data = np.random.default_rng(5).random((GROUPS * 50, 4))
    zarr.create_group(tmp_path / "x.zarr").create_array("x", data=data, chunks=(50, 4))
    for file in (one for one in (tmp_path / "x.zarr").rglob("*") if one.is_file()):
        objects.put(object_url(f"{prefix}/{file.relative_to(tmp_path)}"), file)
    reader, read = _slot(_ref(f"{prefix}/x.zarr"), 50)

    def check_chunk(chunk: int) -> None:
        np.testing.assert_array_equal(read(chunk)["x"], data[chunk * 50 : chunk * 50 + 50])

    def asked() -> list[int]:
        return [int(line.split("/")[-2]) for line, _ in proxy.seen if "/c/" in line]

    proxy.seen.clear()
    check_chunk(0)
    assert len(proxy.seen) == 2  # what the array is, in the only version that it can be of, and the chunk
    check_chunk(2)
    for chunk in (4, 6):
        wait_until(lambda chunk=chunk: asked() == [*range(0, chunk + 1, 2)], f"chunk {chunk} is read")  # type: ignore[misc]
        check_chunk(chunk)
    wait_until(lambda: asked() == [0, 2, 4, 6, 8], "chunk 8 is read")
    check_chunk(3)  # of another slot: what was read ahead is of no use
    assert asked() == [0, 2, 4, 6, 8, 3]
    reader.close()


def test_what_cannot_be_fetched_ahead_is_told_by_the_chunk_that_needs_it(
    proxy: FaultProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many"
    path.mkdir()
    for number in range(GROUPS):
        _write(path / f"part-{number:02}.parquet", number, 1)
    table = pq.read_table(path)["last"].to_numpy()
    reader, read = _slot(_ref(_put(path, prefix), columns=["last"]), GROUP_ROWS)
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.0)
    read(0)
    proxy.refused["part-04"] = (2, 404)
    np.testing.assert_array_equal(read(2)["last"], table[2 * GROUP_ROWS : 3 * GROUP_ROWS])
    wait_until(lambda: proxy.refused["part-04"][0] == 1, "the next one has failed")
    with pytest.raises(ObjectMissingError, match=r"part-04\.parquet: no such object"):
        read(4)
    np.testing.assert_array_equal(read(4)["last"], table[4 * GROUP_ROWS : 5 * GROUP_ROWS])
    reader.close()


@pytest.mark.parametrize(
    "write",
    [csv, jsonl, tfrecords, webdataset, parquet, parquet_files],
    ids=lambda write: write.__name__,
)
def test_rows_are_those_of_the_library_whatever_was_fetched_ahead(
    proxy: FaultProxy,
    prefix: str,
    tmp_path: Path,
    write: Callable[[Path], tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("csv", "jsonl", "tfrecord", "webdataset"):  # so that small files have many blocks
        monkeypatch.setattr(f"tasks.datasets.formats.{name}._BLOCK_BYTES", 4_096)
    monkeypatch.setattr("tasks.storage.object_file._GAP_BYTES", 0)
    monkeypatch.setenv("CELERIAC_CACHE", str(tmp_path / "cache"))
    path, values = write(tmp_path)
    ref = _ref(_put(path, prefix), **({} if "" in values else {"columns": list(values)}))
    reader, read = _slot(ref, 90)
    for chunk in (0, 2, 4, 6, 7, 9, 1, 3, 5, 10, 8, 0):
        check(read(chunk), chunk * 90, min(chunk * 90 + 90, 1_000), values)
    reader.close()


def test_rows_are_right_where_ranges_are_larger_than_what_is_fetched_ahead(
    proxy: FaultProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "x.parquet")
    ref, table = _ref(_put(path, prefix), columns=["first", "unread", "last"]), pq.read_table(path)
    group = sum(stop - start for start, stop in _column_bytes(path, 0, ("first", "unread", "last")))
    for most in (1_000, group // 2, group + 1, 2 * group):
        monkeypatch.setattr("tasks.storage.object_file.MOST_AHEAD_BYTES", most)
        monkeypatch.setattr("tasks.storage.object_file.MOST_NEXT_BYTES", most)
        reader, read = _slot(ref, GROUP_ROWS // 2 + 7)
        for chunk in (0, 2, 4, 6, 7, 5, 0):
            rows = read(chunk)
            begin = chunk * (GROUP_ROWS // 2 + 7)
            part = table.slice(begin, GROUP_ROWS // 2 + 7)
            for name in ("first", "last"):
                np.testing.assert_array_equal(rows[name], part[name].to_numpy())
            assert rows["unread"].tolist() == part["unread"].to_pylist()
        reader.close()


def test_what_is_told_to_be_next_is_opened_under_the_roots_alone_and_does_no_harm(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "x.parquet")
    other = f"{prefix}-elsewhere"
    ref, elsewhere = (_ref(_put(path, one), columns=["first"]) for one in (prefix, other))
    table, reader = pq.read_table(path)["first"].to_numpy(), SplitReader(Opener([prefix]))
    wrong = [
        elsewhere.spans,
        [msgspec.structs.replace(ref.spans[0], start=2**61, stop=2**62)],
        [msgspec.structs.replace(ref.spans[0], path="/etc/hostname")],
        [msgspec.structs.replace(ref.spans[0], path="s3://no bucket/x")],
    ]
    proxy.seen.clear()
    for chunk, spans in enumerate(wrong):
        first = chunk * GROUP_ROWS
        part = cut(ref, first, first + GROUP_ROWS)
        # As if it had been right the last time.
        reader.fetch_ahead(msgspec.structs.replace(part, ahead=part.spans))
        np.testing.assert_array_equal(plain(reader.read(part))["first"], table[first : first + GROUP_ROWS])  # type: ignore[index,call-overload]
        reader.fetch_ahead(msgspec.structs.replace(part, ahead=spans))
    reader.close()
    assert not [line for line, _ in proxy.seen if "elsewhere" in line]


def test_what_is_fetched_has_a_bound_whatever_is_told_and_reads_are_right(
    proxy: FaultProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, most = np.random.default_rng(5).bytes(2**20), 50_000
    (tmp_path / "x").write_bytes(data)
    url = object_url(_put(tmp_path / "x", prefix))
    fetched: list[tuple[weakref.ref[Any], int]] = []

    def noted(url: ObjectUrl, stamp: objects.ObjectStamp, start: int, stop: int) -> Any:
        future = fetch(url, stamp, start, stop)
        fetched.append((weakref.ref(future), stop - start))
        return future

    monkeypatch.setattr("tasks.storage.object_file.fetch", noted)
    monkeypatch.setattr("tasks.storage.object_file.MOST_AHEAD_BYTES", most)
    monkeypatch.setattr("tasks.storage.object_file.MOST_NEXT_BYTES", most)
    monkeypatch.setattr("tasks.storage.object_file._GAP_BYTES", 100)
    monkeypatch.setattr("tasks.storage.object_file.PIECE_BYTES", 7_000)
    monkeypatch.setattr("tasks.storage.object_file._BUFFER_BYTES", 1_000)
    random = np.random.default_rng(6)
    with open_object(url, objects.stat(url)) as file:
        for _ in range(60):
            starts = random.integers(-100, len(data) + 100, random.integers(0, 6))
            ranges = [(start, start + int(random.integers(-5, 20_000))) for start in starts.tolist()]
            fetch_ranges(file, ranges, ahead=bool(random.integers(2)))
            for start, stop in ranges:
                file.seek(max(0, start))
                assert file.read(max(0, stop - max(0, start))) == data[max(0, start) : max(0, stop)]
            # Of what was told, and of what was guessed.
            wait_until(lambda: sum(size for future, size in fetched if future()) <= 3 * most, "what is held is little")
    assert len(fetched) > 50


def _fetch_in_fork(url: str, stamp: objects.ObjectStamp, answers: multiprocessing.Queue[str]) -> None:
    try:
        with open_object(object_url(url), stamp) as file:
            fetch_ranges(file, [(0, 10)])
            answers.put(f"{file.read(10)!r}")
    except StoreUnavailableError as error:
        answers.put(str(error))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_of_a_process_that_fetches_ahead_is_told_so_and_does_not_hang(
    proxy: FaultProxy, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"0123456789" * 10)
    url = _put(tmp_path / "x", prefix)
    stamp = objects.stat(object_url(url))
    with open_object(object_url(url), stamp) as file:
        fetch_ranges(file, [(20 * start, 20 * start + 10) for start in range(5)])
        assert file.read(10) == b"0123456789"
    fork = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = fork.Queue()
    process = fork.Process(target=_fetch_in_fork, args=(url, stamp, answers))
    process.start()
    assert "this process was forked" in answers.get(timeout=60)
    process.join()
