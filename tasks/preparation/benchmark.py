"""An executor tried on the rows of the gate, in a process of its own: does it agree, how fast, how large.

build --> load --> all rows in calls --compare--> edge cases --> time --> smaller batches --> memory --> Trial
                   as many rows in one as it takes for the speed of the best: else again with these
"""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from tasks.accuracy.accuracy_gate import Comparison, differs
from tasks.executors import EXECUTORS
from tasks.executors.guarded import InputRange
from tasks.executors.operation_table import judge
from tasks.models.batches import in_batches
from tasks.models.error_text import converter_line
from tasks.models.memory import give_back, with_peak
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.user_functions import import_modules
from tasks.preparation.call_sizes import batch_seconds, least_call_rows, small_batches
from tasks.preparation.input_limits import capped, common_range, within
from tasks.preparation.reference import GateRows, compared
from tasks.snapshots.installed import tensorflow_version
from tasks.snapshots.record import Snapshot, Trial
from worker_config.manifest import ModelEntry

# The first call compiles or packs in every child; nobody waits longer for a worker's start.
FIRST_CALL_SECONDS = 20.0
MOST_GATE_SECONDS = 20.0
# Compiled for one number of rows, it runs others by the own graph.
_OF_ONE_SIZE = ("xla",)


def try_executor(
    name: str,
    folder: Path,
    snapshot: Snapshot,
    batch_rows: int,
    threads: int,
    reference: GateRows,
    call_rows: int | None = None,
) -> Trial:
    """Build what is not there yet, load, run, compare, measure; never raises an `Exception`.

    Args:
        threads: those of TFLite; TensorFlow's own are the process's.
        call_rows: rows of one call, some of which fill `batch_rows`; None is all of them. So is 0, unless fewer are as
            fast: then the trial has nothing but their number, and is to be made anew with them, in a process that has
            not held more.
    """
    executor, rows = EXECUTORS[name], reference.rows
    of_call = call_rows or batch_rows
    try:
        if tensorflow_version():  # of which they bring operations and classes
            import_modules(snapshot.entry)
        if executor.build:
            executor.build(folder, snapshot, batch_rows, rows)
        operators = executor.operators(folder) if executor.operators else ()
        verdict = judge(name, snapshot.operations, operators, tensorflow=snapshot.tensorflow)
        if verdict.refusal:
            return Trial(name, False, why=verdict.refusal)
        warm_up_runtime()
        before = private_bytes()
        call = executor.load(folder, snapshot, of_call, threads)
        batch = [_rows(array, batch_rows) for array in rows]
        some = [_rows(array, of_call) for array in rows]
        started = time.process_time()  # another program on the machine must not change what is chosen
        call(some)
        first = time.process_time() - started
        if name != "graph" and first > FIRST_CALL_SECONDS:
            return Trial(name, False, why=f"its first call takes {first:.0f} s, {FIRST_CALL_SECONDS:.0f} s are allowed")
        if call_rows == 0 and name not in _OF_ONE_SIZE and _takes_any_number(snapshot):
            fewest = least_call_rows(call, batch, to_the_bit=name == "graph")
            if fewest < batch_rows:
                return Trial(name, False, call_rows=fewest)
        gate = _Gate(name, snapshot.entry, reference, is_of_finite=verdict.is_of_finite)
        outputs = in_batches(call, rows, of_call)
        found, inputs = gate.judge(call, outputs, of_call)
        tried = Trial(name, rows=len(reference.reference[0]), call_rows=of_call, **vars(found))
        if not found.agrees and name != "graph":
            return tried
        give_back()
        whole = partial(in_batches, call, batch_rows=of_call)
        (seconds, processor_seconds), peak = with_peak(partial(batch_seconds, whole, batch))
        smaller: dict[int, float] = {}
        if found.agrees and _takes_any_number(snapshot):
            agrees = partial(gate.agrees_in_small, call, outputs, inputs, batch_rows)
            smaller = small_batches(call, some, processor_seconds * of_call / batch_rows, agrees)
        give_back()
        return replace(
            tried,
            batch_seconds=seconds,
            own_bytes=max(0, private_bytes() - before),
            processor_seconds=processor_seconds,
            peak_bytes=peak,
            apart=max(bound.apart for bound in reference.bounds),
            limit=inputs.limit,
            tiny=inputs.tiny,
            integers=inputs.integers,
            unproven=list(verdict.unknown),
            small_batches=smaller,
            copies_weights=not (executor.mapped and (folder / executor.mapped).exists()),
        )
    except Exception as error:
        return Trial(name, False, why=converter_line(error))


