"""Holds rows of running jobs against the model's own graph, where an executor is not proven to do as it does.

    executor's outputs --RowPicker--> rows that are new of their kind --budget--> own graph --> Difference, or none

Rows on which an executor is wrong are mostly odd, or their outputs are. So held against the own graph are: the first
batch of a job; outputs that are not finite; the first row of zeros, and the first constant one; rows beyond what the
job's rows have reached so far; and a batch in a thousand, by a hash of job and chunk (`tasks/executors/row_picker.py`).

All but the first batch of a job costs at most `SHARE` of the executor's own time. Rows that are picked wait, so many as
make a batch; only clearly odd ones do not, `FREE_CALLS` times in a job.
"""

from __future__ import annotations

import random
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.accuracy.deviations import Allowed, deviation
from tasks.executors.row_picker import LOOK_SHARE, NOT_FINITE, Column, RowPicker, SeenRows
from tasks.models.batches import is_out_of_memory
from tasks.models.finite import Array
from tasks.models.program import Call
from tasks.protocol.signature import Arrays
from tasks.snapshots.executor_notes import ExecutorNotes

# Of the executor's time, together: a hundredth, with what is not counted.
SHARE = 0.008
FREE_CALLS = 8
CLEARLY_ODD = 0.5  # in widths of the range; rows that are alike are beyond it by less
# At least so many rows are worth a call of the own graph.
LEAST_ROWS = 8
MOST_JOBS = 16


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
        return Waiting(self.scores[rows], self.numbers[rows], at(self.inputs, rows), at(self.outputs, rows))


def at(arrays: Arrays, rows: Any) -> Arrays:
    """Some rows of all arrays."""
    return {name: array[rows] for name, array in arrays.items()}


@dataclass
class _Job:
    """A job in this child; nothing is seen of it before its first batch."""

    seen: SeenRows | None = None
    free_calls: int = FREE_CALLS
    waiting: Waiting | None = None


class OnlineCheck:
    """The check of one model in one child.

    Args:
        executor: its name, for people.
        allowed: by how much outputs may deviate.
        batch_rows: rows that are run at once, and that wait, at most.
        by_column: inputs and outputs whose rows are of few columns, always as many.
        notes: tell of a difference in an earlier job, or in another child; None where nobody would know.
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
        by_column: Collection[Column] = (),
        notes: ExecutorNotes | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.executor = executor
        self.by_own_graph = False
        self.found: Difference | None = None
        self.notes = notes
        self.clock = clock
        self.rows_held = 0
        self._allowed, self._batch_rows = allowed, batch_rows
        self._picker = RowPicker(batch_rows, by_column, clock)
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._job = _Job()
        self._is_marked = False
        self._placed: Callable[[int], Array] = lambda rows: np.arange(rows)
        self._numbers: Callable[[int], Array] = self._placed
        self._random = random.Random(0)  # noqa: S311 - a sample
        self._run_seconds = 0.0  # that may still be spent
        self._row_seconds = 0.0

    def begin(self, job: str, chunk: int, *, by_own_graph: bool) -> None:
        """A chunk of a job begins; of one that is not known yet, see what is known of the model by now."""
        if job not in self._jobs:
            self._jobs[job] = _Job()
            self._is_marked = self._is_marked or (self.notes is not None and bool(self.notes.difference()))
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

        The executor took `seconds` by the same clock; `own_graph` takes any number of rows.
        """
        rows = len(next(iter(inputs.values())))
        if not rows or self.found:
            return
        job, numbers = self._job, self._numbers(rows)
        if job.seen is None:
            first = Waiting(np.zeros(rows), numbers, inputs, outputs).split(self._batch_rows)[0]
            job.seen = self._picker.begin(first.inputs, first.outputs)
            began = self.clock()
            self._compare(job.seen, first, own_graph)
            self._row_seconds = (self.clock() - began) / len(first)
            if self.found:
                return
        self._run_seconds += (SHARE - LOOK_SHARE) * seconds
        picked, scores = self._picker.pick(job.seen, inputs, outputs, rows, seconds, self._random)
        looked = self.clock()
        if picked.size:
            more = Waiting(scores, numbers[picked], at(inputs, picked), at(outputs, picked))
            job.waiting = more if job.waiting is None else job.waiting.with_more(more, self._batch_rows)
        while job.waiting is not None and len(job.waiting) and not self.found:
            if self._run_seconds <= 0:
                if job.waiting.scores[0] < CLEARLY_ODD or not job.free_calls:
                    break
                job.free_calls -= 1
            affordable = round(self._run_seconds / self._row_seconds) if self._row_seconds else 0
            now, job.waiting = job.waiting.split(max(LEAST_ROWS, affordable))
            self._compare(job.seen, now, own_graph)
            ended = self.clock()
            self._run_seconds -= ended - looked
            self._row_seconds = min(self._row_seconds, (ended - looked) / len(now))  # the first one had it to load
            looked = ended

    def _compare(self, seen: SeenRows, rows: Waiting, own_graph: Call) -> None:
        self.rows_held += len(rows)
        try:
            reference = own_graph(rows.inputs)
        except Exception as error:
            if not is_out_of_memory(error):
                # Which of them it refuses comes to light when the chunk is run again.
                text = f"the own graph refuses it, or one after it: {error}"[:300]
                self.found = Difference(int(rows.numbers[0]), text)
            return
        if wrong := deviation(reference, rows.outputs, self._allowed, seen.largest_outputs()):
            self.found = Difference(int(rows.numbers[wrong[0]]), wrong[1])
            return
        seen.not_finite += int(np.count_nonzero(rows.scores >= NOT_FINITE / 2))
