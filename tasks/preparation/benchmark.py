"""Executors tried on the rows of the gate, in a process of its own: do they agree, how fast, how large.

telling_rows   calibration file, or made up --model--> rows that tell outputs apart, edge cases, the model's outputs
try_executor   build --> load --> all rows in batches --compare--> edge cases --> time --> memory --> Trial
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from tasks.executors import EXECUTORS
from tasks.executors.batched import Arrays, in_batches
from tasks.executors.promises import promise
from tasks.models.error_text import telling_line
from tasks.models.finite import magnitude
from tasks.models.memory import give_back
from tasks.models.program import FlatCall
from tasks.models.state import state_of
from tasks.preparation.accuracy_gate import compare, tells_apart
from tasks.preparation.calibration import bearable, calibration_rows
from tasks.preparation.calibration_rows import GENERATED, gate_rows
from tasks.preparation.edge_cases import EdgeCases, edge_cases
from tasks.preparation.trusted import Trust, capped, trust, with_reference
from tasks.protocol.records import TensorSpec
from tasks.snapshots.record import Snapshot, Trial
from worker_config.manifest import ModelEntry

# The first call compiles or packs in every child; nobody waits longer for a worker's start.
FIRST_CALL_SECONDS = 20.0
LEAST_CALLS, LEAST_SECONDS, MOST_SECONDS = 5, 0.4, 3.0
MANY_CALLS, MANY_SECONDS = 100, 0.1
# Of each group: one batch, or part of one, of every executor at a machine's first start.
MOST_EDGE_CASES = 16


@dataclass(frozen=True)
class TellingRows:
    """Rows that an executor can be judged on, and edge cases; `why` there are none, and then empty arrays.

    `of` is how many rows the calibration file has, from which these are taken.
    """

    label: str = ""
    rows: Arrays = field(default_factory=list)
    reference: Arrays = field(default_factory=list)
    why: str = ""
    groups: list[EdgeCases] = field(default_factory=list)
    of: int = 0

    @property
    def seen(self) -> float:
        """The largest absolute value of a float in these rows."""
        return max(map(magnitude, self.rows), default=0.0)


def telling_rows(call: FlatCall, inputs: Sequence[TensorSpec], entry: ModelEntry, batch_rows: int) -> TellingRows:
    """The first rows that the model runs without error and gives different outputs for.

    Args:
        call: the reference: the model as it is.
        inputs: the model's.
        entry: names the calibration file.
        batch_rows: rows in one call.

    Raises:
        ConfigError: the calibration file is not as it should be.
    """
    why = "no rows can be made up for the model's inputs; give some with calibration"
    label, of = GENERATED, 0
    candidates: Iterable[Arrays] = gate_rows(inputs, batch_rows)
    if entry.calibration:
        label = Path(entry.calibration).name
        rows, of = calibration_rows(Path(entry.calibration), inputs)
        candidates = [rows]
    for candidate in candidates:
        if state := state_of(call):
            state.restore()
        try:
            rows = bearable(call, candidate, batch_rows) if of else candidate
            reference = in_batches(call, rows, batch_rows)
        except Exception as error:
            why = f"the model fails on {label} rows: {_line(error)}"
            continue
        why = tells_apart(reference)
        if not why:
            groups = with_reference(edge_cases(inputs, rows, MOST_EDGE_CASES), call, batch_rows)
            return TellingRows(label, rows, reference, groups=groups, of=of)
        why = f"with {label} rows, {why}"
    return TellingRows(why=why)


def try_executor(
    name: str,
    folder: Path,
    snapshot: Snapshot,
    batch_rows: int,
    threads: int,
    telling: TellingRows,
) -> Trial:
    """Build what is not there yet, load, run, compare, measure; never raises an `Exception`.

    Args:
        name: of `EXECUTORS`.
        folder: the snapshot's.
        snapshot: tells the tolerance and agreement that a lower precision is held to.
        batch_rows: rows in one call.
        threads: of TFLite; TensorFlow's own are the process's.
        telling: rows with what the model gives for them.
    """
    executor, entry, rows = EXECUTORS[name], snapshot.entry, telling.rows
    exact = executor.precision == "float32"
    try:
        if executor.build:
            executor.build(folder, snapshot, batch_rows)
        promised = promise(name, snapshot, executor.operators(folder, batch_rows) if executor.operators else ())
        if promised.why:
            return Trial(name, False, why=promised.why)
        warm_up_runtime()
        before = private_bytes()
        call = executor.load(folder, snapshot, batch_rows, threads)
        batch = [_rows(array, 0, batch_rows) for array in rows]
        started = time.process_time()  # another program on the machine must not change what is chosen
        call(batch)
        first = time.process_time() - started
        if name != "graph" and first > FIRST_CALL_SECONDS:
            return Trial(name, False, why=f"its first call takes {first:.0f} s, {FIRST_CALL_SECONDS:.0f} s are allowed")
        outputs = in_batches(call, rows, batch_rows)
        found = compare(
            telling.reference,
            outputs,
            exact=exact,
            tolerance=entry.tolerance,
            agreement=entry.agreement,
        )
        del outputs
        tried = Trial(
            name,
            found.agrees,
            error=found.error,
            agreement=found.agreement,
            why=found.why,
            rows=len(telling.reference[0]),
            classes=found.classes,
        )
        trusted = Trust(found.why)
        if found.agrees and name != "graph":
            trusted = trust(telling.groups, call, batch_rows, exact=exact, seen=telling.seen)
        if trusted.why and name != "graph":
            return replace(tried, agrees=False, why=trusted.why)
        if promised.of_finite:
            trusted = capped(trusted, telling.seen)
        seconds, processor_seconds = _batch_seconds(call, batch)
        give_back()
        return replace(
            tried,
            batch_seconds=seconds,
            own_bytes=max(0, private_bytes() - before),
            processor_seconds=processor_seconds,
            limit=trusted.limit,
            tiny=trusted.tiny,
            unproven=promised.unproven,
        )
    except Exception as error:
        return Trial(name, False, why=_line(error))


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


def _batch_seconds(call: FlatCall, batch: Arrays) -> tuple[float, float]:
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


def _rows(array: np.ndarray[Any, Any], start: int, count: int) -> np.ndarray[Any, Any]:
    """`count` rows, the last one repeated where there are not so many."""
    if not array.ndim:
        return array
    return np.ascontiguousarray(array[np.minimum(np.arange(start, start + count), len(array) - 1)])


def _line(error: BaseException) -> str:
    """What happened, in one line of at most 300 characters, without the converter's stack of source lines."""
    found = re.search(r"error: (.+)", str(error))
    line = found[1].strip() if found else telling_line(error)
    return f"{type(error).__name__}: {line}"[:300] if line else type(error).__name__
