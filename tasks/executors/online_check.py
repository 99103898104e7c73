"""Which rows of running jobs are held against the model's own graph, where an executor is not proven to do as it does.

    executor's outputs --pick--> rows that are new of their kind --budget--> own graph --> Difference, or none

Rows on which an executor is wrong are mostly odd, or their outputs are. So held against the own graph are: the first
batch of a job; outputs that are not finite; the first row of zeros, and the first constant one; rows beyond what the
job's rows have reached so far, in any column of inputs and outputs, those farthest beyond first; and a batch in a
thousand, by a hash of job and chunk. With rows that are alike the second-last are few: of N, 2 ln N for each column.

All but the first batch of a job costs at most `SHARE` of the executor's own time. To look at rows costs as much as a
small model does: inputs for which there is no time are passed over, and rows that are picked wait, so many as make a
batch; only clearly odd ones do not, `FREE_CALLS` times in a job.
"""

from __future__ import annotations

import random
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tasks.executors.deviations import Allowed, deviation
from tasks.executors.value_ranges import MOST_VALUES, Array, Range, Scored, extremes, made_finite
from tasks.models.finite import is_float

Arrays: TypeAlias = dict[str, Array]
Call: TypeAlias = Callable[[Arrays], Arrays]

# Of the executor's time, together: a hundredth, with what is not counted; and for the look at rows alone, which runs
# none of them once more.
SHARE = 0.008
LOOK_SHARE = 0.005
# For the look, when a job begins: a small one is looked at as a whole.
LOOK_CREDIT_SECONDS = 0.003
# What stays in a processor's cache between two looks at it.
BLOCK_BYTES = 2**20
# In widths of the range: beyond it by less is chance, if time is short.
MARGIN = 0.25
# Rows that are wide, or have axes of their own, count by their smallest and largest value.
MOST_COLUMNS = 512
FREE_CALLS = 8
CLEARLY_ODD = 0.5  # in widths of the range; rows that are alike are beyond it by less
# At least so many rows are worth a call of the own graph.
LEAST_ROWS = 8
RANDOM_SHARE = 1e-3
MOST_JOBS = 16
# How much sooner than rows that are so many ranges beyond the range.
_NOT_FINITE, _BLANK = 1e6, 1e3
# After so many that were right they are nothing special.
_ENOUGH = 64


@dataclass(frozen=True)
class Difference:
    """A difference: the row, counted as `OnlineCheck.place` says, and what differs, for people."""

    row: int
    text: str


@dataclass
class Waiting:
    """Rows that are to be held against the own graph, the most telling first."""

    scores: Array
    numbers: Array
    inputs: Arrays
    outputs: Arrays

    def __len__(self) -> int:
        return len(self.scores)

    def split(self, count: int) -> tuple[Waiting, Waiting]:
        """The first `count`, and the others."""
        return self._at(slice(count)), self._at(slice(count, None))

    def with_more(self, more: Waiting, most: int) -> Waiting:
        """Both, but no more than `most` of them; rows of another form take the place of these, if they tell more."""
        if any(self.inputs[name].shape[1:] != array.shape[1:] for name, array in more.inputs.items()):
            return max(more, self, key=lambda waiting: waiting.scores[:1].sum())
        both = Waiting(
            np.concatenate([self.scores, more.scores]),
            np.concatenate([self.numbers, more.numbers]),
            {name: np.concatenate([array, more.inputs[name]]) for name, array in self.inputs.items()},
            {name: np.concatenate([array, more.outputs[name]]) for name, array in self.outputs.items()},
        )
        return both._at(np.argsort(-both.scores, kind="stable")[:most])

    def _at(self, rows: Any) -> Waiting:
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        outputs = {name: array[rows] for name, array in self.outputs.items()}
        return Waiting(self.scores[rows], self.numbers[rows], inputs, outputs)


@dataclass
class _Job:
    """What this child has seen of a job."""

    begun: bool = False
    inputs: dict[str, Range] = field(default_factory=dict)
    outputs: dict[str, Range] = field(default_factory=dict)
    met: set[tuple[str, str]] = field(default_factory=set)
    not_finite: int = 0
    free_calls: int = FREE_CALLS
    waiting: Waiting | None = None


