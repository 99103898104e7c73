"""Lists of dicts, one for each row, --column by column--> arrays by name; a key that a row lacks is a null of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from producer.sources.arrays import ArraySource, from_arrays
from tasks.protocol.codec import Array
from worker_config.errors import InputError


def is_records(data: object) -> bool:
    """Whether this is a list that begins with a dict."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], Mapping)


def from_records(rows: Sequence[Mapping[str, Any]]) -> ArraySource:
    """Make a data set of rows that are dicts; its columns are all keys that any of them has.

    Raises:
        InputError: a row is no dict, or no column is one that a model takes.
    """
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"the list: row {number} is a {type(row).__name__}, those before it are dicts")
    names = dict.fromkeys(name for row in rows for name in row)
    return from_arrays({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> list[Any] | Array:
    try:
        np.asarray(values)
    except ValueError:  # of many shapes: left alone, unless it is needed
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return values
