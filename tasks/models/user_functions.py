"""Runs a model's own functions around it, and functions that are models.

    rows --preprocess--> rows --model, or function in batches--> outputs --postprocess--> outputs

A function is named `package.module:function` in the manifest, and gets all rows of a chunk at once. It is imported in
the child, after the fork, from what is installed, from the folder in which the worker was started, and from that of the
manifest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from tasks.models.batches import run_batches
from tasks.models.error_text import telling_line
from tasks.protocol.codec import Key, columns_of, leaves_of, tree_like, tree_of
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import Arrays, Rows, like_it, listed_names
from worker_config.errors import InputError, ModelError, RowCountError
from worker_config.manifest import ModelEntry

Step = Callable[[Any], Any]
Array = np.ndarray[Any, Any]
# The name of an output that is no dict's.
ONLY = ""


def import_step(name: str, folder: str = "") -> Step:
    """The function of that name; its module may stand in a manifest's folder.

    Raises:
        ImportError: there is no such module or function, or the module raises when it is imported.
    """
    module, _, function = name.partition(":")
    found = _imported(module, function, f"the function {name}", folder)
    if not callable(found):
        raise ImportError(f"{name} is a {type(found).__name__}, not a function")
    step: Step = found
    return step


def import_modules(entry: ModelEntry) -> None:
    """Import what brings the operations and classes that a model needs, as its entry says.

    Raises:
        ImportError: there is no such module, or it raises when it is imported.
    """
    for module in entry.imports:
        _imported(module, "", f"the module {module} of imports", entry.folder)


def _imported(module: str, attribute: str, what: str, folder: str) -> Any:
    places = list(dict.fromkeys(filter(None, [str(Path.cwd()), folder])))
    # The first of them Celery puts there only while it looks for its app.
    sys.path += [place for place in places if place not in sys.path]
    try:
        found: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except Exception as error:
        beside = f", and in {folder}, where the manifest is" if len(places) > 1 else ""
        raise ImportError(
            f"{what} ({type(error).__name__}: {telling_line(error)}); modules are looked for in what is "
            f"installed and in {places[0]}, where the worker was started{beside}"
        ) from error
    return found


def prepared(step: Step, rows: Any, count: int, what: str, *, drops: bool = False) -> tuple[Any, Array | None]:
    """What the function makes of the rows: as many, as one array, a list of arrays, or a tree of these.

    There is at least one of a chunk's `count` rows; `what` names model and function. Where it `drops` rows, None stands
    in their place in a list.

    Returns:
        The rows without those left out; and a mask of those that are not, None where that is all.

    Raises:
        RowCountError: it gave another number of rows.
        ModelError: it raised, or gave something else.
    """
    leaves = {key: _column(leaf, what) for key, leaf in _leaves(_call(step, rows, what), what).items()}
    _check_count(leaves.values(), count, what, rows)
    kept = np.ones(count, bool)
    for column in leaves.values():
        if isinstance(column, list):
            kept &= [row is not None for row in column]
    if kept.all():
        return tree_of(leaves), None
    if not drops:
        raise ModelError(f"{what} returned None for a row; to leave out rows on purpose, set drops_rows = true")
    rows = {key: list(compress(one, kept)) if isinstance(one, list) else one[kept] for key, one in leaves.items()}
    return tree_of(rows), kept


def stacked(rows: Any, what: str) -> Any:
    """What `prepared` gave as outputs: a tree of arrays.

    Raises:
        ModelError: rows differ in shape.
    """
    return tree_of({key: _stacked(column, what) for key, column in leaves_of(rows)})


def _stacked(column: Any, what: str) -> Array:
    if not isinstance(column, list):
        return np.asarray(column)
    shapes = sorted({row.shape for row in column})
    if len(shapes) > 1:
        raise ModelError(
            f"{what} returned rows of shape {shapes[0]} and of shape {shapes[1]}; they must be of one shape"
        )
    return np.stack(column) if column else np.empty(0)


def finished(step: Step, outputs: Any, count: int, what: str) -> Any:
    """What the function makes of the outputs: arrays with a row for each, one or a tree of dicts and tuples.

    Raises:
        ModelError: as `prepared`.
    """
    leaves = {key: _array(leaf, what) for key, leaf in _leaves(_call(step, outputs, what), what).items()}
    _check_count(leaves.values(), count, what, outputs)
    return tree_of(leaves)


def run_function(function: Step, rows: Rows, info: ModelInfo, batch_rows: int) -> Arrays:
    """The outputs for rows of even shape, of which there is at least one; it is given at most `batch_rows` at once.

    Raises:
        InputError: the columns have different numbers of rows.
        ModelError: the function failed, or returned no arrays, or another number of rows.
    """
    columns = columns_of(rows)
    counts = sorted({len(column) for column in columns.values()})
    if len(counts) != 1:
        raise InputError(f"model {info.name}: the columns have {counts} rows; they must have equally many")
    what = f"model {info.name}: function {info.function}"

    def call(batch: Arrays) -> Arrays:
        count = len(next(iter(batch.values())))
        outputs = finished(function, tree_like(rows, batch), count, what)
        if isinstance(outputs, tuple):
            raise ModelError(f"{what} returned a tuple; a model's outputs are one array, or a dict of arrays")
        if any(len(key) > 1 for key, _ in leaves_of(outputs)):
            raise ModelError(f"{what} returned a dict in a dict; a model's outputs are one array, or a dict of arrays")
        return outputs if isinstance(outputs, dict) else {ONLY: outputs}

    return run_batches(call, columns, batch_rows, info.name, padded=False)


def _leaves(result: Any, what: str) -> dict[Key, Any]:
    """The arrays of a result by name; names become strings, as they travel."""
    given = list(leaves_of(result))
    leaves = {tuple(n if isinstance(n, str) else str(n) for n in key): leaf for key, leaf in given}
    if len(leaves) < len(given):
        raise ModelError(f"{what} returned two outputs of one name; give each a name of its own, which is a string")
    return leaves


def _call(step: Step, value: Any, what: str) -> Any:
    try:
        return step(value)
    except Exception as error:
        told = f"{what} raised {type(error).__name__}: {telling_line(error)}{_no_column(error, value)}"
        raise ModelError(told) from error


def _no_column(error: Exception, value: Any) -> str:
    """Which columns the function is given, where it has asked for another one."""
    if not isinstance(error, KeyError) or not isinstance(value, dict) or not all(isinstance(one, str) for one in value):
        return ""
    name = error.args[0] if error.args else None
    if not isinstance(name, str) or name in value:
        return ""
    return f"; it is given the columns {listed_names(value)}{like_it(name, value)}"


def _column(value: Any, what: str) -> Any:
    # A list is rows of uneven shape, or such as may be left out.
    if isinstance(value, list):
        return [None if row is None else _array(row, what) for row in value]
    return _array(value, what)


def _array(value: Any, what: str) -> Array:
    if value is None or isinstance(value, Mapping):
        raise ModelError(
            f"{what} returned {'nothing' if value is None else 'a dict without arrays'}; it must return arrays"
        )
    if np.ma.is_masked(value):
        raise ModelError(f"{what} returned masked values; fill them first, with .filled(value)")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ModelError(f"{what} returned what is no array: {error}") from None


def _check_count(columns: Iterable[Any], count: int, what: str, given: Any) -> None:
    counts = {len(column) if isinstance(column, list) or column.ndim else "no" for column in columns}
    if counts != {count}:
        raise RowCountError(
            f"{what} returned {' and '.join(map(str, counts))} rows for {count}; it must return one for each"
            f"{_of_columns(given, counts)}"
        )


def _of_columns(given: Any, counts: set[Any]) -> str:
    """What to say of a result that has a row for each column: the function went through a dict as if it were rows."""
    if not isinstance(given, Mapping) or counts != {len(given)}:
        return ""
    names = ", ".join(map(repr, given))
    return f", and was given a dict of the columns {names}: take their rows by name, as rows[{next(iter(given))!r}]"
