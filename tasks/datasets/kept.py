"""Columns of the data set that stand beside the outputs of their rows, as ids and names do; arrays, masked where null.

rows of these columns --kept_rows--> {name: values}
payload of rows, values --with_kept--> payload --without_kept--> the same, where a worker cannot read them itself
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tasks.datasets.marked import masked, nulls_of, unfed_of
from tasks.datasets.objects import odd_texts
from tasks.datasets.rebatcher import columns, count_rows
from tasks.datasets.rows import Column, Rows
from tasks.protocol.codec import Array
from worker_config.errors import InputError, PayloadError

# The values of some rows by the name of their column.
Kept: TypeAlias = Mapping[str, Array]

# Keys of the payload: those of a data set's columns are texts, those of rows that cannot be fed 0 and 1.
_PAYLOAD, _VALUES, _NULLS = 2, 3, 4


def kept_rows(rows: Rows, names: Sequence[str], label: str, first: int) -> Kept:
    """The values of rows that have these columns alone; the first one is row `first` of the data set `label`.

    Raises:
        InputError: as `kept_column`.
    """
    numbers, missing = first + np.arange(count_rows(rows)), nulls_of(rows)
    none = np.zeros(len(numbers), np.bool_)
    return {
        name: kept_column(column, missing.get(name, none), numbers, f"{label}: column {name!r}")
        for name, column in zip(names, columns(rows), strict=True)
    }


def kept_column(values: Column, nulls: Array, numbers: Array, where: str) -> Array:
    """The values of a column of the rows of these `numbers`, masked where they are null.

    Raises:
        InputError: they are lists of many lengths, or one is a text that no file can hold.
    """
    if isinstance(values, list):
        raise InputError(f"{where} has lists of many lengths, and cannot be kept")
    if odd := unfed_of(odd_texts(values)):
        raise InputError(f"{where}: row {numbers[min(odd)]} cannot be kept: {odd[min(odd)]}")
    return masked(values, nulls)


def with_kept(payload: Any, kept: Kept) -> Any:
    """What is encoded of a chunk's rows whose columns travel with them."""
    if not kept:
        return payload
    nulls = {name: np.ma.getmaskarray(values) for name, values in kept.items() if np.ma.is_masked(values)}
    return {_PAYLOAD: payload, _VALUES: {name: np.ma.getdata(one) for name, one in kept.items()}, _NULLS: nulls}


def without_kept(payload: Any) -> tuple[Any, Kept]:
    """What a decoded payload has of rows, and the columns that came with them.

    Raises:
        PayloadError: it does not say so in our form.
    """
    if not isinstance(payload, dict) or _PAYLOAD not in payload:
        return payload, {}
    values, nulls = payload.get(_VALUES), payload.get(_NULLS)
    if not isinstance(values, dict) or not isinstance(nulls, dict):
        raise PayloadError("the payload does not tell which columns stand beside its outputs")
    kept: dict[str, Array] = {}
    for name, array in values.items():
        mask = nulls.get(name, np.False_)
        if not isinstance(name, str) or not isinstance(array, np.ndarray) or np.shape(mask) not in ((), array.shape):
            raise PayloadError(f"the payload has column {name!r} beside its outputs, which is none")
        kept[name] = np.ma.array(array, mask=mask) if name in nulls else array
    return payload[_PAYLOAD], kept
