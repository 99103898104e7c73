"""Single rows --held against those before--> batches."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from tasks.datasets.columns import (
    check_dtype,
    check_text,
    columns_of,
    place,
    taken_dtype,
    to_array,
)
from tasks.datasets.marked import marked
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches, Column, Rows
from tasks.protocol.codec import Array, tree_like
from worker_config.errors import InputError


def gather(rows: Generator[Any, None, None], label: str, batch_rows: int) -> Batches:
    """Batches of `batch_rows` rows, or of fewer that have 16 MiB; closes `rows` at its end.

    A row that does not fit those before it is marked, and the one before stands in its place.

    Raises:
        InputError: `rows` raised it, or the first row is none; all rows before come first.
    """
    schema = RowSchema()
    gathered: dict[str, list[Array]] = {}
    values: dict[str, Array] = {}
    unfed: dict[int, str] = {}
    count = size = 0

    def batch() -> Rows:
        return marked(schema.batch({name: stack(its) for name, its in gathered.items()}), unfed)

    with closing(rows):
        try:
            for number, row in enumerate(rows):
                try:
                    values = schema.check(row, f"{label}: row {number}")
                except InputError as error:
                    if not values:
                        raise
                    unfed[count] = str(error)
                for name, value in values.items():
                    gathered.setdefault(name, []).append(value)
                    size += _memory(value)
                count += 1
                if count >= batch_rows or size >= MAX_BATCH_BYTES:
                    yield batch()
                    gathered, unfed, count, size = {}, {}, 0, 0
        except InputError:
            if count:
                yield batch()
            raise
    if count:
        yield batch()


class RowSchema:
    """What all rows of a data set have in common: the names of their values, and the dtype of each."""

    def __init__(self) -> None:
        self._kind: type | None = None
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def check(self, tree: object, where: str) -> dict[str, Array]:
        """The values of a row by name, copied; InputError if they have other names or dtypes than before."""
        values = self.columns(tree, where)
        return {name: self.value(name, value, place(where, name)) for name, value in values.items()}

    def columns(self, tree: object, where: str) -> dict[str, Any]:
        """The values of a tree by name, which must be those of the trees before."""
        values = columns_of(tree, where)
        if self._kind is None:
            self._kind = _kind_of(tree)
            self._names = list(values)
        if _kind_of(tree) is not self._kind or values.keys() != set(self._names):
            raise InputError(
                f"{where}: is {_describe(_kind_of(tree), values)}, earlier ones are "
                f"{_describe(self._kind, self._names)}; give all the same form"
            )
        return {name: values[name] for name in self._names}

    def value(self, name: str, value: object, where: str) -> Array:
        """A copy, since the giver may use its memory again; in C order, native byte order, and text as objects."""
        array = to_array(value, where)
        if isinstance(value, list) and array.size == 0:  # NumPy calls it float64
            array = array.astype(self._dtypes.get(name, array.dtype))
        check_dtype(array.dtype, where)
        array = np.array(array, dtype=taken_dtype(array.dtype), order="C")
        check_text(array, where)
        if self._dtypes.setdefault(name, array.dtype) != array.dtype:
            raise InputError(f"{where}: is {array.dtype}, earlier ones are {self._dtypes[name]}; give all one dtype")
        return array

    def batch(self, columns: dict[str, Any]) -> Any:
        """The tree of a batch, of its columns by name."""
        return tree_like((self._kind or dict)(), columns)


def stack(values: list[Array]) -> Column:
    """One array where all values have the same shape; the values themselves where not."""
    return np.stack(values) if len({value.shape for value in values}) == 1 else values


def _kind_of(tree: object) -> type:
    if isinstance(tree, tuple):
        return tuple
    return dict if isinstance(tree, Mapping) else object


def _describe(kind: type, names: Any) -> str:
    if kind is tuple:
        return f"a tuple of {len(names)}"
    return f"a dict of {', '.join(map(repr, names))}" if kind is dict else "one value"


def _memory(value: Array) -> int:
    if value.dtype.hasobject:
        return sum(map(len, value.flat))
    return value.nbytes
