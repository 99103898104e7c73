"""Which rows of a running job are new of their kind, and so worth to be held against the model's own graph.

    inputs, outputs of some rows --pick--> places, and how much each is worth: not finite, blank, beyond all before

Rows beyond what the job's rows have reached so far, in any column, count the more the farther they are beyond. With
rows that are alike these are few: of N, 2 ln N for each column. To look costs as much as a small model does: inputs for
which there is no time are passed over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tasks.executors.value_ranges import MOST_VALUES, Range, Scored, extremes, made_finite
from tasks.models.finite import Array, is_float
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import Arrays

# Of the executor's time, for the look alone, which runs no row once more.
LOOK_SHARE = 0.005
# For the look, when a job begins: a small one is looked at as a whole.
LOOK_CREDIT_SECONDS = 0.003
# What stays in a processor's cache between two looks at it.
BLOCK_BYTES = 2**20
# In widths of the range: beyond it by less is chance, if time is short.
MARGIN = 0.25
# Rows that are wide, or have axes of their own, count by their smallest and largest value.
MOST_COLUMNS = 512
RANDOM_SHARE = 1e-3
# How much sooner than rows that are so many ranges beyond the range.
NOT_FINITE, BLANK = 1e6, 1e3
# After so many that were right they are nothing special.
_ENOUGH = 64

Column = tuple[str, str]  # "inputs" or "outputs", and the name


@dataclass
class SeenRows:
    """What a job's rows have shown so far: ranges by ("inputs" or "outputs", name), and kinds that came before."""

    ranges: dict[Column, Range] = field(default_factory=dict)
    met: set[tuple[str, str]] = field(default_factory=set)
    not_finite: int = 0

    def largest_outputs(self) -> Arrays:
        """The largest magnitude of each column of the outputs, by name."""
        outputs = {name: one for (side, name), one in self.ranges.items() if side == "outputs"}
        return {name: np.maximum(np.abs(one.low), np.abs(one.high)) for name, one in outputs.items()}


