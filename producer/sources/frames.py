"""DataFrames and tables in memory --slices of the columns that are asked for--> arrays by name, null rows marked.

By their protocols: whatever exports itself as a stream of Arrow's, as polars and pyarrow do, is taken as Arrow's views
of its memory; pandas, of which only some columns are Arrow's, by its columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from producer.rows.readers import SliceReader
from producer.rows.source import Table
from producer.sources.arrays import from_arrays
from tasks.datasets import arrow
from tasks.datasets.columns import check_names, missing_column
from tasks.datasets.marked import marked, nulls_of, plain, unfed_of
from tasks.datasets.rows import Column, Rows
from tasks.protocol.codec import Array
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional


def is_frame(data: object) -> bool:
    """Whether this is a DataFrame, or a table or a record batch of Arrow: columns with names, and all rows there."""
    kind = type(data)
    is_tabular = hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__dataframe__")
    has_all = hasattr(kind, "__len__") and hasattr(kind, "__array__")  # which a query has not
    return is_tabular and has_all and (hasattr(kind, "column_names") or hasattr(data, "columns"))


def from_frame(data: Any) -> SliceReader:
    """Make a data set of a DataFrame's or a table's columns, by their names; an index is none of them.

    Numbers without nulls are views of its memory, and so are lists of fixed size; what else there is becomes arrays as
    its rows are taken, but for texts and nullable values of pandas, which are converted at once. Columns of lists are
    as of `open_parquet`.

    Raises:
        InputError: it has no columns, names that are no strings, or one twice; where rows are taken, a column that no
            model takes.
        ConfigError: it needs pyarrow, which is not installed.
    """
    return (_PandasFrame if hasattr(data, "iloc") else _TableFrame)(data).all()


class Frame(ABC):
    """What frames have in common: names, and rows of some of their columns.

    Attributes:
        names: of all columns.
        others: those of types that no model takes, each with its type.
    """

    data: Any
    where: str
    names: list[str]
    others: Mapping[str, str]

    def __init__(self, data: Any, names: Sequence[Any]) -> None:
        self.data, self.where = data, f"the {type(data).__name__}"
        if odd := [name for name in names if not isinstance(name, str)]:
            raise InputError(
                f"{self.where}: names of columns must be strings, {odd[0]!r} is none; rename it, or give .to_numpy()"
            )
        if not names:
            raise InputError(f"{self.where}: has no columns; give at least one")
        check_names(names, self.where)
        self.names = list(names)

    def all(self) -> SliceReader:
        """All that some model takes; a column is looked at when its rows are first taken."""
        names = [name for name in self.names if name not in self.others] or self.names
        whole = cache(partial(self.only, names))
        others = {} if names == self.names else self.others
        return self._reader(names, 8.0 * len(names), lambda index: _taken(whole(), index), others)

    @abstractmethod
    def only(self, names: Sequence[str]) -> SliceReader:
        """These columns alone; raises InputError where there is no such, or no model takes one."""

    def matrix(self, names: Sequence[str]) -> Array | None:
        """Columns that stand side by side in memory, as a view; None of others."""
        return None

    def _reader(
        self,
        names: Sequence[str],
        row_bytes: float,
        read: Callable[[slice | Array], Rows],
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> SliceReader:
        label, table = self.where.removeprefix("the "), Table(names, self.only, others, self.matrix)

        def read_slice(start: int, stop: int) -> Rows:
            return read(slice(start, stop))

        return SliceReader(label, len(self.data), row_bytes, read_slice, table, frame=self.data, pick=read)


class ArrowFrame(Frame):
    """What gives slices as tables of Arrow; `schema` has their columns, `odd` are those that Arrow does not have."""

    def __init__(
        self, data: Any, names: Sequence[Any], schema: Any, odd: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(data, names)
        self._schema, self._odd = schema, odd
        self.others: Mapping[str, str] = {
            field.name: str(field.type) for field in schema if not arrow.is_taken(field.type)
        } | dict(odd)

    def only(self, names: Sequence[str]) -> SliceReader:
        """These columns, or fields of structs, whose names have dots."""
        for name in names:
            where = f"{self.where}: column {name!r}"
            if name in self._odd:
                raise InputError(
                    f"{where}: is {self._odd[name]}, which no model takes; convert it, or leave the column out"
                )
            if (kind := arrow.type_of(self._schema, name)) is None:
                raise missing_column(self.where, name, self.names)
            arrow.check_type(kind, where, named=True)
        heads = [one for one in self.names if any(f"{name}.".startswith(f"{one}.") for name in names)]
        row_bytes, tables = self.tables(heads)

        def read(index: slice | Array) -> Rows:
            numbers = index.start if isinstance(index, slice) else index
            return arrow.rows_of(tables(index), names, self.where, numbers)

        return self._reader(names, row_bytes, read)

    @abstractmethod
    def tables(self, names: Sequence[str]) -> tuple[float, Callable[[slice | Array], Any]]:
        """Of these columns the bytes of a row, about, and what gives a slice of the rows, or some rows, as a table."""


class _TableFrame(ArrowFrame):
    """A table of Arrow, or what becomes one without a copy, as a DataFrame of polars."""

    def __init__(self, data: Any) -> None:
        names = list(data.column_names if hasattr(type(data), "column_names") else data.columns)
        odd: dict[str, str] = {}
        table = data
        if hasattr(data, "clear"):  # polars
            empty = data.clear()
            odd = {name: str(empty[name].dtype) for name in names if arrow.in_arrow(empty[name]) is None}
            table = data.drop(list(odd))
        self._table = import_optional("pyarrow", "parquet", f"the {type(data).__name__}").table(table)
        super().__init__(data, names, self._table.schema, odd)

    def tables(self, names: Sequence[str]) -> tuple[float, Callable[[slice | Array], Any]]:
        return _tables(self._table.select(names))


class _PandasFrame(Frame):
    """A DataFrame of pandas: columns of NumPy's, which may hold objects, and of Arrow's."""

    def __init__(self, data: Any) -> None:
        super().__init__(data, list(data.columns))
        self.others = {name: str(data[name].dtype) for name in self.names if arrow.is_left_alone(data[name])}

    def only(self, names: Sequence[str]) -> SliceReader:
        in_arrow: dict[str, Any] = {}
        held: dict[str, Array] = {}
        nulls: dict[str, Array] = {}
        for name in names:
            if name not in self.names:
                raise missing_column(self.where, name, self.names)
            if (values := arrow.in_arrow(self.data[name])) is not None:
                arrow.check_type(values.type, f"{self.where}: column {name!r}", named=True)
                in_arrow[name] = values
                continue
            held[name], missing = arrow.of_pandas(self.data[name])
            if missing is not None:
                nulls[name] = missing
        table = import_optional("pyarrow", "parquet", self.where).table(in_arrow) if in_arrow else None
        arrays = from_arrays(held, nulls).only(list(held)) if held else None
        row_bytes, tables = _tables(table) if in_arrow else (0.0, None)
        row_bytes += arrays.row_bytes if arrays else 0.0

        def read(index: slice | Array) -> Rows:
            parts = [_taken(arrays, index)] if arrays else []
            if tables is not None:
                numbers = index.start if isinstance(index, slice) else index
                parts.append(arrow.rows_of(tables(index), list(in_arrow), self.where, numbers))
            return _side_by_side(parts, names)

        return self._reader(names, row_bytes, read)

    def matrix(self, names: Sequence[str]) -> Array | None:
        if len(names) < 2 or names[0] not in self.names:
            return None
        first = self.names.index(names[0])
        some = self.data.iloc[:, first : first + len(names)]
        if list(some.columns) != list(names) or not isinstance(dtype := some.dtypes.iloc[0], np.dtype):
            return None
        if dtype.kind not in "biuf" or not (some.dtypes == dtype).all():
            return None
        # Asked of one row, since pandas copies all where the columns are in several blocks.
        row = some.iloc[:1]
        shared = np.shares_memory(row.to_numpy(), row[names[0]].to_numpy())
        matrix: Array | None = some.to_numpy() if shared else None
        return matrix


def _taken(source: Any, index: slice | Array) -> Rows:
    rows: Rows = source.take_marked(index.start, index.stop) if isinstance(index, slice) else source.pick(index)
    return rows


def _tables(table: Any) -> tuple[float, Callable[[slice | Array], Any]]:
    """As `ArrowFrame.tables` of all columns of a table."""
    plain_table = cache(partial(arrow.without_views, table))

    def rows(index: slice | Array) -> Any:
        if isinstance(index, slice):
            return table.slice(index.start, index.stop - index.start)
        return plain_table().take(index)

    return table.nbytes / max(1, len(table)), rows


def _side_by_side(parts: Sequence[Rows], names: Sequence[str]) -> Rows:
    """The columns of several as those of one, in the order of the names."""
    columns: dict[str, Column] = {}
    unfed: dict[int, str] = {}
    nulls: dict[str, Array] = {}
    for part in parts:
        rows: Any = plain(part)
        columns |= rows
        unfed |= unfed_of(part)
        nulls |= nulls_of(part)
    return marked({name: columns[name] for name in names}, unfed, nulls)
