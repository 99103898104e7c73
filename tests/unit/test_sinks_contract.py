"""What every sink promises, whatever the format: the same rows, all of them, under the final name or not at all."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.sinks import check_output, open_sink
from tests.sink_outputs import BARE, MODELS, NUMBERS, READERS, ROWS, TEXTS, assert_holds, names, parts_of, write
from worker_config.errors import CeleriacError, MessageError, OutputError


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows known", "rows unknown"])
@pytest.mark.parametrize(
    "outputs", [BARE, NUMBERS["label"], NUMBERS["sure"], NUMBERS["matrix"]], ids=["vector", "int64", "bool", "matrix"]
)
def test_one_output_comes_back(path: Path, outputs: Any, rows: int | None) -> None:
    write(path, outputs, rows)

    assert_holds(path, outputs)


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows known", "rows unknown"])
@pytest.mark.parametrize(
    "outputs", [NUMBERS, MODELS, {"m": TEXTS}], ids=["several outputs", "several models", "strings"]
)
def test_outputs_come_back_by_name_or_are_refused_by_it(path: Path, outputs: Any, rows: int | None) -> None:
    if path.suffix == ".npy" or (path.suffix == ".npz" and "m" in outputs):
        with pytest.raises(OutputError, match=r"use \.npz|output 'm/word' is strings.*use \.jsonl or \.parquet"):
            write(path, outputs, rows)
        assert names(path.parent) == []
    else:
        write(path, outputs, rows)
        assert_holds(path, outputs)


def test_a_single_output_has_the_name_that_is_known(path: Path) -> None:
    with open_sink(path, ROWS, force=False) as sink:
        sink.output_name = "churn"
        for part in parts_of(BARE):
            sink.write(part)
        sink.commit()

    assert list(READERS[path.suffix](path)) == ["output" if path.suffix in (".npy", ".zarr") else "churn"]


def test_zero_rows_are_an_output(path: Path) -> None:
    empty = np.empty((0, 3), np.float32)

    write(path, empty, 0)

    if path.suffix == ".jsonl":
        assert path.read_bytes() == b""
    else:
        (array,) = READERS[path.suffix](path).values()
        assert len(array) == 0
        assert path.suffix in (".parquet", ".feather") or array.shape == (0, 3)


def test_no_part_at_all_is_refused(path: Path) -> None:
    sink = open_sink(path, None, force=False)

    with pytest.raises(OutputError, match="no part came"):
        sink.commit()
    assert names(path.parent) == []


def test_an_existing_output_stays_until_the_new_one_replaces_it_with_force(path: Path) -> None:
    write(path, BARE, ROWS)
    with pytest.raises(OutputError, match="exists; use --force"):
        open_sink(path, ROWS, force=False)

    with open_sink(path, ROWS, force=True) as sink:
        sink.write(parts_of(BARE * 2)[0])
    assert_holds(path, BARE)

    write(path, BARE * 2, ROWS, force=True)
    assert_holds(path, BARE * 2)


def test_an_output_that_is_not_completed_leaves_nothing(path: Path) -> None:
    sink = open_sink(path, ROWS, force=False)
    sink.write(parts_of({"y": BARE})[0])
    assert all(name.startswith(f".{path.name}.") and name.endswith(".part") for name in names(path.parent))

    sink.abort()
    sink.abort()
    sink.discard()

    assert names(path.parent) == []
    with pytest.raises(OutputError, match="ended already"):
        sink.write(parts_of({"y": BARE})[1])


def test_missing_rows_are_an_error(path: Path) -> None:
    sink = open_sink(path, ROWS, force=False)
    sink.write(parts_of(BARE)[0])

    with pytest.raises(CeleriacError, match=f"5 of {ROWS} rows"):
        sink.commit()
    assert names(path.parent) == []


def test_a_part_that_is_not_the_next_one_is_refused_and_may_come_later(path: Path) -> None:
    first, second, *others = parts_of(BARE)
    with open_sink(path, None, force=False) as sink:
        with pytest.raises(MessageError, match="chunk 1 starts at row 5, the next one is row 0"):
            sink.write(second)
        sink.write(first)
        with pytest.raises(MessageError, match="chunk 0 starts at row 0, the next one is row 5"):
            sink.write(first)
        for part in (second, *others):
            sink.write(part)
        sink.commit()

    assert_holds(path, BARE)


def test_a_part_unlike_the_first_one_is_refused(path: Path) -> None:
    with open_sink(path, ROWS, force=False) as sink:
        sink.write(parts_of(BARE)[0])
        with pytest.raises(MessageError, match=r"chunk 1 .*float64 \(3,\), earlier ones had float32 \(3,\)"):
            sink.write(parts_of(BARE.astype(np.float64))[1])
        for part in parts_of(BARE)[1:]:
            sink.write(part)
        sink.commit()

    assert_holds(path, BARE)


@pytest.mark.parametrize("order", ["<", ">"])
def test_rows_of_any_byte_order_and_layout_come_back(path: Path, order: str) -> None:
    outputs = np.arange(ROWS * 8).astype(f"{order}i4").reshape(ROWS, 8)[::-1, ::2]

    write(path, outputs, ROWS)

    (array,) = READERS[path.suffix](path).values()
    np.testing.assert_array_equal(array, outputs)


def test_a_check_before_the_work_makes_nothing(path: Path) -> None:
    check_output(path, force=False)
    assert names(path.parent) == []

    with pytest.raises(OutputError, match="there is no folder"):
        check_output(path.parent / "missing" / path.name, force=False)
    os.mkfifo(path)
    with pytest.raises(OutputError, match=r"not a regular file|no Zarr store"):
        check_output(path, force=True)
