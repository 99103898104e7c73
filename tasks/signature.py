"""This module fits rows to a model's inputs: names them, checks dtype and shape, casts where that is harmless.

The producer asks with one row, before it sends anything; the worker asks again with each chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tasks.records import TensorSpec
from worker_config.errors import InputError

Rows = np.ndarray[Any, Any] | Mapping[str, np.ndarray[Any, Any]] | tuple[np.ndarray[Any, Any], ...]
Arrays = dict[str, np.ndarray[Any, Any]]


def fit(rows: Rows, inputs: Sequence[TensorSpec], model: str) -> Arrays:
    """Name the rows' arrays by the model's inputs, cast to their dtypes.

    Args:
        rows: an array for a model with one input; a tuple in the order of the inputs; or a dict by their names.
        inputs: the model's inputs.
        model: its name, for the error.

    Raises:
        InputError: names, dtype or shape do not fit; the text says which, and what the model wants.
    """
    named = _by_name(rows, inputs, model)
    return {spec.name: _fit_one(named[spec.name], spec, model) for spec in inputs}


def blank_rows(inputs: Sequence[TensorSpec]) -> Arrays:
    """No rows, in the form of the inputs; a free size is 0."""
    return {
        spec.name: np.zeros((0, *(size or 0 for size in spec.shape[1:])), numpy_dtype(spec.dtype)) for spec in inputs
    }


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a TensorFlow dtype name; strings are object arrays."""
    if name == "string":
        return np.dtype(object)
    return np.dtype(getattr(ml_dtypes, name, name))


def _by_name(rows: Rows, inputs: Sequence[TensorSpec], model: str) -> Mapping[str, np.ndarray[Any, Any]]:
    names = [spec.name for spec in inputs]
    if isinstance(rows, Mapping):
        if len(rows) == len(names) == 1:
            return dict(zip(names, rows.values(), strict=True))
        if set(rows) != set(names):
            raise InputError(f"model {model} has the inputs {_listed(names)}; the data set has {_listed(rows)}")
        return rows
    arrays = rows if isinstance(rows, tuple) else (rows,)
    if len(arrays) != len(names):
        count = "one array" if len(arrays) == 1 else f"{len(arrays)} arrays"
        raise InputError(f"model {model} has the inputs {_listed(names)}; the data set is {count}")
    return dict(zip(names, arrays, strict=True))


def _fit_one(array: np.ndarray[Any, Any], spec: TensorSpec, model: str) -> np.ndarray[Any, Any]:
    wanted, got = spec.shape[1:], array.shape[1:]
    fits = len(wanted) == len(got) and all(w is None or w == g for w, g in zip(wanted, got, strict=True))
    if not fits:
        raise InputError(f"model {model}: input {spec}; the data set's rows have the shape {_shape(got)}")
    dtype = numpy_dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    if not _can_cast(array.dtype, dtype):
        raise InputError(f"model {model}: input {spec}; the data set is {array.dtype}, which does not convert")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        for value in (array.min(), array.max()):
            if not limits.min <= value <= limits.max:
                raise InputError(f"model {model}: input {spec}; the data set holds {value}, which does not fit")
    return array.astype(dtype)


def _can_cast(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    if want == np.dtype(object):
        return have.kind in "OSU"
    if have.kind in "OSUMm":
        return False
    if have.kind in "iu" and want.kind in "iu":
        return True  # as long as the values fit, which the caller looks at
    # float64 to float32 and integers to floats, as Keras does; never floats to integers.
    return np.can_cast(have, want, casting="same_kind")


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
