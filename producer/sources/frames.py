"""DataFrames and tables in memory --columns, as they are asked for--> arrays by name, and which rows are null.

Nothing is imported for it: pandas and its like have `columns`, each with `to_numpy`; tables and record batches of Arrow
have `column_names`, and columns in Arrow's own form, which DataFrames of polars give.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from producer.rows.columns import is_taken, missing_column, text_of_times
from producer.rows.marked import spread
from producer.rows.objects import without_nulls
from producer.rows.part import Array
from producer.rows.readers import SliceReader
from producer.rows.source import Column, Table
from producer.sources import arrow
from producer.sources.arrays import ArraySource, from_arrays
from worker_config.errors import InputError


def is_frame(data: object) -> bool:
    """Whether this is a DataFrame, or a table or a record batch of Arrow."""
    kind = type(data)
    is_tabular = hasattr(kind, "__dataframe__") or hasattr(kind, "__arrow_c_stream__")
    return is_tabular and hasattr(kind, "__len__") and (_is_arrow(data) or hasattr(data, "columns"))


def from_frame(data: Any) -> SliceReader:
    """Make a data set of a DataFrame's or a table's columns, by their names; an index is none of them.

    A column becomes an array when its rows are first taken. Until columns are chosen `row_bytes` is a guess.

    Raises:
        InputError: it has no columns, or names that are no strings; where rows are taken, a column that no model takes.
    """
    frame = _Frame(data)
    others = frame.others()
    names = [name for name in frame.names if name not in others] or frame.names
    whole = cache(partial(frame.only, names))
    table = Table(names, frame.only, {} if names == frame.names else others)
    label = type(data).__name__
    return SliceReader(label, len(data), 8.0 * len(names), lambda start, stop: whole().take_marked(start, stop), table)


class _Frame:
    """The columns of a DataFrame, in the form of Arrow or of pandas."""

    def __init__(self, data: Any) -> None:
        kind = type(data)
        self._where = f"the {kind.__name__}"
        self._data = data.to_arrow() if hasattr(kind, "to_arrow") else data
        self._is_arrow = _is_arrow(self._data)
        self.names = list(self._data.column_names if self._is_arrow else data.columns)
        if odd := [name for name in self.names if not isinstance(name, str)]:
            raise InputError(
                f"{self._where}: names of columns must be strings, {odd[0]!r} is none; rename it, or give .to_numpy()"
            )
        if len(set(self.names)) < max(1, len(self.names)):
            raise InputError(f"{self._where}: has no columns, or two of one name; give each a name of its own")

    def others(self) -> dict[str, str]:
        """Columns of types that no model takes, each with its type."""
        if self._is_arrow:
            return {field.name: str(field.type) for field in self._data.schema if not arrow.is_taken(field.type)}
        return {name: str(self._data[name].dtype) for name in self.names if _is_left_alone(self._data[name])}

    def only(self, names: Sequence[str]) -> ArraySource:
        """The data set of these columns; raises InputError where there is no such, or no model takes one."""
        columns = {name: self._column(name) for name in names}
        for name, (column, _) in columns.items():
            if isinstance(column, list):
                remedy = "pad them, or save the table as Parquet, of which rows may have many lengths"
                raise InputError(f"{self._where}: column {name!r}: has lists of different lengths; {remedy}")
        nulls = {name: missing for name, (_, missing) in columns.items() if missing is not None}
        return from_arrays({name: column for name, (column, _) in columns.items()}, nulls).only(names)

    def _column(self, name: str) -> tuple[Column, Array | None]:
        where = f"{self._where}: column {name!r}"
        if self._is_arrow:
            if (kind := arrow.type_of(self._data.schema, name)) is None:
                raise missing_column(self._where, name, self.names)
            arrow.check_type(kind, where, named=True)
            return arrow.column_of(self._data, name, where)
        if name not in self.names:
            raise missing_column(self._where, name, self.names)
        return _values(self._data[name])


def _is_arrow(data: object) -> bool:
    return hasattr(type(data), "column_names")


def _values(column: Any) -> tuple[Column, Array | None]:
    """The values of a column of pandas or the like, times as text, and which are null; NumPy's NaN is a value."""
    is_time = _is_time(column.dtype)
    if isinstance(column.dtype, np.dtype) and not is_time:
        return column.to_numpy(), None
    nulls: Array = column.isna().to_numpy()
    fed = column[~nulls] if nulls.any() else column  # integers would be floats, if some were null
    values: Array = fed.to_numpy()
    if values.dtype.hasobject and is_time:  # with a time zone
        values = fed.to_numpy(dtype="datetime64[ns]")
    values = text_of_times(values) if values.dtype.kind == "M" else values
    return (spread(values, nulls), nulls) if nulls.any() else (values, None)


def _is_left_alone(column: Any) -> bool:
    """Whether no model takes a column: it has times, or Python objects that are neither texts nor numbers."""
    if _is_time(column.dtype):
        return True
    try:
        without_nulls(column.to_numpy() if column.dtype == object else np.empty(0), "")
    except InputError:
        return True
    return False


def _is_time(kind: Any) -> bool:
    """Whether values of a dtype, of whatever library, are times."""
    if isinstance(kind, np.dtype):
        return not is_taken(kind)
    return str(kind).lower().startswith(("date", "time", "duration", "period"))
