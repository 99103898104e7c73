"""Rows of splits, as a worker reads them: for each format those that its own library reads, however they are cut."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq
import pytest
import zarr

from producer.rows.source import splits_of
from producer.sources import open_source
from tasks.datasets.columns import columns_of
from tasks.datasets.formats import csv as csv_format
from tasks.datasets.formats import jsonl as jsonl_format
from tasks.datasets.formats import tfrecord as tfrecord_format
from tasks.datasets.formats import webdataset as webdataset_format
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.messages import ChunkMessage, ModelRef, pack, unpack
from tasks.protocol.split_ref import FileSpan, SplitRef, cut, place_of
from tests.unit.test_sources_tfrecord import tfrecord
from worker_config.errors import InputError

ROWS = 1_000
_RANDOM = np.random.default_rng(8)
NUMBERS = _RANDOM.random(ROWS)
WHOLE = _RANDOM.integers(-(2**62), 2**62, ROWS)
TEXTS = [f'row {row}, "{row % 7}"\n' if row % 5 else "" for row in range(ROWS)]
VECTORS = _RANDOM.random((ROWS, 3)).astype(np.float32)
RAGGED = [list(range(row % 4)) for row in range(ROWS)]
WITH_NULLS = [None if row % 11 == 3 else row for row in range(ROWS)]
LISTS_WITH_NULLS = [[row, None] if row % 13 == 5 else [row, row] for row in range(ROWS)]

TABLE = pa.table(
    {
        "number": NUMBERS,
        "whole": WHOLE,
        "truth": WHOLE % 2 == 0,
        "text": TEXTS,
        "bytes": [text.encode() for text in TEXTS],
        "vector": pa.FixedSizeListArray.from_arrays(VECTORS.ravel(), 3),
        "ragged": RAGGED,
        "null": WITH_NULLS,
        "list_null": LISTS_WITH_NULLS,
        "dictionary": pa.array([f"kind {row % 3}" for row in range(ROWS)]).dictionary_encode(),
        "struct": [{"inner": row, "deep": {"er": float(row)}} for row in range(ROWS)],
        "when": pa.array(np.arange(ROWS).astype("datetime64[s]")),
    }
)
# Of what pyarrow gives, as our rows have it.
COLUMNS = ["number", "whole", "truth", "text", "bytes", "vector", "ragged", "null", "list_null", "dictionary"]
NAMED = [*COLUMNS, "struct.inner", "struct.deep.er"]


def expected(table: pa.Table, names: list[str]) -> dict[str, list[Any]]:
    values = {}
    for name in names:
        column, *fields = name.split(".")
        values[name] = table.column(column).to_pylist()
        for field in fields:
            values[name] = [one[field] for one in values[name]]
    return values


def parquet(folder: Path) -> tuple[Any, Any]:
    pq.write_table(TABLE, folder / "x.parquet", row_group_size=130)
    return folder / "x.parquet", expected(pq.read_table(folder / "x.parquet"), NAMED)


def parquet_files(folder: Path) -> tuple[Any, Any]:
    """Many files, among them empty ones, and empty row groups."""
    (folder / "many").mkdir()
    for number, start in enumerate(range(0, ROWS, 170)):
        pq.write_table(TABLE.slice(start, 170), folder / "many" / f"part-{number:05}.parquet", row_group_size=50)
    pq.write_table(TABLE.slice(0, 0), folder / "many" / "part-00002-empty.parquet")
    with pq.ParquetWriter(folder / "many" / "part-00003-groups.parquet", TABLE.schema) as writer:
        for rows in (0, 0):
            writer.write_table(TABLE.slice(0, rows))
    return folder / "many", expected(TABLE, NAMED)


def partitioned(folder: Path) -> tuple[Any, Any]:
    """Files in folders that say what all their rows have."""
    names = {"year=2023/kind=a%20b": 300, "year=2023/kind=c": 1, "year=2024/kind=c": 699}
    begin = 0
    for name, rows in names.items():
        (folder / "parts" / name).mkdir(parents=True)
        table = TABLE.select(["text", "number"]).slice(begin, rows)
        pq.write_table(table, folder / "parts" / name / "part-0.parquet", row_group_size=50)
        begin += rows
    table = pa.dataset.dataset(folder / "parts", partitioning="hive").to_table()
    assert table.column("text").to_pylist() == TEXTS  # in the order of the names
    return folder / "parts", expected(table, table.column_names)


def arrow(folder: Path) -> tuple[Any, Any]:
    with pa.ipc.new_file(folder / "x.arrow", TABLE.schema) as writer:
        for start in range(0, ROWS, 90):
            writer.write_table(TABLE.slice(start, 90))
        writer.write_table(TABLE.slice(0, 0))
    with pa.ipc.open_file(folder / "x.arrow") as opened:
        return folder / "x.arrow", expected(opened.read_all(), NAMED)


def feather(folder: Path) -> tuple[Any, Any]:
    pa.feather.write_feather(TABLE, folder / "x.feather", chunksize=77, compression="lz4")
    return folder / "x.feather", expected(pa.feather.read_table(folder / "x.feather"), NAMED)


def csv(folder: Path) -> tuple[Any, Any]:
    names = ["number", "whole", "truth", "text", "null"]
    pa.csv.write_csv(TABLE.select(names), folder / "x.csv")
    options = pa.csv.ConvertOptions(strings_can_be_null=False)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    table = pa.csv.read_csv(folder / "x.csv", parse_options=parse, convert_options=options)
    return folder / "x.csv", expected(table, names)


def jsonl(folder: Path) -> tuple[Any, Any]:
    names = ["number", "whole", "truth", "text", "vector", "ragged", "null", "list_null", "struct"]
    lines = [json.dumps(row) for row in TABLE.select(names).to_pylist()]
    (folder / "x.jsonl").write_text("\n".join(lines))
    table = pa.json.read_json(folder / "x.jsonl")
    return folder / "x.jsonl", expected(table, [*names[:-1], "struct.inner", "struct.deep.er"])


def tfrecords(folder: Path) -> tuple[Any, Any]:
    (folder / "many").mkdir()
    records = [bytes([row % 256]) * (row % 300) for row in range(ROWS)]
    for number, start in enumerate(range(0, ROWS, 400)):
        path = folder / "many" / f"name.tfrecord-{number:05}-of-00003"
        path.write_bytes(tfrecord(records[start : start + 400]))
    return folder / "many", {"": records}


def zarr_group(folder: Path) -> tuple[Any, Any]:
    group = zarr.create_group(folder / "x.zarr")
    group.create_array("vector", data=VECTORS, chunks=(70, 2))
    group.create_array("number", data=NUMBERS, chunks=(30,), shards=(120,))
    return folder / "x.zarr", {"number": group["number"][:].tolist(), "vector": group["vector"][:].tolist()}  # type: ignore[index,union-attr]


def zarr_array(folder: Path) -> tuple[Any, Any]:
    zarr.create_array(folder / "x.zarr", data=VECTORS, chunks=(64, 3), zarr_format=2)
    return folder / "x.zarr", {"": zarr.open_array(folder / "x.zarr")[:].tolist()}  # type: ignore[union-attr]


def npz(folder: Path) -> tuple[Any, Any]:
    np.savez(folder / "x.npz", number=NUMBERS, vector=VECTORS)
    with np.load(folder / "x.npz") as loaded:
        return folder / "x.npz", {name: loaded[name].tolist() for name in ("number", "vector")}


def hdf5(folder: Path) -> tuple[Any, Any]:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("vector", data=VECTORS, chunks=(64, 3), compression="gzip")
        file.create_dataset("group/number", data=NUMBERS)
        file.create_dataset("text", data=[text or "none" for text in TEXTS], dtype=h5py.string_dtype())
    with h5py.File(folder / "x.h5") as file:
        texts = [text.decode() for text in file["text"][:]]
        return folder / "x.h5", {
            "group/number": file["group/number"][:].tolist(),
            "text": texts,
            "vector": file["vector"][:].tolist(),
        }


def webdataset(folder: Path) -> tuple[Any, Any]:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for row in range(ROWS):
            for extension, data in (("txt", TEXTS[row].encode()), ("seg.bin", bytes([row % 256]) * (row % 50))):
                member = tarfile.TarInfo(f"shard/{row:04}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with tarfile.open(folder / "x.tar") as archive:
        found = {extension: [] for extension in ("txt", "seg.bin")}  # type: ignore[var-annotated]
        for member in archive:
            found[member.name.partition(".")[2]].append(archive.extractfile(member).read())  # type: ignore[union-attr]
    return folder / "x.tar", found


def contents(folder: Path) -> tuple[Any, Any]:
    (folder / "files").mkdir()
    for row in range(ROWS):
        (folder / "files" / f"{row:04}.bin").write_bytes(bytes([row % 256]) * (row % 90))
    return folder / "files", {"": [path.read_bytes() for path in sorted((folder / "files").iterdir())]}


WRITERS = [
    contents,
    webdataset,
    parquet,
    parquet_files,
    partitioned,
    arrow,
    feather,
    csv,
    jsonl,
    tfrecords,
    zarr_group,
    zarr_array,
    npz,
    hdf5,
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that small files have many."""
    for module in (csv_format, jsonl_format, tfrecord_format, webdataset_format):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 4_096)
    monkeypatch.setenv("CELERIAC_CACHE", str(tmp_path / "cache"))


