"""Fits rows to a model's inputs: names them, checks dtype and shape, casts where that is harmless.

The producer asks with one row, before it sends anything; the worker asks again with each chunk. Rows are of the shape
that the input has, but for a last dimension of 1, which is added or taken away; nothing else is reshaped.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tasks.protocol.dtypes import can_cast, cast
from tasks.protocol.records import TensorSpec
from worker_config.errors import InputError
from worker_config.foreign_errors import some_of

Rows = np.ndarray[Any, Any] | Mapping[str, np.ndarray[Any, Any]] | tuple[np.ndarray[Any, Any], ...]
Arrays = dict[str, np.ndarray[Any, Any]]

# In an error's text.
MOST_NAMED = 20


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

    Of arrays by name those that are no input are left alone. A tuple goes by the order of the inputs. Where there is
    none, each array is taken for the input that alone fits it.

    Raises:
        InputError: other names, another number of arrays, or arrays of which one fits several inputs, or none.
    """
    names = [spec.name for spec in inputs]
    if isinstance(rows, Mapping):
        if len(rows) == len(names) == 1:
            return dict(zip(names, rows.values(), strict=True))
        if not set(names) <= set(rows):
            raise InputError(
                f"model {model} has the inputs {listed_names(names)}; the data set has {listed_names(rows)}"
                f"{_lacking(rows, inputs)}; name columns as the inputs, or say which they are in the manifest: "
                f'columns = {{{names[0]} = ["NAME", ...]}}'
            )
        return {name: rows[name] for name in names}
    arrays = rows if isinstance(rows, tuple) else (rows,)
    if len(arrays) != len(names):
        count = "one array" if len(arrays) == 1 else f"{len(arrays)} arrays"
        by_name = "; give a dict of arrays by these names" if len(names) > 1 else ""
        raise InputError(f"model {model} has the inputs {listed_names(names)}; the data set is {count}{by_name}")
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
    fitting = [_fitting(array, inputs) for array in arrays]
    for number, (array, names) in enumerate(zip(arrays, fitting, strict=True)):
        if not names:
            listed = "; ".join(map(str, inputs))
            raise InputError(
                f"model {model}: array {number} of the tuple, {array.dtype} rows of shape {_shape(array.shape[1:])}, "
                f"fits none of the inputs: {listed}"
            )
    for number, names in enumerate(fitting):
        if len(names) > 1:
            listed = f"{listed_names(names[:-1])} as well as {names[-1]!r}"
            every = ", ".join(f'"{spec.name}"' for spec in inputs)
            raise InputError(
                f"model {model} keeps no order of its inputs, and array {number} of the tuple fits {listed}; give a "
                f"dict of arrays by these names, or name the inputs in your order in the manifest: inputs = [{every}]"
            )
    matched = [name for [name] in fitting]
    if missing := [spec for spec in inputs if spec.name not in matched]:
        raise InputError(f"model {model}: no array of the tuple fits the input {missing[0]}")
    return matched


def _fitting(array: np.ndarray[Any, Any], inputs: Sequence[TensorSpec]) -> list[str]:
    """The inputs that an array fits as it is, else those that it fits with or without a last dimension of 1."""
    taken = [spec for spec in inputs if can_cast(array.dtype, numpy_dtype(spec.dtype))]
    exact = [spec.name for spec in taken if _has_shape(array.shape[1:], spec)]
    return exact or [spec.name for spec in taken if _of_shape(array, spec) is not None]


def _has_shape(got: tuple[int, ...], spec: TensorSpec) -> bool:
    expected = spec.shape[1:]
    return len(expected) == len(got) and all(w is None or w == g for w, g in zip(expected, got, strict=True))


def _of_shape(array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any] | None:
    """The array, with or without a last dimension of 1 where the input is so; None where it is of another shape."""
    got = array.shape[1:]
    if _has_shape(got, spec):
        return array
    if spec.shape[1:] and spec.shape[-1] == 1 and _has_shape((*got, 1), spec):
        return array[..., np.newaxis]
    return array[..., 0] if got and got[-1] == 1 and _has_shape(got[:-1], spec) else None


def _fit_one(given: np.ndarray[Any, Any], spec: TensorSpec, model: str, *, values: bool) -> np.ndarray[Any, Any]:
    array = _of_shape(given, spec)
    if array is None:
        got = _shape(given.shape[1:])
        raise InputError(f"model {model}: input {spec}; the data set's rows have the shape {got}")
    dtype = numpy_dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    if not can_cast(array.dtype, dtype):
        is_text = array.dtype.hasobject
        given_dtype = "text (object)" if is_text else array.dtype
        remedy = "; convert it to numbers first (dates and times come as text)" if is_text else ""
        raise InputError(f"model {model}: input {spec}; the data set is {given_dtype}, which does not convert{remedy}")
    return cast(array, dtype, f"model {model}: input {spec}; the data set") if values else array


def _lacking(rows: Iterable[str], inputs: Sequence[TensorSpec]) -> str:
    """Which input has no column, and what may have been meant."""
    known = list(rows)
    lacking = next(spec for spec in inputs if spec.name not in known)
    meant = like_it(lacking.name, known)
    if len(inputs) == 1 and len(lacking.shape) == 2 and (lacking.shape[1] or 0) > 1:
        meant += f", nor {lacking.shape[1]} columns of numbers, which would be taken side by side"
    return f", and no column {lacking.name!r}{meant}"


def like_it(name: str, columns: Iterable[str]) -> str:
    """Which column may have been meant by a name that none has; empty where none is like it."""
    by_case = {column.casefold(): column for column in columns}
    close = difflib.get_close_matches(name.casefold(), by_case, n=1, cutoff=0.6)
    return f" ({by_case[close[0]]!r} is like it)" if close else ""


def listed_names(names: Iterable[str]) -> str:
    """Names in an error's text."""
    return some_of(map(repr, names), MOST_NAMED)


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
