"""Columns in Arrow's form, lists included, --> NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import add
from typing import Any

import numpy as np

from producer.rows.part import Array
from producer.rows.read_errors import import_optional
from producer.rows.source import Column
from worker_config.errors import InputError

# From a position in a column, or in the values of its lists, to the row for people.
_RowOf = Callable[[int], int]

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


def column_of(column: Any, where: str, first_row: int) -> Column:
    """The values of a column that `check_type` passes: text as objects, lists as one more axis, or as a list of arrays.

    Raises:
        InputError: a value is null; the text names the row, counted from `first_row`, and `where` that is.
    """
    return _values(column, where, partial(add, first_row))


def _values(column: Any, where: str, row_of: _RowOf) -> Column:
    if column.null_count:
        row = row_of(column.is_null().index(True).as_py())
        raise InputError(f"{where}: row {row} is or holds null; fill nulls before, or leave the column out")
    if _is(column.type, ("is_dictionary",)):
        return _values(column.dictionary_decode(), where, row_of)
    if _is_tensor(column.type):
        _values(column.storage, where, row_of)  # looks for nulls
        tensors: Array = column.to_numpy_ndarray()
        return tensors
    if _is(column.type, _LISTS):
        return _lists(column, where, row_of)
    array: Array = column.to_numpy(zero_copy_only=False)
    return array


def _lists(column: Any, where: str, row_of: _RowOf) -> Column:
    compute = import_optional("pyarrow.compute", "parquet")
    parents = compute.list_parent_indices(column)
    values = _values(column.flatten(), where, lambda position: row_of(parents[position].as_py()))
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
