"""The rows of the gate: rows that tell executors apart, and edge cases, with what the model itself gives for them.

calibration file, or rows made up --model--> outputs that tell rows apart, edge cases --> reference.bin --> trials
the same rows, as many as time allows --model in float64--> truth ------------------------^
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from tasks.accuracy.accuracy_gate import Comparison, compare, tells_apart
from tasks.accuracy.edge_cases import EdgeCases, edge_cases
from tasks.accuracy.rounding import Bound, apart_by_size, bounds, no_measure
from tasks.executors import EXECUTORS, float64
from tasks.models.batches import in_batches
from tasks.models.error_text import converter_line, typed_line
from tasks.models.finite import is_float, magnitude
from tasks.models.program import FlatArrays, FlatCall, row_bytes_of
from tasks.models.state import state_of
from tasks.preparation.calibration import bearable, calibration_rows
from tasks.preparation.candidates import why_own_graph
from tasks.preparation.generated_rows import GENERATED, generated_rows
from tasks.preparation.input_limits import with_reference
from tasks.protocol import codec
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import blank_rows
from tasks.snapshots.record import Snapshot
from worker_config.manifest import ModelEntry

FILE = "reference.bin"
# Of each group: one batch, or part of one, of every executor at a machine's first start.
MOST_EDGE_CASES = 16
# For people, of a model without rows that are known to go through it.
UNWARMED = "its first batch warms it up"
# They are some dozen rows all together, with as many outputs, and stand in one payload.
MOST_ROW_BYTES = 16 * 2**20
# Of the model in float64, which takes some times as long: rows that are run at once, and all of them together.
TRUTH_ROWS = 8
TRUTH_SECONDS = 30.0
TRUTH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class GateRows:
    """Rows that an executor can be judged on, and edge cases; or `why` there are none.

    There is no `reference` then, and `rows` are a batch that the model takes, if any is known.

    Attributes:
        of: how many rows the calibration file has, from which these are taken.
        truth: the outputs in float64, of the first rows alone where all would take too long; or
        no_truth: why there are none.
        left: operations that were computed in lower precision there.
        noise: by output, how far the own graph is from itself in other batches, in units of the output's size.
    """

    label: str = ""
    rows: FlatArrays = field(default_factory=list)
    reference: FlatArrays = field(default_factory=list)
    why: str = ""
    groups: list[EdgeCases] = field(default_factory=list)
    of: int = 0
    truth: FlatArrays = field(default_factory=list)
    no_truth: str = "it was not computed"
    left: list[str] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    @property
    def bounds(self) -> list[Bound]:
        """What each output of a float32 executor is held to."""
        return bounds(self.reference, self.truth, self.noise)

    @property
    def seen(self) -> float:
        """The largest absolute value of a float in these rows."""
        return max(map(magnitude, self.rows), default=0.0)


def gate_rows(call: FlatCall, inputs: Sequence[TensorSpec], entry: ModelEntry, batch_rows: int) -> GateRows:
    """The first rows that the model runs without error and gives different outputs for.

    Raises:
        ConfigError: the calibration file is not as it should be.
    """
    row_bytes = row_bytes_of(inputs)
    if row_bytes > MOST_ROW_BYTES:
        return GateRows(why=f"its rows have {row_bytes / 2**20:,.0f} MiB each, too many to try executors on")
    why = "no rows can be made up for the model's inputs; give some with calibration"
    label, of = GENERATED, 0
    taken: FlatArrays = []
    candidates: Iterable[FlatArrays] = generated_rows(inputs, batch_rows)
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
            why = f"the model fails on {label} rows: {converter_line(error)}"
            continue
        taken = [array[:batch_rows] for array in rows]
        why = tells_apart(reference)
        if not why:
            groups = with_reference(edge_cases(inputs, rows, MOST_EDGE_CASES), call, batch_rows)
            return GateRows(label, rows, reference, groups=groups, of=of)
        why = f"with {label} rows, {why}"
    if not taken:
        if unwarmed := refusal_of_blank_rows(call, inputs, batch_rows):
            why = f"{why}; {unwarmed}"
        else:
            taken = list(blank_rows(inputs).values())
    return GateRows(why=why, rows=taken)


def refusal_of_blank_rows(call: FlatCall, inputs: Sequence[TensorSpec], batch_rows: int) -> str:
    """That they do not warm the model up, and why; empty where they do."""
    if any(size is None for spec in inputs for size in spec.shape[1:]):
        return UNWARMED  # of a free shape none is sure to be valid
    try:
        in_batches(call, list(blank_rows(inputs).values()), batch_rows)
    except Exception as error:
        return refusal_of("blank", error)
    return ""


def refusal_of(kind: str, error: Exception) -> str:
    """That a model refuses such rows, by its own words, so that they do not warm it up."""
    return f"{UNWARMED}, as it refuses {kind} rows ({typed_line(error)})"


def compared(known: GateRows, executor: str, entry: ModelEntry, outputs: Sequence[np.ndarray[Any, Any]]) -> Comparison:
    """Hold an executor's outputs for the rows against what the model's entry asks of its precision."""
    exact = EXECUTORS[executor].precision == "float32"
    tolerance = entry.float32_tolerance if exact else entry.tolerance
    asked = {"tolerance": tolerance, "agreement": entry.agreement}
    return compare(known.reference, outputs, exact=exact, bounds=known.bounds, **asked)


def make_reference(folder: Path, snapshot: Snapshot, call: FlatCall, batch_rows: int) -> None:
    """Write what `gate_rows` finds, and how far the model is from itself in other batches.

    Raises:
        ConfigError: the calibration file does not fit the model.
    """
    found = gate_rows(call, snapshot.inputs, snapshot.entry, batch_rows)
    if found.reference and not why_own_graph(snapshot, snapshot.entry):
        found = replace(found, noise=_noise(found, call, batch_rows))
    _write(folder, found)


def _noise(found: GateRows, call: FlatCall, batch_rows: int) -> list[float]:
    """By output, the largest distance of the first batch from the same rows in reverse, and in halves of a batch."""
    noise = [0.0] * len(found.reference)
    rows = [array[:batch_rows] for array in found.rows]
    for step, size in ((-1, batch_rows), (1, max(1, batch_rows // 2))):
        with suppress(Exception):  # it may take no other batch
            outputs = in_batches(call, [np.ascontiguousarray(array[::step]) for array in rows], size)
            for number, (wanted, got) in enumerate(zip(found.reference, outputs, strict=True)):
                if is_float(wanted):
                    noise[number] = max(noise[number], apart_by_size(wanted[: len(got)], got[::step]))
    return noise


def add_truth(folder: Path, snapshot: Snapshot) -> None:
    """Add what the model gives in float64 to what `make_reference` wrote; or why that cannot be known.

    To be run in a process of its own: it may take much time and memory, and end for want of either.
    """
    found = read_reference(folder)
    try:
        call, left = float64.load(folder, snapshot)
        truth = _in_time(call, found)
        if not (why := no_measure(found.reference, truth)):
            groups = [_with_truth(group, call) for group in found.groups]
            found = replace(found, truth=truth, no_truth="", left=left, groups=groups)
    except Exception as error:
        why = converter_line(error)
    _write(folder, replace(found, no_truth=why))


def _in_time(call: FlatCall, found: GateRows) -> FlatArrays:
    """The outputs for all rows, or for as many of the first as time and memory allow."""
    parts: list[FlatArrays] = []
    started = time.process_time()
    for start in range(0, len(found.reference[0]), TRUTH_ROWS):
        parts.append(_wide(in_batches(call, [array[start : start + TRUTH_ROWS] for array in found.rows], TRUTH_ROWS)))
        size = sum(array.nbytes for array in parts[0]) * (len(parts) + 1)
        if time.process_time() - started > TRUTH_SECONDS or size > TRUTH_BYTES:
            break
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _with_truth(group: EdgeCases, call: FlatCall) -> EdgeCases:
    with suppress(Exception):  # the executor then has to be like the own graph
        return msgspec.structs.replace(group, truth=_wide(in_batches(call, group.rows, TRUTH_ROWS)))
    return group


def _wide(outputs: FlatArrays) -> FlatArrays:
    """Floats in float64, though one comes from an operation that was left in float32."""
    return [array.astype(np.float64) if is_float(array) and array.dtype.kind != "c" else array for array in outputs]


def note_no_truth(folder: Path, why: str) -> None:
    """Say why nothing is known in float64 in what `make_reference` wrote."""
    _write(folder, replace(read_reference(folder), no_truth=why))


def _write(folder: Path, found: GateRows) -> None:
    tree = {**vars(found), "groups": [msgspec.structs.asdict(group) for group in found.groups]}
    (folder / FILE).write_bytes(codec.encode(cast("codec.Tree", tree)))


def read_reference(folder: Path) -> GateRows:
    """What `make_reference` wrote; raises PayloadError, OSError where it is damaged or missing."""
    tree = cast("dict[str, Any]", codec.decode((folder / FILE).read_bytes()))
    return GateRows(**{**tree, "groups": [EdgeCases(**group) for group in tree["groups"]]})
