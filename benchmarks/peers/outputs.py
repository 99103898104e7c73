"""Reads what a system has written, and holds every row against what one process gives.

OUTPUT.npy, in the rows' order, or OUTPUT.parquet/ with `id` and `output` --> an array in order --> equal, or an error
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks.harness import WrongOutputError, check_equal
from benchmarks.peers.systems.tables import values_of

Values = npt.NDArray[np.float32]


def read_output(output: Path, rows: int, shape: tuple[int, ...]) -> Values:
    """The outputs (float32) of all rows, in order.

    Raises:
        WrongOutputError: there is none, or a row is missing, or comes twice.
    """
    ids, values = read_parts(output, shape)
    if len(ids) != rows or (ids != np.arange(rows)).any():
        counts = np.bincount(ids[(ids >= 0) & (ids < rows)], minlength=rows)
        twice, missing = np.flatnonzero(counts > 1), np.flatnonzero(counts == 0)
        what = f"row {twice[0]} comes twice" if len(twice) else f"row {missing[0]} is missing" if len(missing) else ""
        raise WrongOutputError(f"{len(ids)} rows, not {rows}; {what or 'some have no such number'}")
    return values


def read_parts(output: Path, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], Values]:
    """The numbers of the rows that there are, ascending, and their outputs; whatever is missing."""
    array, folder = output.with_name(output.name + ".npy"), output.with_name(output.name + ".parquet")
    if array.exists():
        values: Values = np.load(array, mmap_mode="r")
        return np.arange(len(values)), values.reshape(len(values), *shape)
    if not folder.exists():
        raise WrongOutputError("there is no output")
    table = ds.dataset(folder, format="parquet").to_table(columns=["id", "output"])
    ids = table["id"].to_numpy()
    if table["output"].null_count:
        raise WrongOutputError(f"{table['output'].null_count} outputs are null")
    order = np.argsort(ids, kind="stable")
    return ids[order], _flat(table["output"]).reshape(len(ids), *shape)[order]


def _flat(column: pa.ChunkedArray) -> Values:
    if pa.types.is_fixed_size_binary(column.type):
        return values_of(column, np.float32)
    while pa.types.is_nested(column.type):
        column = pc.list_flatten(column)
    return column.to_numpy().astype(np.float32, copy=False)


def check_rows(output: Path, expected: Values, allowed: Mapping[str, float]) -> None:
    """Hold all rows against `expected`.

    Args:
        output: the path of the order.
        expected: of all rows, in order.
        allowed: of a lower precision, by its name in the manifest; nothing is what float32 may be off by.

    Raises:
        WrongOutputError: a row is missing, doubled or wrong; the text tells the first.
    """
    found = read_output(output, len(expected), expected.shape[1:])
    if not allowed:
        check_equal(found, expected, exactly=False)
        return
    if "agreement" in allowed:
        agreement = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
        if agreement < allowed["agreement"]:
            raise WrongOutputError(f"{agreement:.1%} of the rows are of the same class, not {allowed['agreement']:.1%}")
        return
    tolerance = allowed["tolerance"]
    error = np.abs(found - expected).max(axis=tuple(range(1, expected.ndim))) / expected.std(axis=0).max()
    if not (error <= tolerance).all():
        row = int(np.flatnonzero(~(error <= tolerance))[0])
        raise WrongOutputError(f"row {row} deviates by {error[row]:.3g} of the outputs' spread, not {tolerance}")


def check_values(output: Path, expected: Values) -> None:
    """Hold numbers without ids against `expected`, which is sorted: all of them, in any order.

    Raises:
        WrongOutputError: one is missing, doubled or wrong.
    """
    folder = output.with_name(output.name + ".parquet")
    if not folder.exists():
        raise WrongOutputError("there is no output")
    found = np.sort(ds.dataset(folder, format="parquet").to_table(columns=["output"])["output"].to_numpy())
    if len(found) != len(expected):
        raise WrongOutputError(f"{len(found)} rows, not {len(expected)}")
    check_equal(found, expected, exactly=False)


def right_rows(output: Path, expected: Values) -> npt.NDArray[np.int64]:
    """The numbers of the rows that are there, once, and right, of an output that may be of any kind or none."""
    try:
        ids, values = read_parts(output, expected.shape[1:])
    except (WrongOutputError, OSError, ValueError, pa.ArrowException):
        return np.empty(0, np.int64)
    there, counts = np.unique(ids, return_counts=True)
    once = np.isin(ids, there[counts == 1]) & (ids < len(expected))
    ids, values = ids[once], values[once]
    close = np.isclose(values, expected[ids], rtol=1e-4, atol=1e-5).reshape(len(ids), -1).all(axis=1)
    return ids[close]


def remove_output(output: Path) -> None:
    """Whatever stands at it."""
    for path in output.parent.glob(f"{output.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