class RowPicker:
    """Picks rows of all jobs of one model in one child, within a share of the time that the executor takes.

    Args:
        batch_rows: rows that are picked at once, at most.
        by_column: arrays, as ("inputs" or "outputs", name), whose rows are of few columns, always as many.
        clock: seconds.
    """

    def __init__(self, batch_rows: int, by_column: Collection[Column], clock: Callable[[], float]) -> None:
        self._batch_rows, self._by_column, self._clock = batch_rows, by_column, clock
        self.look_seconds = 0.0  # that may still be spent

    def begin(self, inputs: Arrays, outputs: Arrays) -> SeenRows:
        """A job begins with these rows."""
        seen = SeenRows()
        for side, arrays in ("inputs", inputs), ("outputs", outputs):
            for name, array in arrays.items():
                table = self._table((side, name), array)
                if table is not None:
                    finite = np.where(np.isfinite(table), table, 0)
                    seen.ranges[side, name] = Range(*(one.astype(np.float64) for one in extremes(finite)))
        self.look_seconds = max(self.look_seconds, LOOK_CREDIT_SECONDS)
        return seen

    def pick(
        self, seen: SeenRows, inputs: Arrays, outputs: Arrays, rows: int, seconds: float, chance: random.Random
    ) -> Scored:
        """The rows to be held against the own graph, each once, no more than a batch of them, the best first.

        What is `seen` of the job takes these rows in; the executor took `seconds`; `chance` is the chunk's own.
        """
        began = self._clock()
        self.look_seconds += LOOK_SHARE * seconds
        picked: list[Scored] = []
        for block in _blocks(outputs, rows):
            picked += self._scored(seen, "outputs", outputs, block)
        blocks = _blocks(inputs, rows)
        turn = chance.randrange(len(blocks))
        for block in blocks[turn:] + blocks[:turn]:
            ended = self._clock()
            self.look_seconds -= ended - began
            began = ended
            if self.look_seconds <= 0:
                break
            picked += self._scored(seen, "inputs", inputs, block)
        # More than that was another process's turn.
        self.look_seconds = max(self.look_seconds - (self._clock() - began), -LOOK_CREDIT_SECONDS)
        # A whole batch, so that what depends on its company shows.
        batches = -(-rows // self._batch_rows)
        if chance.random() < RANDOM_SHARE * batches:
            start = chance.randrange(batches) * self._batch_rows
            whole = np.arange(start, min(start + self._batch_rows, rows))
            picked.append((whole, np.full(len(whole), RANDOM_SHARE)))
        if not picked:
            return np.empty(0, np.int64), np.empty(0)
        places, scores = (np.concatenate(parts) for parts in zip(*picked, strict=True))
        order = np.argsort(-scores, kind="stable")
        first = np.sort(np.unique(places[order], return_index=True)[1])[: self._batch_rows]
        return places[order][first], scores[order][first]

    def _scored(self, seen: SeenRows, side: str, arrays: Arrays, block: slice) -> Iterator[Scored]:
        """How much rows of a block are worth to be held."""
        for name, array in arrays.items():
            for places, scores in self._score(seen, (side, name), array[block]):
                yield block.start + places, scores

    def _score(self, seen: SeenRows, column: Column, array: Array) -> Iterator[Scored]:
        known = seen.ranges.get(column)
        table = self._table(column, array)
        if table is None or known is None:
            return
        if column[0] == "inputs":
            yield from self._score_blank(seen, column[1], array)
        low, high = extremes(table)
        if not np.isfinite(low + high).all():
            table, is_finite = made_finite(table, known)
            low, high = extremes(table)
            rows = np.flatnonzero(~is_finite)
            yield rows, np.full(len(rows), NOT_FINITE if seen.not_finite < _ENOUGH else RANDOM_SHARE)
        beyond = known.beyond(table, low, high, 0.0 if self.look_seconds > LOOK_CREDIT_SECONDS / 3 else MARGIN)
        if beyond is not None:
            yield beyond

    def _score_blank(self, seen: SeenRows, name: str, array: Array) -> Iterator[Scored]:
        """The first row of zeros, and the first that has one value everywhere."""
        flat = array.reshape(len(array), -1)
        if flat.shape[1] < 2 or seen.met.issuperset({(name, "zero"), (name, "constant")}):
            return
        some = np.flatnonzero(flat[:, 0] == flat[:, -1])
        for place in range(1, flat.shape[1], max(1, flat.shape[1] // 16)):  # most rows need no further look
            if not some.size:
                return
            some = some[flat[some, 0] == flat[some, place]]
        some = some[: self._batch_rows]
        some = some[(flat[some] == flat[some, :1]).all(axis=1)]
        for what, rows in ("zero", some[flat[some, 0] == 0]), ("constant", some[flat[some, 0] != 0]):
            if rows.size and (name, what) not in seen.met:
                seen.met.add((name, what))
                yield rows[:1], np.array([BLANK])

    def _table(self, column: Column, array: Array) -> Array | None:
        """One line for each row: its columns, or its smallest and largest value; None where it has no numbers."""
        if array.dtype.kind not in "fiu" and not (array.dtype.kind != "c" and is_float(array)):
            return None
        flat = array.reshape(len(array), -1)
        if not flat.shape[1]:
            return None
        if array.dtype.kind == "V" or array.dtype == np.float16:
            flat = flat.astype(np.float32)
        if column in self._by_column:
            return flat
        skipped = max(0, flat.shape[1] - MOST_VALUES) // 2
        block = flat[:, skipped : skipped + MOST_VALUES]
        return np.stack([block.min(axis=1), block.max(axis=1)], axis=1)


def _blocks(arrays: Arrays, rows: int) -> list[slice]:
    """Runs of rows that are together as large as a block."""
    size = sum(array.nbytes for array in arrays.values())
    step = max(1, round(rows * BLOCK_BYTES / max(1, size)))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def by_column(side: str, specs: Iterable[TensorSpec]) -> set[Column]:
    """Of arrays of these forms, rows first, those that are looked at by column."""
    return {
        (side, spec.name)
        for spec in specs
        if len(spec.shape) <= 2 and all(size is not None and size <= MOST_COLUMNS for size in spec.shape[1:])
    }
