"""Columns in Arrow's form, lists included, --> NumPy arrays; rows with a null are marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from producer.rows.columns import text_of_times
from producer.rows.marked import marked, null_text, spread
from producer.rows.part import Array
from producer.rows.read_errors import import_optional
from producer.rows.source import Column, Rows
from worker_config.errors import InputError

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


def column_of(table: Any, name: str, where: str) -> tuple[Column, Array | None]:
    """The values of a column, or a field of structs, of a table or a record batch; and which rows are or hold null."""
    values = values_of(table, name)
    values = values.combine_chunks() if hasattr(values, "combine_chunks") else values
    nulls = _null_rows(values)
    if nulls is None:
        return _values(values, where), None
    fed = import_optional("pyarrow", "parquet").array(~nulls)
    return spread(_values(values.filter(fed), where), nulls), nulls


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


def rows_of(batch: Any, names: Sequence[str], where: str, first_row: int) -> Rows:
    """The columns of a batch, which `check_type` passes; rows that are or hold null are marked.

    Text comes as objects, dates and times as text in ISO 8601, those with a zone in UTC; lists as one more axis, or as
    a list of arrays where their lengths differ.

    Args:
        batch: a RecordBatch.
        names: of the columns, or fields of structs, to take.
        where: the file.
        first_row: of it, the number of the batch's first row.
    """
    columns: dict[str, Column] = {}
    unfed: dict[int, str] = {}
    for name in names:
        place = f"{where}: column {name!r}"
        columns[name], nulls = column_of(batch, name, place)
        for row in () if nulls is None else np.flatnonzero(nulls).tolist():
            unfed.setdefault(row, null_text(place, first_row + row))
    return marked(columns, unfed)


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
    return text_of_times(array) if array.dtype.kind == "M" else array


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