def opened(path: Path, names: list[str]) -> Any:
    named = {"columns": names} if any(name.startswith("struct.") for name in names) else {}
    return open_source(path, **named, **({"contents": True} if path.name == "files" else {}))


def whole_ref(source: Any) -> SplitRef:
    """Where all rows stand, as it comes out of a message."""
    ref = splits_of(source).open().in_place()  # type: ignore[union-attr]
    assert isinstance(ref, SplitRef), ref
    message = ChunkMessage(2, "0" * 12, 0, 0, 1, 1, [ModelRef("m", "d")], ref)
    came: Any = unpack(pack(message), ChunkMessage)
    assert came.ref == ref
    return ref


def check(rows: Any, start: int, stop: int, values: dict[str, list[Any]]) -> None:
    """Hold rows against those of a library: what is or holds None there cannot be fed here."""
    columns = columns_of(plain(rows), "rows")
    assert list(columns) == list(values) or set(columns) == set(values)
    null = {
        at - start
        for at in range(start, stop)
        for column in values.values()
        if column[at] is None or (isinstance(column[at], list) and None in column[at])
    }
    assert set(unfed_of(rows)) == null
    for name, column in columns.items():
        assert len(column) == stop - start
        for at, value in enumerate(column):
            if at not in null:
                found = value.tolist() if hasattr(value, "tolist") else value
                wanted = values[name][start + at]
                assert found == wanted, (name, start + at)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_rows_are_those_of_the_formats_own_library(write: Callable[[Path], tuple[Any, Any]], tmp_path: Path) -> None:
    path, values = write(tmp_path)
    ref = whole_ref(opened(path, list(values)))
    reader = SplitReader(Opener([tmp_path]), threads=False)
    sizes = [1, 250, 3, 96, 400, 17, 233]
    chunks = [(sum(sizes[:at]), sum(sizes[: at + 1])) for at in range(len(sizes))]

    for start, stop in [*chunks, *reversed(chunks), (0, ROWS), (999, 1_000), (0, 1)]:
        check(reader.read(cut(ref, start, stop)), start, stop, values)

    reader.close()


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_worker_reads_what_a_producer_does(write: Callable[[Path], tuple[Any, Any]], tmp_path: Path) -> None:
    path, values = write(tmp_path)
    source = opened(path, list(values))
    splits: Any = splits_of(source).open()  # type: ignore[union-attr]
    reader = SplitReader(Opener([tmp_path]), threads=False)

    for start, stop in [(0, 130), (130, 700), (650, ROWS)]:
        here, there = splits.take_marked(start, stop), reader.read(cut(whole_ref(source), start, stop))
        assert [why.replace(str(path), "") for why in unfed_of(here).values()] == [
            why.replace(str(path), "") for why in unfed_of(there).values()
        ]
        for name, column in columns_of(plain(here), "rows").items():
            other = columns_of(plain(there), "rows")[name]
            assert type(column) is type(other)
            if isinstance(column, np.ndarray):
                assert (column.dtype, column.shape) == (other.dtype, other.shape)
            assert not any(one.flags.writeable for one in (other if isinstance(other, list) else [other]))


