"""Runs a chunk through a model in batches of one fixed shape: slice, pad the tail, call, trim, join.

One shape means one trace and one choice of kernels, so a row's prediction does not depend on its chunk, as long as the
model's rows are independent (`tasks/preparation/independence.py`). Where a batch is too large for the memory that there
is, it is halved, for good; where rows are meant to depend on their batch, that is an error. Rows so large that a batch
of them would have more bytes than it may are run in smaller ones, the largest of them alone.

Few rows, for which somebody waits, need not pay for a whole batch: they may be run in one of a few smaller shapes, in
which the model was seen to give the same but for the last bits.

Of rows of uneven shape, a column of which is a list with one array for each row, those of one shape are run together.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.models.output_assembler import OutputAssembler
from tasks.models.program import FlatArrays, FlatCall, rows_within
from tasks.protocol.codec import Columns, columns_of, tree_like
from tasks.protocol.signature import Arrays, Rows
from worker_config.errors import InputError, ModelError
from worker_config.manifest import DEFAULT_BATCH_MIB

logger = logging.getLogger(__name__)
# Seconds to slice, pad and join, which trials do not measure.
AROUND_CALL = 5e-5


class BatchCounts(Counter[str]):
    """Calls of models that gave outputs, their rows and places, by the names of `tasks.telemetry.counters`."""

    def add(self, rows: int, batch_rows: int, *, padded: bool) -> None:
        """Count the calls that these rows took."""
        batches = max(1, -(-rows // batch_rows))
        self.update(batches=batches, batch_rows=rows, batch_places=batches * batch_rows if padded else rows)


@dataclass
class BatchSize:
    """Rows of one call of a model, which become fewer where memory does not do.

    Attributes:
        rows: so far.
        limit_bytes: what they may have together.
        fixed: whether the model takes no other number.
        seconds: processor seconds of a call by its rows, of whole batches and of smaller ones that are worth it.
        remember: called with the smaller number, once a chunk has gone through with it.
        counts: of the batches that were run.
    """

    rows: int
    limit_bytes: int = DEFAULT_BATCH_MIB * 2**20
    fixed: bool = False
    remember: Callable[[int], None] | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    counts: BatchCounts = field(default_factory=BatchCounts)

    def of(self, arrays: Arrays, *, small: bool = False) -> int:
        """Rows of one call with rows like these: fewer where a batch would have too many bytes, at least one.

        Where batches may be `small`, they are those in which these rows take the least of the processor.
        """
        if self.fixed:
            return self.rows
        most = rows_within(self.rows, sum(map(_largest_row_bytes, arrays.values())), self.limit_bytes)
        if not small:
            return most
        count = len(next(iter(arrays.values())))
        costs = {
            rows: -(-count // rows) * (seconds + AROUND_CALL) for rows, seconds in self.seconds.items() if rows <= most
        }
        return min(costs, key=lambda rows: (costs[rows], rows), default=most)


def halves(batch_rows: int) -> list[int]:
    """The numbers of rows of which 2, 4, 8, ... fill a batch; the largest first."""
    found = []
    while batch_rows > 1 and batch_rows % 2 == 0:
        batch_rows //= 2
        found.append(batch_rows)
    return found


def run_bearable(
    call: Callable[[Arrays], Arrays], inputs: Arrays, size: BatchSize, model: str, *, small: bool = False
) -> Arrays:
    """As `run_batches`, with batches halved until they fit into memory, or `small` as `BatchSize.of` says.

    Raises:
        ModelError: as `run_batches`.
        Exception: a single row does not fit, or the model takes no other batch: what the model raised.
    """
    rows = most = size.of(inputs, small=small)
    while True:
        try:
            outputs = run_batches(call, inputs, rows, model)
        except Exception as error:
            if rows == 1 or size.fixed or not is_out_of_memory(error):
                raise
            rows //= 2
            continue
        if rows < most:
            logger.warning("model %s: %d rows at once do not fit into memory; batches have %d now", model, most, rows)
            size.rows = rows
            if size.remember:
                size.remember(rows)
        return outputs


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's own, or TensorFlow's, whose error is found by name so as not to import it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def run_batches(
    call: Callable[[Arrays], Arrays], inputs: Arrays, batch_rows: int, model: str, *, padded: bool = True
) -> Arrays:
    """The model's outputs for all rows of `inputs`.

    `call` takes exactly `batch_rows` rows, or at most as many where nothing is `padded`, and gives as many as it takes;
    zero rows are rows too.

    Raises:
        ModelError: the model returned another number of rows than it was given.
    """
    rows = len(next(iter(inputs.values())))
    # Zero rows run one batch of padding, so that the outputs have the model's dtypes and shapes.
    starts = range(0, rows, batch_rows) if rows else [0]
    whole = OutputAssembler(rows, model)
    for start in starts:
        kept = min(batch_rows, rows - start)
        given = batch_rows if padded else kept
        batch = {name: _padded(array[start : start + kept], given) for name, array in inputs.items()}
        outputs = call(batch)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != given:
                got = "a single value" if array.ndim == 0 else f"{len(array)} rows"
                others = "; name the others in outputs, in the manifest" if len(outputs) > 1 else ""
                raise ModelError(f"model {model}: output {name!r} has {got} for a batch of {given} rows{others}")
        whole.add(start, start + kept, {name: array[:kept] for name, array in outputs.items()})
    joined: Arrays = whole.finish()
    return joined


def in_batches(call: FlatCall, arrays: FlatArrays, batch_rows: int) -> FlatArrays:
    """The same of a call by position: the outputs for all rows, in the order of the call's.

    Raises:
        ModelError: the outputs are of another number of rows.
    """

    def named(batch: Arrays) -> Arrays:
        return {str(number): output for number, output in enumerate(call(list(batch.values())))}

    inputs = {str(number): array for number, array in enumerate(arrays)}
    return list(run_batches(named, inputs, batch_rows, "of the executor").values())


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


def _padded(array: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    if len(array) == rows:
        return array
    # A real row, where there is one: zeros may be out of a model's domain.
    filler = array[-1:] if len(array) else _blank_row(array)
    return np.concatenate([array, np.repeat(filler, rows - len(array), axis=0)])


def _largest_row_bytes(array: np.ndarray[Any, Any]) -> int:
    """Of text the longest value counts for all."""
    text = 0
    if array.dtype == object:
        text = max((len(value) for value in array.flat if isinstance(value, str | bytes)), default=0)
    return int(math.prod(array.shape[1:])) * (int(array.dtype.itemsize) + text)


def _blank_row(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    blank = np.zeros((1, *array.shape[1:]), array.dtype)
    if array.dtype == object:
        blank[...] = b""
    return blank
