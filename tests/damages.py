"""Data sets that are whole at first and damaged from some row on, and what is then said of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr

from producer.sources import from_batches, open_files, open_source
from tests.data_sets import PIXELS, RECORDS, ROWS, SIDES, write_files, write_parquet, write_records

CHUNK_ROWS = 8


class Torn:
    """Somebody's own source, which fails in its own way from row 29 on."""

    label, rows, row_bytes, path = "torn", ROWS, 256.0, None

    def take(self, start: int, stop: int) -> np.ndarray:
        if stop > 29:
            raise ValueError("the tape\nhas snapped")
        return PIXELS[start:stop]


def generator_that_raises(_: Path) -> object:
    def rows() -> Iterator[np.ndarray]:
        yield from PIXELS[:29]
        raise OSError("the camera is gone")

    return rows()


def batches_that_raise(_: Path) -> object:
    def batches() -> Iterator[np.ndarray]:
        yield PIXELS[:29]
        raise OSError("the camera is gone")

    return from_batches(batches())


def generator_of_another_dtype(_: Path) -> object:
    return iter([*PIXELS[:29], PIXELS[29].astype(np.int32), *PIXELS[30:]])


def batches_of_another_dtype(_: Path) -> object:
    return from_batches(iter([PIXELS[:29], PIXELS[29:].astype(np.float64)]))


def text_that_cannot_travel(_: Path) -> object:
    return ["text"] * 29 + ["half a surrogate \ud800"] + ["text"] * 30


def file_that_vanishes(folder: Path) -> object:
    source = open_files(f"{write_files(folder)}/*.bin", contents=True)
    (folder / "files" / "29.bin").unlink()
    return source


def damaged_zarr(folder: Path) -> object:
    zarr.create_array(str(folder / "rows.zarr"), data=PIXELS, chunks=(CHUNK_ROWS, 64))
    (folder / "rows.zarr" / "c" / "3" / "0").write_bytes(b"not compressed")
    return open_source(folder / "rows.zarr")


def parquet_set_with_a_damaged_file(folder: Path) -> object:
    write_parquet(folder / "1.parquet", slice(0, 29))
    write_parquet(folder / "2.parquet", slice(29, None))
    pages = bytearray((folder / "2.parquet").read_bytes())
    pages[4:200] = bytes(196)  # the end of the file, which says what is in it, is whole
    (folder / "2.parquet").write_bytes(pages)
    return f"{folder}/*.parquet"


def parquet_set_whose_second_file_vanishes(folder: Path) -> object:
    write_parquet(folder / "1.parquet", slice(0, 29))
    write_parquet(folder / "2.parquet", slice(29, None))
    source = open_source(f"{folder}/*.parquet")
    (folder / "2.parquet").unlink()
    return source


def parquet_with_a_null(folder: Path) -> object:
    left = [row.tolist() for row in SIDES["left"]]
    left[29][1] = None
    write_parquet(folder / "nulls.parquet", left=pa.array(left, pa.list_(pa.float32())))
    return folder / "nulls.parquet"


def torn_tfrecord(folder: Path) -> object:
    write_records(folder / "rows.tfrecord", RECORDS[:30])
    os.truncate(folder / "rows.tfrecord", (folder / "rows.tfrecord").stat().st_size - 3)
    return folder / "rows.tfrecord"


def damaged_tfrecord(folder: Path) -> object:
    write_records(folder / "rows.tfrecord", RECORDS)
    data = bytearray((folder / "rows.tfrecord").read_bytes())
    data[sum(len(record) + 16 for record in RECORDS[:29]) + 12] ^= 1
    (folder / "rows.tfrecord").write_bytes(data)
    return folder / "rows.tfrecord"


@dataclass(frozen=True)
class Damage:
    """A data set of 60 rows, or chunks of 8, that is whole up to `rows`, and what is then said of it."""

    make: Callable[[Path], object]
    model: str
    rows: int
    words: tuple[str, ...]


# In order: every row before the damage; by slices: every chunk before it.
IN_ORDER, BY_SLICES = 29, 24
DAMAGES = [
    Damage(generator_that_raises, "digits", IN_ORDER, ("row 29", "OSError: the camera is gone")),
    Damage(batches_that_raise, "digits", IN_ORDER, ("batch 1", "OSError: the camera is gone")),
    Damage(generator_of_another_dtype, "digits", IN_ORDER, ("row 29", "is int32, earlier ones are float32")),
    Damage(batches_of_another_dtype, "digits", IN_ORDER, ("batch 1", "is float64, earlier ones are float32")),
    Damage(parquet_set_with_a_damaged_file, "pair", IN_ORDER, ("2.parquet", "damaged or cut short", "copy or write")),
    Damage(parquet_set_whose_second_file_vanishes, "pair", IN_ORDER, ("2.parquet", "no such file")),
    Damage(parquet_with_a_null, "pair", IN_ORDER, ("column 'left': row 29 is or holds null", "let such rows fail")),
    Damage(torn_tfrecord, "texts", IN_ORDER, ("rows.tfrecord: record 29 at byte", "is cut short")),
    Damage(damaged_tfrecord, "texts", IN_ORDER, ("rows.tfrecord: record 29 at byte", "is damaged")),
    Damage(lambda _: Torn(), "digits", BY_SLICES, ("torn: rows 24-32", "ValueError: the tape has snapped")),
    Damage(text_that_cannot_travel, "texts", BY_SLICES, ("row 29: ", "lone surrogate", "give bytes")),
    Damage(file_that_vanishes, "texts", BY_SLICES, ("29.bin", "no such file")),
    Damage(damaged_zarr, "digits", BY_SLICES, ("rows.zarr: rows from 24", "damaged or cut short")),
]
