"""Columns in Arrow's form, lists included, --> NumPy arrays; rows with a null are marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from producer.rows.part import Array
from producer.rows.read_errors import import_optional
from producer.rows.rebatcher import values_at
from producer.rows.source import Column, Marked, Rows
from tasks.protocol.dtypes import filler_rows
from worker_config.errors import InputError

_PLAIN = (
    *("is_integer", "is_floating", "is_boolean", "is_string", "is_large_string", "is_string_view"),
    *("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary"),
)
_LISTS = ("is_list", "is_large_list", "is_fixed_size_list")


def plain_type(kind: Any) -> Any:
    """The type of a column's values; a dictionary only stores them in another way."""
    return kind.value_type if _is(kind, ("is_dictionary",)) else kind


def check_type(kind: Any, where: str) -> None:
    """Refuse a column of a type that no model takes, or lists of such."""
    values = kind
    while _is(values, _LISTS) or _is_tensor(values):
        values = values.value_type
    if not _is(plain_type(values), _PLAIN):
        raise InputError(f"{where}: is {kind}, which no model takes; convert it to numbers, or leave the column out")


def rows_of(batch: Any, names: Sequence[str], where: str, first_row: int) -> Rows:
    """The columns of a batch, which `check_type` passes; rows that are or hold null are marked.

    Text comes as objects, lists as one more axis, or as a list of arrays where their lengths differ.

    Args:
        batch: a RecordBatch.
        names: of the columns to take.
        where: the file.
        first_row: of it, the number of the batch's first row.
    """
    places = {name: f"{where}: column {name!r}" for name in names}
    nulls = {name: _null_rows(batch.column(name)) for name in names}
    unfed: dict[int, str] = {}
    for name, mask in nulls.items():
        for row in np.flatnonzero(mask).tolist() if mask is not None else ():
            why = f"{places[name]}: row {first_row + row} is or holds null; fill nulls before, or leave the column out"
            unfed.setdefault(row, why)
    if not unfed:
        return {name: _values(batch.column(name), places[name]) for name in names}
    fed = np.ones(batch.num_rows, np.bool_)
    fed[list(unfed)] = False
    arrow = import_optional("pyarrow", "parquet")
    rest = batch.filter(arrow.array(fed))
    columns = {name: _values(rest.column(name), places[name]) for name in names}
    # In the place of a row that cannot be fed stands the one before it.
    nearest = np.maximum(np.cumsum(fed) - 1, 0)
    filled = {
        name: values_at(column, nearest)
        if rest.num_rows or isinstance(column, list)
        else filler_rows(column.dtype, (batch.num_rows, *column.shape[1:]))
        for name, column in columns.items()
    }
    return Marked(filled, unfed)


def _null_rows(column: Any) -> Array | None:
    """Which rows of a column are null, or hold one; None where there is no null."""
    if _is(column.type, ("is_dictionary",)):
        column = column.dictionary_decode()
    if _is_tensor(column.type):
        column = column.storage
    mask: Array | None = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if _is(column.type, _LISTS) and (inner := _null_rows(column.flatten())) is not None:
        parents = import_optional("pyarrow.compute", "parquet").list_parent_indices(column)
        mask = np.zeros(len(column), np.bool_) if mask is None else mask.copy()
        mask[parents.to_numpy(zero_copy_only=False)[inner]] = True
    return mask


def _values(column: Any, where: str) -> Column:
    """The values of a column without nulls."""
    if _is(column.type, ("is_dictionary",)):
        return _values(column.dictionary_decode(), where)
    if _is_tensor(column.type):
        tensors: Array = column.to_numpy_ndarray()
        return tensors
    if _is(column.type, _LISTS):
        return _lists(column, where)
    array: Array = column.to_numpy(zero_copy_only=False)
    return array


def _lists(column: Any, where: str) -> Column:
    compute = import_optional("pyarrow.compute", "parquet")
    values = _values(column.flatten(), where)
    if isinstance(values, list):
        raise InputError(f"{where}: has lists of different lengths in lists; pad the inner ones to one length")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(set(lengths.tolist())) > 1:
        return np.split(values, np.cumsum(lengths)[:-1])
    length = lengths[0] if len(lengths) else getattr(column.type, "list_size", 0)
    return values.reshape(len(column), length, *values.shape[1:])


def _is(kind: Any, tests: tuple[str, ...]) -> bool:
    types = import_optional("pyarrow.types", "parquet")
    return any(getattr(types, test)(kind) for test in tests)


def _is_tensor(kind: Any) -> bool:
    return isinstance(kind, import_optional("pyarrow", "parquet").FixedShapeTensorType)
