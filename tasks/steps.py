"""This module runs a model's own functions around it: rows -> preprocess -> rows, outputs -> postprocess -> outputs.

A function is named `package.module:function` in the manifest, and gets all rows of a chunk at once. It is imported in
the child, after the fork, from what is installed and from the folder in which the worker was started.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.causes import telling_line
from worker_config.errors import ModelError

Step = Callable[[Any], Any]


def import_step(name: str) -> Step:
    """The function of that name.

    Raises:
        ImportError: there is no such module or function, or the module raises when it is imported.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # Celery puts it there only while it looks for its app
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ImportError(
            f"the function {name} ({type(error).__name__}: {telling_line(error)}); modules are looked for in what is "
            f"installed and in {here}, where the worker was started"
        ) from error
    if not callable(found):
        raise ImportError(f"{name} is a {type(found).__name__}, not a function")
    step: Step = found
    return step


def prepared(step: Step, rows: Any, count: int, what: str) -> Any:
    """What the function makes of the rows: as many, as one array, a list of arrays, or a dict or tuple of these.

    Args:
        step: the function.
        rows: a chunk's rows, as the data set has them.
        count: how many.
        what: model and function, for the error.

    Raises:
        ModelError: it raised, or gave something else, or another number of rows.
    """
    result = _call(step, rows, what)
    if isinstance(result, Mapping):
        result = {name: _column(column, what) for name, column in result.items()}
    elif isinstance(result, tuple):
        result = tuple(_column(column, what) for column in result)
    else:
        result = _column(result, what)
    _check_count(result, count, what)
    return result


def finished(step: Step, outputs: Any, count: int, what: str) -> Any:
    """What the function makes of the outputs: one array with a row for each, or a dict of such arrays by name.

    Raises:
        ModelError: as `prepared`.
    """
    result = _call(step, outputs, what)
    if isinstance(result, Mapping) and result:
        result = {str(name): _array(column, what) for name, column in result.items()}
    else:
        result = _array(result, what)
    _check_count(result, count, what)
    return result


def _call(step: Step, value: Any, what: str) -> Any:
    try:
        return step(value)
    except Exception as error:
        raise ModelError(f"{what} raised {type(error).__name__}: {telling_line(error)}") from error


def _column(value: Any, what: str) -> Any:
    # A list is rows of uneven shape.
    return [_array(row, what) for row in value] if isinstance(value, list) else _array(value, what)


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    if value is None or isinstance(value, Mapping):
        raise ModelError(f"{what} returned {'nothing' if value is None else 'a dict in a dict'}; it must return arrays")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ModelError(f"{what} returned what is no array: {error}") from None


def _check_count(result: Any, count: int, what: str) -> None:
    columns = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple) else [result]
    counts = {len(column) if isinstance(column, list) or column.ndim else "no" for column in columns}
    if counts != {count}:
        got = " and ".join(map(str, counts)) or "no"
        raise ModelError(f"{what} returned {got} rows for {count}; it must return one for each")
