"""This module runs a chunk through a model in batches of one fixed shape: slice, pad the tail, call, trim, join.

One shape means one trace and one choice of kernels, so a row's prediction does not depend on its chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.signature import Arrays
from worker_config.errors import ModelError


def run_batches(call: Callable[[Arrays], Arrays], inputs: Arrays, batch_rows: int, model: str) -> Arrays:
    """The model's outputs for all rows of `inputs`.

    Args:
        call: the model, from exactly `batch_rows` rows to as many.
        inputs: arrays by input name, each with the same number of rows, zero included.
        batch_rows: rows in one call.
        model: its name, for the error.

    Raises:
        ModelError: the model returned another number of rows than it was given.
    """
    rows = len(next(iter(inputs.values())))
    # Zero rows run one batch of padding, so that the outputs have the model's dtypes and shapes.
    starts = range(0, rows, batch_rows) if rows else [0]
    whole: Arrays = {}
    for start in starts:
        kept = min(batch_rows, rows - start)
        batch = {name: _padded(array[start : start + kept], batch_rows) for name, array in inputs.items()}
        outputs = call(batch)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != batch_rows:
                got = "a single value" if array.ndim == 0 else f"{len(array)} rows"
                raise ModelError(f"model {model}: output {name!r} has {got} for a batch of {batch_rows} rows")
            if len(starts) == 1:
                whole[name] = array[:kept]
                continue
            if start == 0:
                whole[name] = np.empty((rows, *array.shape[1:]), array.dtype)
            _place(whole[name], start, array[:kept], name, model)
    return whole


def _place(whole: np.ndarray[Any, Any], start: int, rows: np.ndarray[Any, Any], name: str, model: str) -> None:
    if rows.shape[1:] != whole.shape[1:]:
        raise ModelError(
            f"model {model}: output {name!r} has rows of shape {whole.shape[1:]} in one batch and {rows.shape[1:]} in "
            "another; outputs must be of one shape"
        )
    whole[start : start + len(rows)] = rows


def _padded(array: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    if len(array) == rows:
        return array
    # A real row, where there is one: zeros may be out of a model's domain.
    filler = array[-1:] if len(array) else _blank_row(array)
    return np.concatenate([array, np.repeat(filler, rows - len(array), axis=0)])


def _blank_row(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    blank = np.zeros((1, *array.shape[1:]), array.dtype)
    if array.dtype == object:
        blank[...] = b""
    return blank
