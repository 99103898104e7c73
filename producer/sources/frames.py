"""DataFrames and tables in memory --columns, as they are asked for--> arrays by name, and which rows are null.

Nothing is imported for it: pandas and its like have `columns`, each with `to_numpy`; tables and record batches of Arrow
have `column_names`, and columns in Arrow's own form, which DataFrames of polars give.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from producer.rows.readers import SliceReader
from producer.rows.source import Table
from producer.sources.arrays import ArraySource, from_arrays
from tasks.datasets import arrow
from tasks.datasets.columns import check_names, missing_column
from tasks.protocol.codec import Array
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
        self._data = data
        self._odd: dict[str, str] = {}  # of polars, which Arrow does not have
        self.names = list(data.column_names if _is_arrow(data) else data.columns)
        if hasattr(kind, "to_arrow"):
            columns = data.clear()
            self._odd = {name: str(columns[name].dtype) for name in self.names if arrow.in_arrow(columns[name]) is None}
            self._data = data.drop(list(self._odd)).to_arrow()
        self._is_arrow = _is_arrow(self._data)
        if odd := [name for name in self.names if not isinstance(name, str)]:
            raise InputError(
                f"{self._where}: names of columns must be strings, {odd[0]!r} is none; rename it, or give .to_numpy()"
            )
        if not self.names:
            raise InputError(f"{self._where}: has no columns; give at least one")
        check_names(self.names, self._where)

    def others(self) -> dict[str, str]:
        """Columns of types that no model takes, each with its type."""
        if self._is_arrow:
            schema = self._data.schema
            return {field.name: str(field.type) for field in schema if not arrow.is_taken(field.type)} | self._odd
        return {name: str(self._data[name].dtype) for name in self.names if arrow.is_left_alone(self._data[name])}

    def only(self, names: Sequence[str]) -> ArraySource:
        """The data set of these columns; raises InputError where there is no such, or no model takes one."""
        columns = {name: self._column(name) for name in names}
        nulls = {name: missing for name, (_, missing) in columns.items() if missing is not None}
        return from_arrays({name: column for name, (column, _) in columns.items()}, nulls).only(names)

    def _column(self, name: str) -> tuple[Array, Array | None]:
        where = f"{self._where}: column {name!r}"
        if name in self._odd:
            raise InputError(
                f"{where}: is {self._odd[name]}, which no model takes; convert it, or leave the column out"
            )
        if self._is_arrow:
            if (kind := arrow.type_of(self._data.schema, name)) is None:
                raise missing_column(self._where, name, self.names)
            arrow.check_type(kind, where, named=True)
            return arrow.array_of(arrow.values_of(self._data, name), where)
        if name not in self.names:
            raise missing_column(self._where, name, self.names)
        if (values := arrow.in_arrow(self._data[name])) is None:
            return arrow.of_pandas(self._data[name])
        arrow.check_type(values.type, where, named=True)
        return arrow.array_of(values, where)


def _is_arrow(data: object) -> bool:
    return hasattr(type(data), "column_names")
