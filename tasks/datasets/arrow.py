"""Columns in Arrow's form, lists included, --> NumPy arrays; rows with a null are marked.

A column of pandas or polars that stands alone, as in a dict, comes by the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tasks.datasets.columns import is_taken as is_taken_dtype
from tasks.datasets.columns import text_of_times
from tasks.datasets.marked import marked, null_text, spread
from tasks.datasets.objects import without_nulls
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches, Column, Rows
from tasks.protocol.codec import Array
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional

_PLAIN = (
    *("is_integer", "is_floating", "is_boolean", "is_string", "is_large_string", "is_string_view"),
    *("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary"),
)
_TIMES = ("is_date", "is_timestamp")
_LISTS = ("is_list", "is_large_list", "is_fixed_size_list")


def plain_type(kind: Any) -> Any:
    """The type of a column's values; a dictionary, or an extension, only stores them in another way."""
    if isinstance(kind, import_optional("pyarrow", "parquet").BaseExtensionType) and not _is_tensor(kind):
        return plain_type(kind.storage_type)
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


def column_of(values: Any, where: str) -> tuple[Column, Array | None]:
    """The values of a column, and which rows are or hold null; views, where numbers of one chunk are not null."""
    if hasattr(values, "combine_chunks"):  # which copies a single chunk too
        plain = [_plain(chunk) for chunk in values.chunks] or [_plain(values.combine_chunks())]
        values = plain[0] if len(plain) == 1 else import_optional("pyarrow", "parquet").concat_arrays(plain)
    else:
        values = _plain(values)
    nulls = _null_rows(values)
    if nulls is None:
        return _values(values, where), None
    fed = import_optional("pyarrow", "parquet").array(~nulls)
    return spread(_values(values.filter(fed), where), nulls), nulls


def in_arrow(column: Any) -> Any:
    """A column that is Arrow's, or that polars or pandas give in this form; None of any other, and of what is none."""
    if hasattr(column, "dictionary_encode"):
        return column
    if hasattr(column, "to_arrow"):
        try:
            return None if str(column.dtype) == "Object" else column.to_arrow()
        except (ValueError, NotImplementedError):  # such as Int128
            return None
    if hasattr(getattr(column, "dtype", None), "pyarrow_dtype"):
        return getattr(column, "array", column).__arrow_array__()
    return None


def of_pandas(column: Any) -> tuple[Array, Array | None]:
    """The values of a column of pandas, times as text, and which are null; NumPy's NaN is a value."""
    is_time = _is_time(column.dtype)
    if isinstance(column.dtype, np.dtype) and not is_time:
        return column.to_numpy(), None
    nulls: Array = np.asarray(column.isna())
    fed = column[~nulls] if nulls.any() else column  # integers would be floats, if some were null
    values: Array = fed.to_numpy(dtype="datetime64[ns]") if hasattr(column.dtype, "tz") else fed.to_numpy()
    values = text_of_times(values) if values.dtype.kind == "M" else values
    return (cast("Array", spread(values, nulls)), nulls) if nulls.any() else (values, None)


def is_left_alone(column: Any) -> bool:
    """Whether no model takes a column of Arrow or pandas: it has times, or objects but texts and numbers."""
    if (values := in_arrow(column)) is not None:
        return not is_taken(values.type)
    kind = column.dtype
    if hasattr(kind, "categories"):
        return is_left_alone(kind.categories)
    if not isinstance(kind, np.dtype):
        return not issubclass(kind.type, str | bytes | bool | int | float | np.number | np.bool_)
    try:
        without_nulls(column.to_numpy() if kind.hasobject else np.empty(0), "")
    except InputError:
        return True
    return not is_taken_dtype(kind)


def alone(column: Any, where: str) -> tuple[Array, Array | None] | None:
    """The values of a column of Arrow, polars or pandas that may have nulls, and which rows are or hold null.

    None of what is no such column, or one of a type that no model takes.

    Raises:
        InputError: it has lists of different lengths.
    """
    values = in_arrow(column)
    is_pandas = hasattr(column, "isna") and hasattr(column, "to_numpy")
    if not (values is not None or is_pandas) or is_left_alone(column if values is None else values):
        return None
    return of_pandas(column) if values is None else array_of(values, where)


def array_of(values: Any, where: str) -> tuple[Array, Array | None]:
    """`column_of`, where all rows must have one shape; raises InputError where they have not."""
    column, nulls = column_of(values, where)
    if isinstance(column, list):
        remedy = "pad them, or save the table as Parquet, of which rows may have many lengths"
        raise InputError(f"{where}: has lists of different lengths; {remedy}")
    return column, nulls


def is_taken(kind: Any) -> bool:
    """Whether some model takes such values, or lists of them."""
    kind = plain_type(kind)
    while _is(kind, _LISTS) or _is_tensor(kind):
        kind = plain_type(kind.value_type)
    return _is(kind, _PLAIN)


