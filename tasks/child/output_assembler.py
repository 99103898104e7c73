"""This module cuts rows into pieces, and joins outputs of pieces, with a filler where a row has none.

rows --rows_between--> piece --model--> outputs of the piece --Joined.add--> outputs of the chunk
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from tasks.models.batches import widened
from tasks.protocol.dtypes import filler
from tasks.protocol.messages import FailureRecord
from tasks.protocol.trees import Key, columns_of, leaves_of, tree_like, tree_of
from worker_config.errors import InputError, ModelError

Array = np.ndarray[Any, Any]

_TEXTS = "SUOT"
# Of a row that is told in a failure record; the longest path that Linux knows has as many bytes.
MOST_VALUE_CHARACTERS = 4_096


def check_rows(rows: Any, count: int) -> None:
    """Make sure that every column has `count` rows, so that pieces of it are rows.

    Raises:
        InputError: one has not.
    """
    counts = sorted(
        {len(column) if isinstance(column, list) else column.shape[:1] for column in _listed(rows)}, key=str
    )
    if counts not in ([count], [(count,)], sorted([count, (count,)], key=str)):
        raise InputError(f"the columns of {count} rows have {', '.join(map(str, counts))}")


def rows_between(rows: Any, start: int, stop: int) -> Any:
    """Rows `[start, stop)` of an array, a list of rows of uneven shape, or a dict or tuple of these."""
    return tree_like(rows, {name: column[start:stop] for name, column in columns_of(rows).items()})


def with_values(records: Iterable[FailureRecord], rows: Any, first: int) -> list[FailureRecord]:
    """The records, those of single rows with the text that the row is, if it is one; `rows` begin at row `first`."""
    return [
        msgspec.structs.replace(record, value=_text(rows, record.start - first))
        if record.stop - record.start == 1 and not record.value
        else record
        for record in records
    ]


def _text(rows: Any, position: int) -> str:
    values = [column[position] for column in _listed(rows) if position < len(column)]
    return next((str(value)[:MOST_VALUE_CHARACTERS] for value in values if isinstance(value, str)), "")


class OutputAssembler:
    """The outputs of a chunk's rows, from those of its pieces: an array, or a tree of arrays."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._leaves: dict[Key, Array] = {}
        self._whole: Any = None
        self._missing = np.ones(count, bool)

    @property
    def rows(self) -> int:
        """How many rows have outputs."""
        return self._count - int(self._missing.sum())

    def add(self, start: int, stop: int, outputs: Any, kept: Array | None = None) -> None:
        """Put a piece's outputs to rows `[start, stop)`, or to those of them that a mask keeps.

        Raises:
            ModelError: they are not of the form of those before; the rows then count as missing.
        """
        at: Any = slice(start, stop) if kept is None else start + np.flatnonzero(kept)
        leaves = {key: np.asarray(leaf) for key, leaf in leaves_of(outputs)}
        if not self._leaves:
            if kept is None and (start, stop) == (0, self._count):
                self._whole, self._missing[:] = outputs, False
                return
            self._leaves = {path: np.empty((self._count, *one.shape[1:]), one.dtype) for path, one in leaves.items()}
        if leaves.keys() != self._leaves.keys():
            names = [", ".join(repr("/".join(path)) for path in some) for some in (self._leaves, leaves)]
            raise ModelError(f"outputs {names[0]} for some rows and {names[1]} for others")
        for path, array in leaves.items():
            self._leaves[path] = _place(self._leaves[path], at, array, "/".join(path))
        self._missing[at] = False

    def finish(self) -> Any:
        """The outputs of all rows, with a filler for those that are missing; some have been added."""
        if self._whole is not None:
            return self._whole
        if self._missing.any():
            for array in self._leaves.values():
                array[self._missing] = filler(array.dtype, _first(array[~self._missing]))
        return tree_of(self._leaves)


def _place(whole: Array, at: Any, rows: Array, name: str) -> Array:
    what = f"output {name!r}" if name else "the output"
    if rows.shape[1:] != whole.shape[1:]:
        raise ModelError(
            f"{what} has rows of shape {whole.shape[1:]} and of shape {rows.shape[1:]}; outputs must be of one shape"
        )
    try:
        if (rows.dtype.kind in _TEXTS) != (whole.dtype.kind in _TEXTS):
            raise TypeError
        whole = widened(whole, rows)
        whole[at] = rows
    except (TypeError, ValueError):
        raise ModelError(
            f"{what} is {whole.dtype} for some rows and {rows.dtype} for others, which do not go together"
        ) from None
    return whole


def _first(array: Array) -> Any:
    return next(array.flat, None)


def _listed(rows: Any) -> list[Any]:
    return list(columns_of(rows).values())
