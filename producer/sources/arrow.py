"""Columns in Arrow's form, lists included, --> NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import add
from typing import Any

import numpy as np

from producer.rows.columns import text_of_times
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
_TIMES = ("is_date", "is_timestamp")
_LISTS = ("is_list", "is_large_list", "is_fixed_size_list")


def plain_type(kind: Any) -> Any:
    """The type of a column's values; a dictionary only stores them in another way."""
    return kind.value_type if _is(kind, ("is_dictionary",)) else kind


def type_of(schema: Any, name: str) -> Any:
    """The type of a column, or of a field of structs, whose name has dots; None where there is no such."""
    if (position := schema.get_field_index(name)) >= 0:
        return plain_type(schema.field(position).type)
    head, _, rest = name.partition(".")
    while rest:
        if (found := type_of(schema, head)) is not None and _is(found, ("is_struct",)):
            return type_of(import_optional("pyarrow", "parquet").schema(list(found)), rest)
        more, _, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def values_of(batch: Any, name: str) -> Any:
    """The column, or the field of structs, which is null where the struct is; of a name that `type_of` knows."""
    compute = import_optional("pyarrow.compute", "parquet")
    if (position := batch.schema.get_field_index(name)) >= 0:
        return batch.column(position)
    head = next(one for one in batch.schema.names if name.startswith(f"{one}."))
    values, rest = batch.column(head), name.removeprefix(f"{head}.")
    while values.type.get_field_index(rest) < 0:
        head = next(field.name for field in values.type if rest.startswith(f"{field.name}."))
        values, rest = compute.struct_field(values, head), rest.removeprefix(f"{head}.")
    return compute.struct_field(values, rest)


def whole_column(table: Any, name: str, where: str) -> Column:
    """The values of a column, or a field of structs, of a table or a record batch; raises InputError as `column_of`."""
    values = values_of(table, name)
    return column_of(values.combine_chunks() if hasattr(values, "combine_chunks") else values, where, 0)


def is_taken(kind: Any) -> bool:
    """Whether some model takes such values, or lists of them."""
    while _is(kind, _LISTS) or _is_tensor(kind):
        kind = kind.value_type
    return _is(plain_type(kind), _PLAIN)


def check_type(kind: Any, where: str, *, named: bool) -> None:
    """Refuse a column of a type that no model takes; dates become text where somebody has `named` the column."""
    is_time = _is(kind, _TIMES)
    if is_taken(kind) or (is_time and named):
        return
    more = "; a field of it is named with a dot, as image.bytes" if _is(kind, ("is_struct",)) else ""
    more = "; where it is named in `columns` it comes as text" if is_time else more
    raise InputError(f"{where}: is {kind}, which no model takes; convert it to numbers, or leave the column out{more}")


def column_of(column: Any, where: str, first_row: int) -> Column:
    """The values of a column that `check_type` passes: text as objects, lists as one more axis, or as a list of arrays.

    Dates and times become text, as ISO 8601 has them, those with a zone in UTC.

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
    return text_of_times(array, where) if array.dtype.kind == "M" else array


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
