"""Chunks of a Parquet file come in one piece where the footer tells what they take, the same rows however cut."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.rows.source import splits_of
from producer.sources import open_source
from tasks.datasets import rebatcher
from tasks.datasets.formats import parquet
from tasks.datasets.formats.parquet_pages import page_sizes
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.rebatcher import count_rows
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.messages import cut_in_place
from tasks.protocol.split_ref import SplitRef

ROWS, GROUP_ROWS = 30_000, 4_000
RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.random(ROWS)
VECTORS = RANDOM.random((ROWS, 3)).astype(np.float32)
TABLE = pa.table(
    {
        "number": NUMBERS,
        "vector": pa.FixedSizeListArray.from_arrays(VECTORS.ravel(), 3),
        "null": [None if row % 6_007 == 11 else row for row in range(ROWS)],
    }
)
TEXTS = TABLE.append_column("text", pa.array([f"row {row}" for row in range(ROWS)]))


def whole(path: Path, table: pa.Table) -> SplitRef:
    pq.write_table(table, path, row_group_size=GROUP_ROWS)
    splits = splits_of(open_source(path))
    assert splits is not None
    ref = splits.open().in_place()
    assert isinstance(ref, SplitRef)
    return ref


def read(reader: SplitReader, ref: SplitRef, start: int, stop: int) -> Any:
    part = cut_in_place(ref, start, stop)
    assert isinstance(part, SplitRef)
    return reader.read(part)


@pytest.mark.parametrize("table", [TABLE, TEXTS], ids=["numbers", "texts"])
def test_rows_are_the_same_wherever_chunks_begin_and_end(tmp_path: Path, table: pa.Table) -> None:
    ref = whole(tmp_path / "x.parquet", table)
    reader = SplitReader(Opener(), threads=False)
    cuts = [(0, 8_000), (8_000, 8_001), (8_001, 20_000), (20_000, 24_000), (24_000, 26_500), (26_500, ROWS)]
    for start, stop in (*cuts, (27_000, 27_100), (5, 3_999), (3_999, 4_001), (0, ROWS), (ROWS - 1, ROWS)):
        rows = read(reader, ref, start, stop)
        columns: Any = plain(rows)
        assert columns["number"].tobytes() == NUMBERS[start:stop].tobytes(), (start, stop)
        assert columns["vector"].tobytes() == VECTORS[start:stop].tobytes()
        nulls = [row - start for row in range(start, stop) if row % 6_007 == 11]
        assert sorted(unfed_of(rows)) == nulls
        if "text" in columns:
            assert columns["text"].tolist() == [f"row {row}" for row in range(start, stop)]


def test_whole_row_groups_of_numbers_are_not_copied_to_be_one_array(tmp_path: Path) -> None:
    ref = whole(tmp_path / "x.parquet", TABLE)
    reader = SplitReader(Opener(), threads=False)
    with patch.object(rebatcher, "_joined", side_effect=AssertionError):
        for start, stop in ((0, 12_000), (12_000, 16_000), (16_000, ROWS)):
            assert count_rows(read(reader, ref, start, stop)) == stop - start


def test_rows_are_not_kept_beyond_their_chunk(tmp_path: Path) -> None:
    ref = whole(tmp_path / "x.parquet", TABLE)
    reader = SplitReader(Opener(), threads=False)
    pool = pa.default_memory_pool()
    rows = read(reader, ref, 0, 28_000)
    taken = pool.bytes_allocated()
    del rows
    assert pool.bytes_allocated() < taken - 28_000 * (8 + 12)
    assert count_rows(read(reader, ref, 0, 28_000)) == 28_000  # again


def test_a_piece_has_no_more_bytes_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = whole(tmp_path / "x.parquet", TABLE)
    monkeypatch.setattr(parquet, "_MOST_AT_ONCE_BYTES", parquet.MAX_BATCH_BYTES + 1)
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 2**15)
    reader = SplitReader(Opener(), threads=False)
    pieces = [count_rows(piece) for piece in reader.batches(ref)]
    assert sum(pieces) == ROWS
    monkeypatch.setattr(parquet, "_MOST_AT_ONCE_BYTES", 2**16)
    pieces = [count_rows(piece) for piece in SplitReader(Opener(), threads=False).batches(ref)]
    assert sum(pieces) == ROWS
    assert max(pieces) <= 2**16 // (8 + 12 + 8) + 1
    assert len(pieces) > 5


def test_who_hands_rows_on_as_they_come_gets_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = whole(tmp_path / "x.parquet", TABLE)
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 2**16)
    pieces = [count_rows(piece) for piece in SplitReader(Opener()).batches(ref)]
    assert sum(pieces) == ROWS
    assert max(pieces) <= 2**16 // (8 + 12 + 8) + 1


def header(*pages: tuple[int, int], text: bytes = b"") -> bytes:
    """Pages in Thrift's compact form: kind, sizes in memory and in the file, least value; then their bytes."""
    made = b""
    for unpacked, packed in pages:
        least = bytes([0x58, *varint(len(text))]) + text if text else b""
        made += bytes([0x15, 0, 0x15, *varint(2 * unpacked), 0x15, *varint(2 * packed)])
        made += bytes([0x2C, 0x15, 0, 0x15, 0, 0x15, 0, 0x15, 0, 0x1C]) + least + b"\0\0\0" + bytes(packed)
    return made


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


@pytest.mark.parametrize("length", [0, 10, 5_000, 2**21])
def test_headers_of_any_length_are_read(length: int) -> None:
    pages = [(1_000_000, 70), (5, 5), (2**31 - 1, 0)]
    data = header(*pages, text=b"x" * length)
    assert list(page_sizes(io.BytesIO(data), 0, len(data))) == [unpacked for unpacked, _ in pages]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (header((5, 5))[:-6], "the file ends within a page header"),
        (header((5, 5), text=b"x" * 300)[:200], "the file ends within a page header"),
        (header((5, 5))[:-1], "a page of 5 bytes, which the file has not"),
        (header((5, 5), text=b"x" * (2**24 + 1)), "a page header of more than 16777216 bytes"),
        (b"\x10" + bytes(300), "a field of no known type"),
        (b"\x15" + b"\xff" * 300, "an integer of more than 64 bits"),
        (b"\x1c" * 300, "more than 8 levels"),
        (bytes(300), "no page header at byte 0"),
    ],
)
def test_what_is_no_header_is_told(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(page_sizes(io.BytesIO(data), 0, len(data)))
