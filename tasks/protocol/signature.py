"""Fits rows to a model's inputs: names them, checks dtype and shape, casts where that is harmless.

The producer asks with one row, before it sends anything; the worker asks again with each chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tasks.protocol.dtypes import can_cast, cast
from tasks.protocol.records import TensorSpec
from worker_config.errors import InputError

Rows = np.ndarray[Any, Any] | Mapping[str, np.ndarray[Any, Any]] | tuple[np.ndarray[Any, Any], ...]
Arrays = dict[str, np.ndarray[Any, Any]]


def fit(rows: Rows, inputs: Sequence[TensorSpec], model: str, *, ordered: bool, values: bool = True) -> Arrays:
    """Name the rows' arrays by the model's inputs, cast to their dtypes.

    Args:
        rows: an array for a model with one input; a dict by the names of the inputs; or a tuple, as for `named`.
        inputs: the model's inputs.
        model: its name, for the error.
        ordered: whether the model's format keeps an order of its inputs.
        values: whether to cast, and so to look at each value; else only form and dtype are looked at.

    Raises:
        InputError: names, dtype or shape do not fit, or which array is which input is not known; the text says which,
            and what the model wants.
        OutOfRangeError: a value is beyond what an input's dtype holds.
    """
    arrays = named(rows, inputs, model, ordered=ordered)
    return {spec.name: _fit_one(arrays[spec.name], spec, model, values=values) for spec in inputs}


def named(rows: Rows, inputs: Sequence[TensorSpec], model: str, *, ordered: bool) -> Mapping[str, np.ndarray[Any, Any]]:
    """The rows' arrays by the names of the inputs, as they are.

    A tuple goes by the order of the inputs. Where there is none, each array is taken for the input that alone fits it.

    Raises:
        InputError: other names, another number of arrays, or arrays of which one fits several inputs, or none.
    """
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
        by_name = "; give a dict of arrays by these names" if len(names) > 1 else ""
        raise InputError(f"model {model} has the inputs {_listed(names)}; the data set is {count}{by_name}")
    if not ordered and len(names) > 1:
        names = _by_form(arrays, inputs, model)
    return dict(zip(names, arrays, strict=True))


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


def _by_form(arrays: Sequence[np.ndarray[Any, Any]], inputs: Sequence[TensorSpec], model: str) -> list[str]:
    """The input of each array, where its form leaves no choice: the likeliest one may be the wrong one."""
    fitting = [[s.name for s in inputs if _has_shape(a, s) and can_cast(a.dtype, numpy_dtype(s.dtype))] for a in arrays]
    for number, (array, names) in enumerate(zip(arrays, fitting, strict=True)):
        if not names:
            listed = "; ".join(map(str, inputs))
            raise InputError(
                f"model {model}: array {number} of the tuple, {array.dtype} rows of shape {_shape(array.shape[1:])}, "
                f"fits none of the inputs: {listed}"
            )
    for number, names in enumerate(fitting):
        if len(names) > 1:
            listed = f"{_listed(names[:-1])} as well as {names[-1]!r}"
            every = ", ".join(f'"{spec.name}"' for spec in inputs)
            raise InputError(
                f"model {model} keeps no order of its inputs, and array {number} of the tuple fits {listed}; give a "
                f"dict of arrays by these names, or name the inputs in your order in the manifest: inputs = [{every}]"
            )
    matched = [name for [name] in fitting]
    if missing := [spec for spec in inputs if spec.name not in matched]:
        raise InputError(f"model {model}: no array of the tuple fits the input {missing[0]}")
    return matched


def _has_shape(array: np.ndarray[Any, Any], spec: TensorSpec) -> bool:
    expected, got = spec.shape[1:], array.shape[1:]
    return len(expected) == len(got) and all(w is None or w == g for w, g in zip(expected, got, strict=True))


def _fit_one(array: np.ndarray[Any, Any], spec: TensorSpec, model: str, *, values: bool) -> np.ndarray[Any, Any]:
    if not _has_shape(array, spec):
        got = _shape(array.shape[1:])
        raise InputError(f"model {model}: input {spec}; the data set's rows have the shape {got}")
    dtype = numpy_dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    if not can_cast(array.dtype, dtype):
        raise InputError(f"model {model}: input {spec}; the data set is {array.dtype}, which does not convert")
    return cast(array, dtype, f"model {model}: input {spec}; the data set") if values else array


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