@pytest.mark.parametrize(
    "write", [parquet, csv, jsonl, tfrecords, feather, webdataset], ids=lambda write: write.__name__
)
def test_what_is_read_on_is_not_read_again(
    write: Callable[[Path], tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = write(tmp_path)
    ref = whole_ref(opened(path, list(values)))
    files, open_file = [], Opener.open

    def noted(self: Opener, span: FileSpan) -> Any:
        files.append(span.path)
        return open_file(self, span)

    monkeypatch.setattr(Opener, "open", noted)
    reader = SplitReader(Opener([tmp_path]))

    for start in range(0, ROWS, 20):
        reader.read(cut(ref, start, start + 20))

    assert len(files) == len(set(files))


@pytest.mark.parametrize("lines", ['a,b\n1,x\n2,y"z\n3,w\n', "a,b\r1,x\r2,y\r", 'a,b\n1,"x"y\n2,z\n'])
def test_csv_whose_lines_may_end_elsewhere_is_not_cut(tmp_path: Path, lines: str) -> None:
    (tmp_path / "x.csv").write_bytes(lines.encode() * 3_000)
    source: Any = open_source(tmp_path / "x.csv", columns=["a"])
    assert len(whole_ref(source).spans) == 1


def test_a_row_knows_its_file_and_place(tmp_path: Path) -> None:
    path, _ = parquet_files(tmp_path)
    ref = whole_ref(open_source(path))
    assert place_of(ref, 0) == f"{path}/part-00000.parquet, row 0"
    assert place_of(cut(ref, 100, 400), 340) == f"{path}/part-00002.parquet, row 0"
    assert place_of(cut(ref, 100, 400), 400) == ""


def link(path: Path) -> Path:
    path.with_name("link.parquet").symlink_to(path)
    return path.with_name("link.parquet")


BAD = {
    "missing": (lambda path: path.unlink(), "no such file; check the path"),
    "changed": (lambda path: os.utime(path, ns=(1, 1)), "has changed since it was opened, or is another file here"),
    "cut short": (lambda path: os.truncate(path, 100), "has been cut short since it was opened"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "since it was opened, or is another file here"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_file_that_is_not_what_it_was_is_one_clear_error(tmp_path: Path, how: str) -> None:
    path, _ = parquet(tmp_path)
    ref = whole_ref(open_source(path))
    harm, text = BAD[how]
    harm(path)  # type: ignore[no-untyped-call]
    with pytest.raises(InputError) as caught:
        SplitReader(Opener([tmp_path])).read(cut(ref, 0, 10))
    assert text in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", ["elsewhere", "by dots", "by a link", "by a link to a folder"])
def test_nothing_outside_the_roots_is_opened(tmp_path: Path, way: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    path, _ = parquet(outside)
    ref = whole_ref(open_source(path))
    (inside / "link.parquet").symlink_to(path)
    (inside / "folder").symlink_to(outside)
    named = {
        "elsewhere": str(path),
        "by dots": f"{inside}/../outside/x.parquet",
        "by a link": str(inside / "link.parquet"),
        "by a link to a folder": str(inside / "folder" / "x.parquet"),
    }[way]
    spans = [msgspec.structs.replace(span, path=named) for span in ref.spans]
    with pytest.raises(InputError, match="is not under a folder of CELERIAC_DATA_ROOTS here"):
        SplitReader(Opener([inside])).read(msgspec.structs.replace(ref, spans=spans))


def test_a_zarr_chunk_that_is_a_link_out_of_the_roots_is_not_opened(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in" / "x.zarr", data=VECTORS, chunks=(500, 3))
    chunk = tmp_path / "in" / "x.zarr" / "c" / "1" / "0"
    chunk.rename(tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    ref = whole_ref(open_source(tmp_path / "in" / "x.zarr"))
    reader = SplitReader(Opener([tmp_path / "in"]))
    reader.read(cut(ref, 0, 500))
    with pytest.raises(InputError, match="is not under a folder of CELERIAC_DATA_ROOTS here"):
        reader.read(cut(ref, 400, 600))


@pytest.mark.parametrize("kind", ["link", "virtual", "raw"])
def test_hdf5_whose_values_stand_in_other_files_is_refused(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = VECTORS
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if kind == "link":
            file["x"] = h5py.ExternalLink("other.h5", "x")
        elif kind == "raw":
            file.create_dataset("x", (10, 3), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((ROWS, 3), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "x", (ROWS, 3))
            file.create_virtual_dataset("x", layout)
    with pytest.raises(InputError, match=r"'x'.*other file|'x' is a link into another file"):
        open_source(tmp_path / "x.h5")


def test_a_block_that_is_read_by_several_is_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = parquet(tmp_path)
    monkeypatch.setattr("producer.sources.formats.split_source.MAX_BLOCK_BYTES", 1_000)
    splits: Any = splits_of(open_source(path))
    assert "its row groups have up to" in splits.open().in_place()


def test_chunks_end_where_row_groups_do(tmp_path: Path) -> None:
    path, _ = parquet(tmp_path)  # row groups of 130
    splits: Any = splits_of(open_source(path)).open()  # type: ignore[union-attr]
    assert splits.cut_rows(0, 100, fixed=False) == 130
    assert splits.cut_rows(130, 100, fixed=False) == 130
    assert splits.cut_rows(0, 50, fixed=False) == 50
    assert splits.cut_rows(100, 50, fixed=False) == 30
    assert splits.cut_rows(0, 100, fixed=True) == 100
    assert splits.cut_rows(910, 500, fixed=False) == 90


def test_a_chunk_has_no_more_files_than_its_message_holds(tmp_path: Path) -> None:
    path, _ = parquet_files(tmp_path)
    splits: Any = splits_of(open_source(path)).open()  # type: ignore[union-attr]
    splits.most_spans = 2
    assert splits.cut_rows(100, 900, fixed=True) == 240
