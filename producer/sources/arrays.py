"""Arrays in memory, and those that a file reader hands over, --> a Source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np

from producer.rows.source import Splits, Table, check_slice
from tasks.datasets.arrow import alone
from tasks.datasets.columns import (
    check_lengths,
    check_rows,
    columns_of,
    is_taken,
    missing_column,
    place,
    row_bytes,
    runs_of,
    taken_dtype,
    text_of_times,
    to_array,
)
from tasks.datasets.marked import all_fed, marked, null_text
from tasks.datasets.objects import without_nulls
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import Arrays, Rows
from tasks.outputs.row_spec import RowSpec
from tasks.protocol.codec import Array, tree_like
from worker_config.errors import InputError
from worker_config.foreign_errors import some_of

# Size in bytes, and time of the last change in nanoseconds.
Stamp: TypeAlias = tuple[int, int]

_MOST_IN_LABEL = 8


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """A data set: one array, arrays by name, or a tuple of arrays in the order of the model's inputs.

    Attributes:
        rows: length of the first axis of every array.
        row_bytes: average bytes of one row, all arrays together; for strings an estimate.
        label: the data set for people.
        specs: dtype and row shape of what `take` gives, by input name; "" for one array, "0", "1", ... for a tuple.
        data: the arrays as they are kept; those of a file may be memory-mapped.
        path: the `.npy` file whose own bytes are what `take` gives, so that who can open the file needs no copy of
            the rows; None where there is no such file.
        stamp: size and time of the file when it was opened; None for what is in memory.
        others: further columns, of types that no model takes; dates are given as texts to who names them.
        nulls: of each column that has such, which rows are or hold null: these cannot be fed, and are marked.
        splits: the same rows in a file of several arrays, where workers may read them themselves.
    """

    rows: int
    row_bytes: float
    label: str
    specs: dict[str, RowSpec]
    data: Arrays
    path: Path | None = None
    stamp: Stamp | None = None
    others: Mapping[str, Array] = field(default_factory=dict)
    nulls: Mapping[str, Array] = field(default_factory=dict)
    splits: Splits | None = None

    @property
    def table(self) -> Table | None:
        """Its columns, where they have names."""
        names = list(self.data) if isinstance(self.data, dict) else []
        others = {name: str(array.dtype) for name, array in self.others.items()}
        return Table(names, self.only, others) if names or others else None

    def only(self, names: Sequence[str]) -> ArraySource:
        """The same data set of these columns alone; raises InputError where it has no such, or no model takes one."""
        columns: dict[str, Array] = {**columns_of(self.data, self.label), **self.others}
        nulls = dict(self.nulls)
        for name in names:
            if name not in columns:
                raise missing_column(self.label, name, columns)
            if columns[name].dtype.kind == "M":
                if (missing := np.isnat(columns[name])).any():
                    nulls[name] = missing
                columns[name] = text_of_times(columns[name])
            elif name in self.others:
                columns[name], _ = without_nulls(columns[name], place("", name).removeprefix(": "))
            check_rows(columns[name].dtype, columns[name].ndim, place(self.label, name))
        data = {name: columns[name] for name in names}
        nulls = {name: missing for name, missing in nulls.items() if name in data}
        chosen = array_source(data, self.label, self.label, None, self.stamp, nulls)
        splits = self.splits.of(lambda opened: opened.only(names)) if self.splits else None
        others = {name: self.others[name] for name in names if name in self.others}
        return replace(chosen, others=others, splits=None if others else splits)

    def take(self, start: int, stop: int) -> Arrays:
        """Give the rows `[start, stop)` in the form of `data`.

        Arrays are in C order and native byte order: views where the data is so already and in memory, copies of
        these rows otherwise. Text of fixed width (dtype U or S) comes as an object array of str or bytes.

        Raises:
            InputError: the data set has no such rows, or its file has them no more; or one is or holds null.
        """
        return cast("Arrays", all_fed(self.take_marked(start, stop)))

    def take_marked(self, start: int, stop: int, first_row: int = 0) -> Rows:
        """The same, where a row that is or holds null is marked, and no error; texts count from `first_row` on."""
        check_slice(start, stop, self.rows, self.label)
        return self._marked(self._rows(slice(start, stop), [(start, stop)]), np.arange(start, stop), first_row)

    def pick(self, numbers: Array) -> Rows:
        """Give copies of the rows of these numbers, in this order, else as `take_marked` does.

        Rows of a file are read in the order of the file, those that follow each other at once.
        """
        if len(numbers):
            check_slice(int(numbers.min()), int(numbers.max()) + 1, self.rows, self.label)
        by_place = np.argsort(numbers)
        return self._marked(self._rows(numbers, runs_of(numbers[by_place]), by_place), numbers)

    def _marked(self, rows: Arrays, numbers: Array, first_row: int = 0) -> Rows:
        unfed: dict[int, str] = {}
        nulls = {name: missing[numbers] for name, missing in self.nulls.items()}
        for name, missing in nulls.items():
            for at in np.flatnonzero(missing).tolist():
                unfed.setdefault(at, null_text(f"column {name!r}" if name else "", first_row + int(numbers[at])))
        return marked(rows, unfed, nulls)

    def _rows(self, index: slice | Array, runs: list[tuple[int, int]], by_place: Array | None = None) -> Arrays:
        """The rows of an index; of a file by runs, whose rows then go to their places."""

        def rows_of(array: Array) -> Array:
            if not (isinstance(array, np.memmap) and array.flags.c_contiguous):
                return array[index]
            read = _read_rows(array, runs, self.label, self.stamp)
            if by_place is None:
                return read
            rows = np.empty_like(read)
            rows[by_place] = read
            return rows

        def as_given(array: Array) -> Array:
            with one_line_errors(self.label):  # text of a file may hold what is no character
                return np.require(np.asarray(rows_of(array)), taken_dtype(array.dtype), ["C_CONTIGUOUS", "ALIGNED"])

        columns = columns_of(self.data, self.label)
        rows: Arrays = tree_like(self.data, {name: as_given(array) for name, array in columns.items()})
        return rows


def from_arrays(data: object, nulls: Mapping[str, Array] = MappingProxyType({})) -> ArraySource:
    """Make a data set of what is in memory; arrays are not copied.

    A value that is masked, or in an array of objects missing (None, NaT, pandas' NA, among texts also NaN), is null.

    Args:
        data: an array, anything that NumPy can make one of (`__array__`, a list of numbers or strings), a dict of
            such by input name, or a tuple of such in the order of the model's inputs. A record array is a dict of its
            fields.
        nulls: which rows of a column are null, where the column itself does not say so.

    Raises:
        InputError: not an array, ragged, without a first axis, of a dtype that no model takes, or with different
            numbers of rows.
    """
    where = "the data set"
    if isinstance(data, np.ndarray) and data.dtype.names and data.ndim == 1:
        data = {name: data[name] for name in data.dtype.names}
    arrays: dict[str, Array] = {}
    others: dict[str, Array] = {}
    missing = dict(nulls)
    refused: InputError | None = None
    for name, value in columns_of(data, where).items():
        column = f"input {name if name.isdigit() else repr(name)}" if name else where
        array, masked = _as_rows(value, column)
        try:
            arrays[name], found = without_nulls(array, column)
        except InputError as error:
            refused, others[name] = refused or error, array
            continue
        for more in (masked, found):
            if more is not None:
                missing[name] = missing[name] | more if name in missing else more
    if refused and not (arrays and isinstance(data, Mapping)):
        raise refused
    labels = (f"{name or 'array'} {array.shape} {array.dtype}" for name, array in arrays.items())
    label = some_of(labels, _MOST_IN_LABEL)
    if isinstance(data, Mapping):
        return array_source(arrays, label, where, nulls=missing, others=others)
    return array_source(tree_like(data, arrays), label, where, nulls=missing)


def array_source(
    data: Arrays,
    label: str,
    where: str,
    path: Path | None = None,
    stamp: Stamp | None = None,
    nulls: Mapping[str, Array] = MappingProxyType({}),
    others: Mapping[str, Array] = MappingProxyType({}),
) -> ArraySource:
    """Check the arrays against each other and make the data set of them; raise InputError as `from_arrays`.

    Of arrays by name those of a dtype that no model takes are put aside, unless all are.
    """
    arrays: dict[str, Array] = columns_of(data, where)
    if isinstance(data, Mapping) and any(is_taken(array.dtype) for array in arrays.values()):
        others = {**others, **{name: one for name, one in arrays.items() if one.ndim and not is_taken(one.dtype)}}
        arrays = data = {name: array for name, array in arrays.items() if name not in others}
    for name, array in arrays.items():
        check_rows(array.dtype, array.ndim, place(where, name))
    rows = check_lengths({name: len(array) for name, array in {**arrays, **others}.items()}, where)
    specs = {name: RowSpec(taken_dtype(array.dtype), array.shape[1:]) for name, array in arrays.items()}
    return ArraySource(rows, sum(map(row_bytes, arrays.values())), label, specs, data, path, stamp, others, nulls)


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a file from itself after a change, and from another one of its name."""
    return status.st_size, status.st_mtime_ns


def _read_rows(mapped: np.memmap[Any, Any], runs: Sequence[tuple[int, int]], label: str, stamp: Stamp | None) -> Array:
    """Read runs of rows of a file that is mapped: it may shrink, and to look at a map beyond its end is death (SIGBUS).

    Nor do the pages that were looked at count as memory of this process. Rows of a file that has changed, or that has
    taken the name of the one that was opened, are refused: they might be others than those before them.
    """
    rows = np.empty((sum(stop - start for start, stop in runs), *mapped.shape[1:]), mapped.dtype)
    view = rows.reshape(-1).view(np.uint8).data
    row_bytes = mapped.nbytes // len(mapped)
    where = f"rows {runs[0][0]}-{runs[-1][1]}" if runs else "no rows"
    try:
        with open(str(mapped.filename), "rb", buffering=0) as file:  # noqa: PTH123 - Path.open has no such type
            now = stamp_of(os.fstat(file.fileno()))
            for start, stop in runs:
                file.seek(mapped.offset + start * row_bytes)
                left = (stop - start) * row_bytes
                while left and (count := file.readinto(view[:left])):
                    view, left = view[count:], left - count
                if left:
                    break
    except OSError as error:
        raise InputError(f"{label}: {where} cannot be read: {error.strerror}") from None
    if view or (stamp is not None and now != stamp):
        how = "has been cut short" if view or (stamp and now[0] < stamp[0]) else "has changed"
        raise InputError(
            f"{label}: {how} since it was opened; {where} may be others now, or gone; "
            "leave the file as it is while a job reads it"
        )
    return rows


def _as_rows(value: Any, where: str) -> tuple[Array, Array | None]:
    """The array of a value, and which of its rows hold what is masked, or a null of Arrow, polars or pandas."""
    if (found := alone(value, where)) is not None:
        return found
    masked: Array | None = None
    if isinstance(value, list) and any(isinstance(one, np.ma.MaskedArray) for one in value):
        value = np.ma.array(value)
    if np.ma.is_masked(value):
        mask = np.ma.getmaskarray(value)
        masked, value = np.asarray(mask.any(axis=tuple(range(1, mask.ndim)))), np.ma.getdata(value)
    if isinstance(value, Sequence) and not isinstance(value, list | tuple | str | bytes):
        value = list(value)  # whose texts and large integers are looked at
    array = to_array(value, where)
    if array.dtype.kind == "T":  # texts, among which there may be what stands for none
        array = array.astype(object)
    if array.ndim == 0:
        remedy = (
            "call its .collect() first"
            if hasattr(value, "collect")
            else "give an array whose first axis counts the rows"
        )
        raise InputError(f"{where}: is one {type(value).__name__}, not rows; {remedy} (a tuple means several inputs)")
    return array, masked