class OnlineCheck:
    """The check of one model in one child.

    Args:
        executor: its name, for people.
        allowed: by how much outputs may deviate.
        batch_rows: rows that are run at once, and that wait, at most.
        by_column: inputs and outputs, as ("inputs" or "outputs", name), whose rows are of few columns, always as many.
        marked: whether a difference is known of an earlier job, or of another child.
        clock: seconds. Those of the wall, in which the executor and the own graph are alike; to ask for those of the
            processor can cost more than a look.

    Attributes:
        by_own_graph: whether the own graph runs the chunk, and there is nothing to check.
        found: the difference that came to light in this chunk.
    """

    def __init__(
        self,
        executor: str,
        allowed: Allowed,
        batch_rows: int,
        by_column: Collection[tuple[str, str]] = (),
        marked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.executor = executor
        self.by_own_graph = False
        self.found: Difference | None = None
        self.clock = clock
        self.rows_held = 0
        self._allowed, self._batch_rows, self._by_column, self._marked = allowed, batch_rows, by_column, marked
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._job = _Job()
        self._is_marked = False
        self._placed: Callable[[int], Array] = lambda rows: np.arange(rows)
        self._numbers: Callable[[int], Array] = self._placed
        self._random = random.Random(0)  # noqa: S311 - a sample
        self._look_seconds = self._run_seconds = 0.0  # that may still be spent
        self._row_seconds = 0.0

    def begin(self, job: str, chunk: int, *, by_own_graph: bool) -> None:
        """A chunk of a job begins; of one that is not known yet, see what is known of the model by now."""
        if job not in self._jobs:
            self._jobs[job] = _Job()
            self._is_marked = self._is_marked or self._marked()
            if len(self._jobs) > MOST_JOBS:
                self._jobs.popitem(last=False)
        self._jobs.move_to_end(job)
        self._job, self.found = self._jobs[job], None
        self.by_own_graph = by_own_graph or self._is_marked
        self._random = random.Random(zlib.crc32(f"{job}/{chunk}".encode()))  # noqa: S311 - a sample
        self.place(0)

    def place(self, start: int, kept: Array | None = None) -> None:
        """The rows that come next are those from `start` on, or of them those that a mask keeps."""
        places = None if kept is None else np.flatnonzero(kept)
        self._numbers = self._placed = lambda rows: start + (np.arange(rows) if places is None else places[:rows])

    def group(self, indexes: list[int]) -> None:
        """Of the rows that `place` told of, these come next."""
        numbers = self._placed(max(indexes) + 1)[indexes]
        self._numbers = lambda rows: numbers[:rows]

    def hold(self, inputs: Arrays, outputs: Arrays, own_graph: Call, seconds: float) -> None:
        """Hold what is new of its kind against the own graph, and tell in `found`.

        Args:
            inputs: arrays, rows first.
            outputs: what the executor made of them.
            own_graph: any number of rows through the model's own graph.
            seconds: that the executor took, by the same clock.
        """
        rows = len(next(iter(inputs.values())))
        if not rows or self.found:
            return
        job = self._job
        numbers = self._numbers(rows)
        if not job.begun:
            self._begin_job(inputs, outputs, numbers, own_graph)
            if self.found:
                return
        self._run_seconds += (SHARE - LOOK_SHARE) * seconds
        picked, scores = self._look(inputs, outputs, rows, seconds)
        looked = self.clock()
        if picked.size:
            more = Waiting(
                scores,
                numbers[picked],
                {name: array[picked] for name, array in inputs.items()},
                {name: array[picked] for name, array in outputs.items()},
            )
            job.waiting = more if job.waiting is None else job.waiting.with_more(more, self._batch_rows)
        while job.waiting is not None and len(job.waiting) and not self.found:
            if self._run_seconds <= 0:
                if job.waiting.scores[0] < CLEARLY_ODD or not job.free_calls:
                    break
                job.free_calls -= 1
            affordable = round(self._run_seconds / self._row_seconds) if self._row_seconds else 0
            now, job.waiting = job.waiting.split(max(LEAST_ROWS, affordable))
            self._compare(now, own_graph)
            ended = self.clock()
            self._run_seconds -= ended - looked
            self._row_seconds = min(self._row_seconds, (ended - looked) / len(now))  # the first one had it to load
            looked = ended

    def _begin_job(self, inputs: Arrays, outputs: Arrays, numbers: Array, own_graph: Call) -> None:
        first = Waiting(np.zeros(len(numbers)), numbers, inputs, outputs).split(self._batch_rows)[0]
        for kind, arrays in ("inputs", first.inputs), ("outputs", first.outputs):
            for name, array in arrays.items():
                table = self._table(kind, name, array)
                if table is not None:
                    ranges = self._job.inputs if kind == "inputs" else self._job.outputs
                    finite = np.where(np.isfinite(table), table, 0)
                    ranges[name] = Range(*(one.astype(np.float64) for one in extremes(finite)))
        began = self.clock()
        self._compare(first, own_graph)
        self._row_seconds = (self.clock() - began) / len(first)
        self._job.begun = True
        self._look_seconds = max(self._look_seconds, LOOK_CREDIT_SECONDS)

    def _compare(self, rows: Waiting, own_graph: Call) -> None:
        self.rows_held += len(rows)
        try:
            reference = own_graph(rows.inputs)
        except Exception as error:
            if type(error).__name__ in ("MemoryError", "ResourceExhaustedError"):
                return
            # Which of them it refuses comes to light when the chunk is run again.
            self.found = Difference(int(rows.numbers[0]), f"the own graph refuses it, or one after it: {error}"[:300])
            return
        reached = {name: np.maximum(np.abs(one.low), np.abs(one.high)) for name, one in self._job.outputs.items()}
        wrong = deviation(reference, rows.outputs, self._allowed, reached)
        if wrong:
            self.found = Difference(int(rows.numbers[wrong[0]]), wrong[1])
            return
        self._job.not_finite += int(np.count_nonzero(rows.scores >= _NOT_FINITE / 2))

    def _look(self, inputs: Arrays, outputs: Arrays, rows: int, seconds: float) -> Scored:
        """The rows to be held against the own graph, each once, no more than a batch of them, the best first."""
        began = self.clock()
        self._look_seconds += LOOK_SHARE * seconds
        picked: list[Scored] = []
        for part in _blocks(outputs, rows):
            found = [self._score("outputs", name, array[part]) for name, array in outputs.items()]
            picked += [(part.start + places, scores) for some in found for places, scores in some]
        blocks = _blocks(inputs, rows)
        turn = self._random.randrange(len(blocks))
        for part in blocks[turn:] + blocks[:turn]:
            ended = self.clock()
            self._look_seconds -= ended - began
            began = ended
            if self._look_seconds <= 0:
                break
            found = [self._score("inputs", name, array[part]) for name, array in inputs.items()]
            picked += [(part.start + places, scores) for some in found for places, scores in some]
        # More than that was another process's turn.
        self._look_seconds = max(self._look_seconds - (self.clock() - began), -LOOK_CREDIT_SECONDS)
        # A whole batch, so that what depends on its company shows.
        batches = -(-rows // self._batch_rows)
        if self._random.random() < RANDOM_SHARE * batches:
            start = self._random.randrange(batches) * self._batch_rows
            whole = np.arange(start, min(start + self._batch_rows, rows))
            picked.append((whole, np.full(len(whole), RANDOM_SHARE)))
        if not picked:
            return np.empty(0, np.int64), np.empty(0)
        places, scores = (np.concatenate(parts) for parts in zip(*picked, strict=True))
        order = np.argsort(-scores, kind="stable")
        first = np.sort(np.unique(places[order], return_index=True)[1])[: self._batch_rows]
        return places[order][first], scores[order][first]

    def _score(self, kind: str, name: str, array: Array) -> list[Scored]:
        """How much rows are worth to be held."""
        known = (self._job.inputs if kind == "inputs" else self._job.outputs).get(name)
        table = self._table(kind, name, array)
        if table is None or known is None:
            return []
        found = self._score_blank(name, array) if kind == "inputs" else []
        low, high = extremes(table)
        if not np.isfinite(low + high).all():
            table, is_finite = made_finite(table, known)
            low, high = extremes(table)
            rows = np.flatnonzero(~is_finite)
            found.append((rows, np.full(len(rows), _NOT_FINITE if self._job.not_finite < _ENOUGH else RANDOM_SHARE)))
        beyond = known.beyond(table, low, high, 0.0 if self._look_seconds > LOOK_CREDIT_SECONDS / 3 else MARGIN)
        return found if beyond is None else [*found, beyond]

    def _score_blank(self, name: str, array: Array) -> list[Scored]:
        """The first row of zeros, and the first that has one value everywhere."""
        met = self._job.met
        flat = array.reshape(len(array), -1)
        if flat.shape[1] < 2 or met.issuperset({(name, "zero"), (name, "constant")}):
            return []
        some = np.flatnonzero(flat[:, 0] == flat[:, -1])
        for place in range(1, flat.shape[1], max(1, flat.shape[1] // 16)):  # most rows need no further look
            if not some.size:
                return []
            some = some[flat[some, 0] == flat[some, place]]
        some = some[: self._batch_rows]
        some = some[(flat[some] == flat[some, :1]).all(axis=1)]
        found: list[Scored] = []
        for what, rows in ("zero", some[flat[some, 0] == 0]), ("constant", some[flat[some, 0] != 0]):
            if rows.size and (name, what) not in met:
                met.add((name, what))
                found.append((rows[:1], np.array([_BLANK])))
        return found

    def _table(self, kind: str, name: str, array: Array) -> Array | None:
        """One line for each row: its columns, or its smallest and largest value; None where it has no numbers."""
        if array.dtype.kind not in "fiu" and not (array.dtype.kind != "c" and is_float(array)):
            return None
        flat = array.reshape(len(array), -1)
        if not flat.shape[1]:
            return None
        if array.dtype.kind == "V" or array.dtype == np.float16:
            flat = flat.astype(np.float32)
        if (kind, name) in self._by_column:
            return flat
        skipped = max(0, flat.shape[1] - MOST_VALUES) // 2
        block = flat[:, skipped : skipped + MOST_VALUES]
        return np.stack([block.min(axis=1), block.max(axis=1)], axis=1)


def _blocks(arrays: Arrays, rows: int) -> list[slice]:
    """Runs of rows that are together as large as a block."""
    size = sum(array.nbytes for array in arrays.values())
    step = max(1, round(rows * BLOCK_BYTES / max(1, size)))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def by_column(kind: str, specs: Mapping[str, tuple[int | None, ...]]) -> set[tuple[str, str]]:
    """Of arrays of these shapes, rows first, those that are looked at by column."""
    found = set()
    for name, shape in specs.items():
        row = shape[1:]
        if len(row) <= 1 and all(size is not None and size <= MOST_COLUMNS for size in row):
            found.add((kind, name))
    return found
