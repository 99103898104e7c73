"""Columns of a data set --as the manifest or the caller says--> the inputs that are made of them.

{"p0": (n,), "p1": (n,), "age": (n,)}  --pixels = p0, p1-->  {"pixels": (n, 2), "age": (n,)}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from worker_config.columns import made_of
from worker_config.errors import InputError


def with_made(rows: Any, columns: Mapping[str, Sequence[str]], where: str, also: Collection[str] = ()) -> Any:
    """The rows with inputs made of their columns; what goes into others is left out, but for the columns of `also`.

    One column becomes an input as it is; of several, numbers or lists of numbers stand side by side, and so do texts.
    Where rows have the input already, as those of which the caller has made it, they are left as they are; so are
    arrays without names where `also` has the inputs of the model that takes them.

    Raises:
        InputError: rows have no such columns, or these do not go together.
    """
    if not columns:
        return rows
    if not isinstance(rows, Mapping):
        if also:
            return rows
        raise InputError(
            f"{where}: {next(iter(columns))!r} is made of columns by name; the data set has none: give a table, or a "
            "dict of arrays"
        )
    made: dict[str, Any] = {}
    used: set[str] = set()
    for name, names in made_of(columns).items():
        if missing := [one for one in names if one not in rows]:
            if name in rows:
                continue
            raise InputError(f"{where}: {name!r} is made of column {missing[0]!r}, which the data set does not have")
        made[name] = _side_by_side({one: rows[one] for one in names}, f"{where}: {name!r}")
        used.update(names)
    return {name: column for name, column in rows.items() if name not in used or name in also} | made


def _side_by_side(named: Mapping[str, Any], where: str) -> Any:
    """One column of several, each of scalars or of vectors of one length; a single one is given as it is.

    Raises:
        InputError: they are of other forms, or texts and numbers.
    """
    columns = list(named.values())
    if len(columns) == 1:
        return columns[0]
    if odd := [name for name, column in named.items() if isinstance(column, list) or column.ndim > 2]:
        raise InputError(
            f"{where}: is made of several columns, which must be numbers, or lists of one length; {odd[0]!r} has others"
        )
    texts = [name for name, column in named.items() if column.dtype.kind in "OSUT"]
    if 0 < len(texts) < len(columns):
        raise InputError(
            f"{where}: is made of texts (column {texts[0]!r}) and numbers, which do not go together; make an input of "
            "each, or leave one out"
        )
    return np.concatenate([column[:, np.newaxis] if column.ndim == 1 else column for column in columns], axis=1)
