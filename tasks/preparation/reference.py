"""The rows of the gate: rows that tell executors apart, and edge cases, with what the model itself gives for them.

calibration file, or rows made up --model--> outputs that tell rows apart, edge cases --> reference.bin --> trials
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from tasks.models.batches import in_batches
from tasks.models.error_text import converter_line, typed_line
from tasks.models.finite import magnitude
from tasks.models.program import FlatArrays, FlatCall, row_bytes_of
from tasks.models.state import state_of
from tasks.preparation.accuracy_gate import tells_apart
from tasks.preparation.calibration import bearable, calibration_rows
from tasks.preparation.edge_cases import EdgeCases, edge_cases
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


@dataclass(frozen=True)
class GateRows:
    """Rows that an executor can be judged on, and edge cases; or `why` there are none.

    There is no `reference` then, and `rows` are a batch that the model takes, if any is known.

    `of` is how many rows the calibration file has, from which these are taken.
    """

    label: str = ""
    rows: FlatArrays = field(default_factory=list)
    reference: FlatArrays = field(default_factory=list)
    why: str = ""
    groups: list[EdgeCases] = field(default_factory=list)
    of: int = 0

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


def make_reference(folder: Path, snapshot: Snapshot, call: FlatCall, batch_rows: int) -> None:
    """Write what `gate_rows` finds.

    Raises:
        ConfigError: the calibration file does not fit the model.
    """
    found = gate_rows(call, snapshot.inputs, snapshot.entry, batch_rows)
    tree = {**vars(found), "groups": [msgspec.structs.asdict(group) for group in found.groups]}
    (folder / FILE).write_bytes(codec.encode(cast("codec.Tree", tree)))


def read_reference(folder: Path) -> GateRows:
    """What `make_reference` wrote.

    Raises:
        PayloadError, OSError: it is damaged or missing.
    """
    tree = cast("dict[str, Any]", codec.decode((folder / FILE).read_bytes()))
    return GateRows(**{**tree, "groups": [EdgeCases(**group) for group in tree["groups"]]})