def check_type(kind: Any, where: str, *, named: bool) -> None:
    """Refuse a column of a type that no model takes; dates become text where somebody has `named` the column."""
    is_time = _is(kind, _TIMES)
    if is_taken(kind) or (is_time and named):
        return
    more = "; a field of it is named with a dot, as image.bytes" if _is(kind, ("is_struct",)) else ""
    more = "; where it is named in `columns` it comes as text" if is_time else more
    raise InputError(f"{where}: is {kind}, which no model takes; convert it to numbers, or leave the column out{more}")


def rows_of(batch: Any, names: Sequence[str], where: str, numbers: int | Array) -> Rows:
    """The columns of a batch, which `check_type` passes; rows that are or hold null are marked.

    Text comes as objects, dates and times as text in ISO 8601, those with a zone in UTC; lists as one more axis, or as
    a list of arrays where their lengths differ.

    The numbers are that of the batch's first row in the file, or those of all its rows.
    """
    columns: dict[str, Column] = {}
    unfed: dict[int, str] = {}
    nulls: dict[str, Array] = {}
    for name in names:
        place = f"{where}: column {name!r}"
        columns[name], missing = column_of(values_of(batch, name), place)
        if missing is not None:
            nulls[name] = missing
            for row in np.flatnonzero(missing).tolist():
                number = numbers + row if isinstance(numbers, int) else int(numbers[row])
                unfed.setdefault(row, null_text(place, number))
    return marked(columns, unfed, nulls)


def batches_of(batch: Any, names: Sequence[str], where: str, first_row: int) -> Batches:
    """The same, some MiB at a time."""
    rows = max(1, MAX_BATCH_BYTES * batch.num_rows // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield rows_of(batch.slice(start, rows), names, where, first_row + start)


def without_views(table: Any) -> Any:
    """A table, or a record batch, of which some rows can be picked; columns without views are not copied."""
    arrow = import_optional("pyarrow", "parquet")
    return table.cast(arrow.schema([field.with_type(_without_views(field.type)) for field in table.schema]))


def _plain(values: Any) -> Any:
    """An array as one of a plain type, or of lists of such."""
    if _is(values.type, ("is_dictionary",)):
        return _plain(values.dictionary).take(values.indices)
    if hasattr(values, "storage") and not _is_tensor(values.type):
        return _plain(values.storage)
    return values.cast(_without_views(values.type))


def _without_views(kind: Any) -> Any:
    """The type, without views of texts and bytes, of which Arrow cannot pick some."""
    arrow = import_optional("pyarrow", "parquet")
    if _is(kind, ("is_string_view", "is_binary_view")):
        return arrow.large_string() if _is(kind, ("is_string_view",)) else arrow.large_binary()
    if not _is(kind, _LISTS):
        return kind
    inner = kind.value_field.with_type(_without_views(kind.value_type))
    if _is(kind, ("is_fixed_size_list",)):
        return arrow.list_(inner, kind.list_size)
    return arrow.large_list(inner) if _is(kind, ("is_large_list",)) else arrow.list_(inner)


def _null_rows(column: Any) -> Array | None:
    """Which rows of a column are null, or hold one; None where there is no null."""
    if hasattr(column, "storage"):
        column = column.storage
    mask: Array | None = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if _is(column.type, _LISTS) and (inner := _null_rows(_plain(column.flatten()))) is not None:
        parents = import_optional("pyarrow.compute", "parquet").list_parent_indices(column)
        mask = np.zeros(len(column), np.bool_) if mask is None else mask.copy()
        mask[parents.to_numpy(zero_copy_only=False)[inner]] = True
    return mask


def _values(column: Any, where: str) -> Column:
    """The values of a column without nulls."""
    if _is_tensor(column.type):
        tensors: Array = column.to_numpy_ndarray()
        return tensors
    if _is(column.type, _LISTS):
        return _lists(column, where)
    array: Array = column.to_numpy(zero_copy_only=False)
    return text_of_times(array) if array.dtype.kind == "M" else array


def _lists(column: Any, where: str) -> Column:
    compute = import_optional("pyarrow.compute", "parquet")
    values = _values(_plain(column.flatten()), where)
    if isinstance(values, list):
        raise InputError(f"{where}: has lists of different lengths in lists; pad the inner ones to one length")
    if _is(column.type, ("is_fixed_size_list",)):
        return values.reshape(len(column), column.type.list_size, *values.shape[1:])
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    length = lengths[0] if len(lengths) else 0
    if (lengths != length).any():
        return np.split(values, np.cumsum(lengths)[:-1])
    return values.reshape(len(column), length, *values.shape[1:])


def _is_time(kind: Any) -> bool:
    return not is_taken_dtype(kind) if isinstance(kind, np.dtype) else hasattr(kind, "tz")


def _is(kind: Any, tests: tuple[str, ...]) -> bool:
    types = import_optional("pyarrow.types", "parquet")
    return any(getattr(types, test)(kind) for test in tests)


def _is_tensor(kind: Any) -> bool:
    return isinstance(kind, import_optional("pyarrow", "parquet").FixedShapeTensorType)
