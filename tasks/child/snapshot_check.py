"""Holds a child's model to what its snapshot was when the worker started: its files, and what it gives for known rows.

stamps of the files --others than at the worker's start?--> SHA-256 of these files
first batch of the rows of the gate --executor--> other outputs than the model's? --> SHA-256 of all, then refused
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.accuracy.accuracy_gate import is_equal
from tasks.preparation.reference import FILE, GateRows, compared, read_reference
from tasks.preparation.serving_spec import ServingSpec
from tasks.protocol.signature import Arrays
from tasks.snapshots.file_stamps import Stamp, check_changed
from worker_config.errors import ModelLoadError

Array = np.ndarray[Any, Any]


def check_files(served: ServingSpec, stamps: Mapping[str, Stamp] | None = None) -> None:
    """Make sure that the snapshot's files are as they were; those whose stamps are the same are not read.

    `stamps` are those of the worker's start, unless others are given; an empty mapping has all files read.

    Raises:
        ModelLoadError: they are not.
    """
    try:
        check_changed(Path(served.folder), served.files, served.stamps if stamps is None else stamps)
    except ValueError as error:
        raise _refused(served, str(error)) from None


def known_rows(served: ServingSpec) -> GateRows:
    """Rows that the model is known to take, with its own outputs for them; none where it has no such.

    Raises:
        ModelLoadError: the file that has them is damaged.
    """
    if FILE not in served.files:
        return GateRows()
    try:
        return read_reference(Path(served.folder))
    except Exception as error:
        check_files(served, {})
        raise _refused(served, f"its rows of the gate cannot be read ({error})") from None


def check_outputs(served: ServingSpec, known: GateRows, outputs: Arrays) -> None:
    """Hold outputs for the first of the known rows against what the model itself gave for them.

    To the bit for the model's own graph, which made them; where the processor is another one, and for other executors,
    within what the gate allows. Nothing can be said where more than the row counts.

    Raises:
        ModelLoadError: they are others.
    """
    snapshot, trial = served.snapshot, served.trial
    if not snapshot or not known.reference or snapshot.dependence or snapshot.state:
        return
    got = [outputs[spec.name] for spec in snapshot.outputs]
    pairs = list(zip(known.reference, got, strict=True))
    is_graph = served.executor == "graph"
    if is_graph and all(is_equal(wanted[: len(array)], array) for wanted, array in pairs):
        return
    # The spread, and the agreement, are those of all rows.
    replaced = [_first_replaced(wanted, array) for wanted, array in pairs]
    found = compared(known, served.executor, served.entry, replaced)
    if is_graph or not found.agrees:
        check_files(served, {})
    if not found.agrees and (trial is None or trial.agrees):
        raise _refused(served, f"on known rows, {found.why}")


def _first_replaced(wanted: Array, first: Array) -> Array:
    """All rows, of which the first ones are those of an executor; these alone where they are of another form."""
    if wanted.dtype != first.dtype or wanted.shape[1:] != first.shape[1:]:
        return first
    return np.concatenate([first, wanted[len(first) :]])


def _refused(served: ServingSpec, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"its snapshot {served.folder} is not what it was when the worker started: {why}; remove that folder and start "
        "the worker again, which makes it anew"
    )