def time_own_graph(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int, rows: FlatArrays) -> Trial:
    """The model's own graph on rows that tell no executors apart: how fast, and which smaller batches are worth it.

    For them it is held against itself, of which any outputs will do; never raises an `Exception`.
    """
    name = "graph"
    try:
        import_modules(snapshot.entry)
        call = EXECUTORS[name].load(folder, snapshot, batch_rows, threads)
        batch = [_rows(array, batch_rows) for array in rows]
        outputs = call(batch)

        def agrees(few: int, _: float) -> bool:
            return not differs(outputs, in_batches(call, batch, few))

        seconds, processor_seconds = batch_seconds(call, batch)
        smaller = small_batches(call, batch, processor_seconds, agrees) if _takes_any_number(snapshot) else {}
        return Trial(name, True, batch_seconds=seconds, processor_seconds=processor_seconds, small_batches=smaller)
    except Exception as error:
        return Trial(name, True, why=converter_line(error))


def _takes_any_number(snapshot: Snapshot) -> bool:
    return not any(spec.shape[0] for spec in snapshot.inputs)


@dataclass(frozen=True)
class _Gate:
    """What the outputs of an executor are held against."""

    executor: str
    entry: ModelEntry
    reference: GateRows
    is_of_finite: bool

    @property
    def exact(self) -> bool:
        return EXECUTORS[self.executor].precision == "float32"

    def judge(self, call: FlatCall, outputs: FlatArrays, batch_rows: int) -> tuple[Comparison, InputRange]:
        """Compare outputs for all rows, then run edge cases in batches of this size, up to where they agree."""
        reference, exact, inputs = self.reference, self.exact, InputRange()
        found = compared(reference, self.executor, self.entry, outputs)
        if found.agrees and self.executor != "graph":
            why, inputs = common_range(reference.groups, call, batch_rows, exact=exact, seen=reference.seen)
            if why:
                return dataclasses.replace(found, agrees=False, why=why), inputs
        if EXECUTORS[self.executor].is_calibrated:
            return found, within(inputs, reference.rows)
        return found, capped(inputs, reference.seen) if self.is_of_finite else inputs

    def agrees_in_small(
        self, call: FlatCall, outputs: FlatArrays, inputs: InputRange, batch_rows: int, rows: int, seconds: float
    ) -> bool:
        """Whether calls of fewer `rows`, which take `seconds`, give what is right in the place of these outputs.

        The first `batch_rows` rows are run; in a lower precision, where shares of rows count, as many as time allows.
        """
        count = batch_rows if self.exact else max(batch_rows, round(MOST_GATE_SECONDS / seconds) * rows)
        some = in_batches(call, [array[:count] for array in self.reference.rows], rows)
        first_replaced = [np.concatenate([one, all_[count:]]) for one, all_ in zip(some, outputs, strict=True)]
        found, bounds = self.judge(call, first_replaced, rows)
        return found.agrees and bounds.includes(inputs)


def warm_up_runtime() -> None:
    """Start TensorFlow's runtime, and free what building has left, so that neither counts as an executor's memory."""
    if tensorflow_version():
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


def _rows(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """The first `count` rows, the last one repeated where there are not so many."""
    if not array.ndim:
        return array
    return np.ascontiguousarray(array[np.minimum(np.arange(count), len(array) - 1)])
