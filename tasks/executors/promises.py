"""Whether an executor keeps what a model's operations promise, by the table that the sweep has made.

    operations of a snapshot --table--> why the executor is not for this model, or what to look after

"Finite" in the table means: equal as long as all numbers are finite. Rows that are not are found before they run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from tasks.executors.operations import judge
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


def promise(executor: str, snapshot: Snapshot, tflite_operators: Collection[str] = ()) -> Promise:
    """What the table says.

    Args:
        executor: a name of `EXECUTORS`.
        snapshot: tells the operations of the model.
        tflite_operators: of the converted model, where the executor is one of TFLite and has been built.
    """
    verdict = judge(executor, snapshot.operations, tflite_operators, tensorflow=snapshot.tensorflow)
    names = _names(verdict.because)
    if verdict.level == "no":
        return Promise(f"it does not give what the model gives for {names}")
    return Promise("", verdict.level == "finite" or bool(verdict.unknown), list(verdict.unknown))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
