"""Rows of splits, as a worker reads them: for each format those that its own library reads, however they are cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
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
from tasks.protocol.split_ref import FileSpan, cut, place_of
from tests.split_files import (
    ROWS,
    VECTORS,
    WRITERS,
    check,
    csv,
    feather,
    jsonl,
    opened,
    parquet,
    parquet_files,
    tfrecords,
    webdataset,
    whole_ref,
)
from worker_config.errors import InputError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that small files have many."""
    for module in (csv_format, jsonl_format, tfrecord_format, webdataset_format):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 4_096)
    monkeypatch.setenv("CELERIAC_CACHE", str(tmp_path / "cache"))


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
