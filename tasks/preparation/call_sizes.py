"""How long calls of an executor take, and how many rows they should have.

call, a batch --> seconds of a call
              --> the fewest rows in calls of which a whole batch costs as little: chunks are run in these
              --> fewer rows whose calls take less by far: the last call of a chunk, and requests, are run in these
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tasks.accuracy.accuracy_gate import is_equal
from tasks.models.batches import AROUND_CALL, halves
from tasks.models.program import FlatArrays, FlatCall

LEAST_CALLS, LEAST_SECONDS, MOST_SECONDS = 5, 0.4, 3.0
MANY_CALLS, MANY_SECONDS = 100, 0.1
# Of the next larger batch: what a call of a smaller one may take.
WORTH_IT = 0.7
# Of the best rate: what calls of fewer rows must reach, which hold less memory; far below it even fewer rows will not.
SHARE_OF_SPEED, FAR_BELOW = 0.97, 0.85
# What fills the last call of a chunk: calls that could need more have fewer rows, whatever they take.
MOST_PADDING_BYTES = 32 * 2**20


def batch_seconds(call: FlatCall, batch: FlatArrays) -> tuple[float, float]:
    """Seconds of a call, the median, and of processors, the least.

    5 calls and 0.4 s at least, 3 s at most; of quick ones 100 calls and 0.1 s are enough. The least is what another
    program on the machine changes least.
    """
    seconds: list[float] = []
    least = math.inf
    began = time.perf_counter()
    while True:
        started, processors = time.perf_counter(), time.process_time()
        call(batch)
        least = min(least, time.process_time() - processors)
        ended = time.perf_counter()
        seconds.append(ended - started)
        if _are_enough(len(seconds), ended - began):
            return statistics.median(seconds), least


def least_call_rows(call: FlatCall, batch: FlatArrays, *, to_the_bit: bool) -> int:
    """The fewest rows in calls of which a whole batch takes as little of the processor as in the best, or nearly.

    None that could be filled with more than `MOST_PADDING_BYTES`, if there are others; where outputs must be the same
    `to_the_bit`, fewer rows may have other kernels.
    """
    rows = max(len(array) for array in batch if array.ndim)
    outputs = call(batch)
    row_bytes = sum(array.nbytes for array in batch if array.ndim) / rows
    calls = {rows: [batch]}
    costs = {rows: min(_seconds(call, calls[rows]) for _ in range(2))}
    for few in halves(rows):
        calls[few] = [_cut(batch, at, few) for at in range(0, rows, few)]
        with suppress(Exception):  # the model, or its executor, may take no other batch
            got = call(calls[few][0])
            if to_the_bit and not all(is_equal(one[:few], other) for one, other in zip(outputs, got, strict=True)):
                break
            costs[few] = min(_seconds(call, calls[few]) for _ in range(2))
        is_far_below = costs.get(few, math.inf) * FAR_BELOW > min(costs.values())
        if is_far_below and (few - 1) * row_bytes <= MOST_PADDING_BYTES:
            break
    small = {few: cost for few, cost in costs.items() if (few - 1) * row_bytes <= MOST_PADDING_BYTES} or costs
    fastest = min(small, key=lambda few: small[few])
    # The larger ones in any case: the machine may have been slow while they were looked at.
    near = [few for few, cost in small.items() if few >= fastest or cost * FAR_BELOW <= small[fastest]]
    in_turns = _in_turns(call, {few: calls[few] for few in near})
    best = min(in_turns, key=lambda few: statistics.median(in_turns[few]))

    def share_of_speed(few: int) -> float:
        return statistics.median(one / its for one, its in zip(in_turns[best], in_turns[few], strict=True))

    return min(few for few in in_turns if share_of_speed(few) >= SHARE_OF_SPEED)


def small_batches(
    call: FlatCall, batch: FlatArrays, seconds: float, agrees: Callable[[int, float], bool]
) -> dict[int, float]:
    """Of smaller batches that are worth it, and agree, the processor seconds of a call by its rows.

    A call of a whole batch takes `seconds`; `agrees` is asked with the rows and the seconds of a smaller one.
    """
    kept = {}
    for rows in (512, 64, 8, 1):
        if rows >= len(batch[0]):
            continue
        some = [array[:rows] for array in batch]
        with suppress(Exception):  # the model, or its executor, may take no other batch
            call(some)
            small_seconds = batch_seconds(call, some)[1]
            if small_seconds <= WORTH_IT * seconds and agrees(rows, small_seconds):
                kept[rows] = seconds = small_seconds
    return kept


def _are_enough(calls: int, seconds: float) -> bool:
    few = seconds >= LEAST_SECONDS and calls >= LEAST_CALLS
    many = seconds >= MANY_SECONDS and calls >= MANY_CALLS
    return few or many or seconds >= MOST_SECONDS


def _cut(batch: FlatArrays, start: int, rows: int) -> FlatArrays:
    return [array[start : start + rows] if array.ndim else array for array in batch]


def _in_turns(call: FlatCall, calls: Mapping[int, Sequence[FlatArrays]]) -> dict[int, list[float]]:
    """`_seconds` of each, again and again in turns: a machine that others share is slower at one time than at another,
    by more than what is asked for.
    """
    found: dict[int, list[float]] = {few: [] for few in calls}
    began, turns = time.perf_counter(), 0
    while not turns or not _are_enough(turns, (time.perf_counter() - began) / len(calls)):
        for few in list(calls)[:: -1 if turns % 2 else 1]:
            found[few].append(_seconds(call, calls[few]))
        turns += 1
    return found


def _seconds(call: FlatCall, batches: Sequence[FlatArrays]) -> float:
    """Of processors, for one call after the other."""
    began = time.process_time()
    for batch in batches:
        call(batch)
    return time.process_time() - began + AROUND_CALL * len(batches)
