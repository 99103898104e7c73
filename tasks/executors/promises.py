"""Whether an executor keeps what a model's operations promise, by the table that the sweep has made.

    operations and hazards of a snapshot --table--> why the executor is not for this model, or what to look after

"Finite" in the table means: equal as long as all numbers are finite. Rows that are not are found before they run; where
the graph itself may make such numbers of finite rows, the executor is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from tasks.executors.graph_bodies import graph_bodies
from tasks.executors.hazards import constant_values, hazards
from tasks.executors.operations import judge, operations_of
from tasks.snapshots.record import Snapshot

_NAMED = 3


class Promise(msgspec.Struct, frozen=True):
    """What is known of an executor and a model, before or beside any trial.

    Attributes:
        why: it is not used for the model; empty where it may be.
        of_finite: whether it is equal on finite rows of moderate size alone, as far as is known.
        unproven: operations of which the table knows nothing.
    """

    why: str = ""
    of_finite: bool = False
    unproven: list[str] = []


def examined(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot's record with the operations of its graph, and its hazards.

    Args:
        snapshot: of kind "mapped".
        folder: where its model is.
    """
    operations = sorted(operations_of(folder / "model"))
    return msgspec.structs.replace(
        snapshot, operations=operations, hazards=list(hazards(graph_bodies(folder), constant_values))
    )


def promise(executor: str, snapshot: Snapshot, tflite_operators: Collection[str] = ()) -> Promise:
    """What the table says.

    Args:
        executor: a name of `EXECUTORS`.
        snapshot: tells the operations of the model and its hazards.
        tflite_operators: of the converted model, where the executor is one of TFLite and has been built.
    """
    verdict = judge(executor, snapshot.operations, tflite_operators, tensorflow=snapshot.tensorflow)
    names = _names(verdict.because)
    if verdict.level == "no":
        return Promise(f"it does not give what the model gives for {names}")
    if verdict.level == "finite" and snapshot.hazards:
        of = _names(snapshot.hazards)
        return Promise(f"{names} would give other values for what is not finite, which may come of {of}")
    return Promise("", verdict.level == "finite" or bool(verdict.unknown), list(verdict.unknown))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
