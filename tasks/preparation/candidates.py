"""Which executors are worth a trial for a model, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection

from tasks.executors import EXECUTORS
from tasks.executors.operation_table import CONVERTERS, RUNTIMES, judge
from tasks.snapshots.installed import installed, tensorflow_version
from tasks.snapshots.record import Snapshot
from worker_config.manifest import ModelEntry

# A protobuf message, and so a frozen graph or a TFLite file, holds at most 2 GB; some are larger than the weights.
MOST_CONSTANT_BYTES = 1_500_000_000

# Memory that building one takes at most, in units of the weights: TensorFlow and its converters hold them many times at
# once. Measured with 176 MB of weights and TensorFlow 2.21.
_BUILT_IN = {"frozen": 12, "tflite": 25, "int8": 25, "bfloat16": 27}
_BUILT_IN |= dict.fromkeys(("openvino", "openvino_bfloat16", "openvino_int8"), 13)

# By what each cannot do.
_OWN_WEIGHTS = frozenset(name for name, executor in EXECUTORS.items() if not executor.mapped)
_ALL_CONSTANTS = frozenset(EXECUTORS) - {"graph", "xla"}
_FIXED_SHAPE = frozenset(EXECUTORS) - {"graph", "frozen"}
_CPU_ONLY = frozenset(EXECUTORS) - {"graph", "xla", "frozen"}


def candidates(snapshot: Snapshot, entry: ModelEntry, gpus: int) -> tuple[list[str], dict[str, str]]:
    """The executors to try, "graph" first, and by name why one is left out.

    In neither are a lower precision that the manifest does not list, and what needs a package that is not installed. A
    copied snapshot has no executors.
    """
    if snapshot.kind != "mapped":
        return [], {}
    wanted = {"float32", *entry.precision}
    names = [name for name, one in EXECUTORS.items() if one.precision in wanted and _is_installed(name)]
    reasons: dict[str, str] = {}

    def leave_out(which: Collection[str], why: str) -> None:
        reasons.update((name, why) for name in names if why and name in which and name not in reasons)

    leave_out(names[1:], why_own_graph(snapshot, entry))
    if entry.prefer == "memory":
        leave_out(_OWN_WEIGHTS, "each child would have its own copy of the weights, and memory is preferred")
    if gpus:
        leave_out(_CPU_ONLY, "it runs on the processor alone, and there is a GPU")
    if any(spec.dtype == "string" for spec in (*snapshot.inputs, *snapshot.outputs)):
        leave_out(names[1:], "the model takes or gives strings")
    if any(None in spec.shape[1:] for spec in snapshot.inputs):
        leave_out(_FIXED_SHAPE, "the model's inputs have sizes that are free, besides the rows")
    if snapshot.weight_bytes > MOST_CONSTANT_BYTES:
        size = f"{snapshot.weight_bytes / 1e9:.1f} GB"
        leave_out(_ALL_CONSTANTS, f"{size} of weights do not fit into a graph as constants")
    for name in names[1:]:
        leave_out([name], judge(name, snapshot.operations, tensorflow=snapshot.tensorflow).refusal)
    return [name for name in names if name not in reasons], reasons


def without_room(names: Collection[str], weight_bytes: int, room_bytes: int) -> dict[str, int]:
    """By name, the bytes that executors take while they are built, of those for which there is no room."""
    taken = {name: _BUILT_IN.get(name, 0) * weight_bytes for name in names}
    return {name: size for name, size in taken.items() if size > room_bytes}


def _is_installed(name: str) -> bool:
    needed = (RUNTIMES, CONVERTERS) if tensorflow_version() else (RUNTIMES,)  # without it nothing is converted
    return all(installed(packages[name]) for packages in needed if name in packages)


def why_own_graph(snapshot: Snapshot, entry: ModelEntry) -> str:
    """Why no other executor may run the model: it keeps state, or its rows are not independent; empty where one may."""
    if snapshot.state:
        return "the model writes to its variables, which its own graph alone keeps"
    if snapshot.dependence:
        return "its rows are not independent"
    return "" if entry.independent_rows else "its rows are not independent, as the manifest says"
