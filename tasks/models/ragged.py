"""This module runs rows of uneven shape: those of one shape go through the model together, then each to its place.

A column of such rows is a list with one array for each row; a model sees arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.models.batches import check_names, widened
from tasks.protocol.signature import Arrays, Rows
from tasks.protocol.trees import Columns, columns_of, tree_like
from worker_config.errors import InputError, ModelError


def run_ragged(
    run: Callable[[Rows], Arrays], rows: Any, model: str, before: Callable[[list[int]], None] | None = None
) -> Arrays:
    """The outputs of `run` for all rows, each at its place.

    Args:
        run: outputs for rows of one shape.
        rows: a column, or a dict or tuple of columns, of which at least one is a list.
        model: its name, for the error.
        before: told which rows come next.

    Raises:
        InputError: the columns have different numbers of rows.
        ModelError: outputs differ in shape from row to row.
    """
    columns = columns_of(rows)
    counts = {len(column) for column in columns.values()}
    if len(counts) != 1:
        raise InputError(f"model {model}: the columns have {sorted(counts)} rows; they must have equally many")
    placed: Arrays = {}
    for indexes in _groups(columns):
        group = {
            name: np.stack([column[i] for i in indexes]) if isinstance(column, list) else column[indexes]
            for name, column in columns.items()
        }
        if before is not None:
            before(indexes)
        outputs = run(tree_like(rows, group))
        check_names(outputs, placed or outputs, model)
        for name, output in outputs.items():
            whole = placed.setdefault(name, np.empty((counts.copy().pop(), *output.shape[1:]), output.dtype))
            if whole.shape[1:] != output.shape[1:]:
                raise ModelError(
                    f"model {model}: output {name!r} has rows of shape {whole.shape[1:]} and {output.shape[1:]}; "
                    "outputs must be of one shape, whatever the shape of the input"
                )
            placed[name] = whole = widened(whole, output)
            whole[indexes] = output
    return placed


def _groups(columns: Columns) -> Iterator[list[int]]:
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    lists = [column for column in columns.values() if isinstance(column, list)]
    for index, row in enumerate(zip(*lists, strict=True)):
        by_shape.setdefault(tuple(value.shape for value in row), []).append(index)
    yield from by_shape.values()
