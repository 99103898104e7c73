"""An executor tried on the rows of the gate, in a process of its own: does it agree, how fast, how large.

build --> load --> all rows in batches --compare--> edge cases --> time --> memory --> Trial
"""

from __future__ import annotations

import math
import re
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from tasks.executors import EXECUTORS
from tasks.executors.guarded import InputRange
from tasks.executors.operation_table import judge
from tasks.models.batches import in_batches
from tasks.models.error_text import converter_line
from tasks.models.memory import give_back, with_peak
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.user_functions import import_modules
from tasks.preparation.accuracy_gate import compare
from tasks.preparation.input_limits import capped, common_range
from tasks.preparation.reference import GateRows
from tasks.snapshots.record import Snapshot, Trial

# The first call compiles or packs in every child; nobody waits longer for a worker's start.
FIRST_CALL_SECONDS = 20.0
LEAST_CALLS, LEAST_SECONDS, MOST_SECONDS = 5, 0.4, 3.0
MANY_CALLS, MANY_SECONDS = 100, 0.1


def try_executor(
    name: str, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int, reference: GateRows
) -> Trial:
    """Build what is not there yet, load, run, compare, measure; never raises an `Exception`.

    `threads` are those of TFLite; TensorFlow's own are the process's.
    """
    executor, entry, rows = EXECUTORS[name], snapshot.entry, reference.rows
    exact = executor.precision == "float32"
    try:
        import_modules(entry)
        if executor.build:
            executor.build(folder, snapshot, batch_rows)
        operators = executor.operators(folder, batch_rows) if executor.operators else ()
        verdict = judge(name, snapshot.operations, operators, tensorflow=snapshot.tensorflow)
        if verdict.refusal:
            return Trial(name, False, why=verdict.refusal)
        warm_up_runtime()
        before = private_bytes()
        call = executor.load(folder, snapshot, batch_rows, threads)
        batch = [_rows(array, batch_rows) for array in rows]
        started = time.process_time()  # another program on the machine must not change what is chosen
        call(batch)
        first = time.process_time() - started
        if name != "graph" and first > FIRST_CALL_SECONDS:
            return Trial(name, False, why=f"its first call takes {first:.0f} s, {FIRST_CALL_SECONDS:.0f} s are allowed")
        found = compare(
            reference.reference,
            in_batches(call, rows, batch_rows),
            exact=exact,
            tolerance=entry.tolerance,
            agreement=entry.agreement,
        )
        tried = Trial(name, rows=len(reference.reference[0]), **vars(found))
        inputs = InputRange()
        if name != "graph":
            why = found.why
            if found.agrees:
                why, inputs = common_range(reference.groups, call, batch_rows, exact=exact, seen=reference.seen)
            if why:
                return replace(tried, agrees=False, why=why)
        if verdict.is_of_finite:
            inputs = capped(inputs, reference.seen)
        give_back()
        (seconds, processor_seconds), peak = with_peak(partial(_batch_seconds, call, batch))
        give_back()
        return replace(
            tried,
            batch_seconds=seconds,
            own_bytes=max(0, private_bytes() - before),
            processor_seconds=processor_seconds,
            peak_bytes=peak,
            limit=inputs.limit,
            tiny=inputs.tiny,
            unproven=list(verdict.unknown),
        )
    except Exception as error:
        return Trial(name, False, why=converter_line(error))


def warm_up_runtime() -> None:
    """Start TensorFlow's runtime, and free what building has left, so that neither counts as an executor's memory."""
    import tensorflow as tf

    tf.function(lambda: tf.constant(1.0) + 1.0, autograph=False)()
    give_back()


def private_bytes() -> int:
    """Memory that this process alone has written to: neither shared with its parent nor a file's clean pages."""
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text()
    except OSError:  # another system than Linux
        import psutil  # which a producer need not have

        return int(psutil.Process().memory_full_info().uss)
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.MULTILINE))
    return 1024 * (int(sizes.get("Private_Dirty", 0)) + int(sizes.get("SwapPss", 0)))


def _batch_seconds(call: FlatCall, batch: FlatArrays) -> tuple[float, float]:
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
        passed = ended - began
        few = passed >= LEAST_SECONDS and len(seconds) >= LEAST_CALLS
        many = passed >= MANY_SECONDS and len(seconds) >= MANY_CALLS
        if few or many or passed >= MOST_SECONDS:
            return statistics.median(seconds), least


def _rows(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """The first `count` rows, the last one repeated where there are not so many."""
    if not array.ndim:
        return array
    return np.ascontiguousarray(array[np.minimum(np.arange(count), len(array) - 1)])
