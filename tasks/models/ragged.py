"""Runs rows of uneven shape: those of one shape go through the model together, then each to its place.

A column of such rows is a list with one array for each row; a model sees arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.models.output_assembler import OutputAssembler
from tasks.protocol.codec import Columns, columns_of, tree_like
from tasks.protocol.signature import Arrays, Rows
from worker_config.errors import InputError


def run_ragged(
    run: Callable[[Rows], Arrays], rows: Any, model: str, before: Callable[[list[int]], None] | None = None
) -> Arrays:
    """The outputs of `run` for all rows, each at its place.

    Of the columns at least one is a list. `before` is told which rows come next.

    Raises:
        InputError: the columns have different numbers of rows.
        ModelError: outputs differ in shape from row to row.
    """
    columns = columns_of(rows)
    counts = {len(column) for column in columns.values()}
    if len(counts) != 1:
        raise InputError(f"model {model}: the columns have {sorted(counts)} rows; they must have equally many")
    [count] = counts
    whole = OutputAssembler(count, model)
    for indexes in _groups(columns):
        group = {
            name: np.stack([column[i] for i in indexes]) if isinstance(column, list) else column[indexes]
            for name, column in columns.items()
        }
        if before is not None:
            before(indexes)
        whole.add_at(indexes, run(tree_like(rows, group)))
    outputs: Arrays = whole.finish()
    return outputs


def _groups(columns: Columns) -> Iterator[list[int]]:
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    lists = [column for column in columns.values() if isinstance(column, list)]
    for index, row in enumerate(zip(*lists, strict=True)):
        by_shape.setdefault(tuple(value.shape for value in row), []).append(index)
    yield from by_shape.values()
