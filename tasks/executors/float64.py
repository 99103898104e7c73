"""Runs the model in float64: the measure of what rounding does, in its own graph as in executors.

    signature --freeze--> constants --widen--> graph in float64 --import--> call

It is slow, and nothing but the gate asks for it, so that its files are gone when it is loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tasks.accuracy.widened import widen
from tasks.executors.frozen import freeze, load_graph, write_graph
from tasks.models.memory import available_bytes
from tasks.models.program import FlatCall
from tasks.snapshots.record import Snapshot

# In the snapshot's folder, while it is loaded.
PLACE = "float64"
# A protobuf message holds at most 2 GB.
MOST_CONSTANT_BYTES = 1_500_000_000
# Times the weights: copies while the graph is frozen, and twice the bytes of each while it runs.
COPIES = 11


def load(folder: Path, snapshot: Snapshot) -> tuple[FlatCall, list[str]]:
    """The graph in float64, of any batch, and the operations that are left in lower precision.

    It takes what the model takes; floats that it gives are float64, but for those that such an operation gives.

    Raises:
        ValueError: the graph has no form as constants, there is nothing to widen, or not memory enough.
    """
    import tensorflow as tf

    if snapshot.weight_bytes > MOST_CONSTANT_BYTES or COPIES * snapshot.weight_bytes > available_bytes():
        raise ValueError(f"its weights, {snapshot.weight_bytes / 1e9:.1f} GB, are too large to be held in float64")
    function = freeze(folder, snapshot, None)
    graph_def: Any = function.graph.as_graph_def()
    left = widen(graph_def)
    path = folder / PLACE / "graph.pb"
    try:
        write_graph(path, graph_def, function)
        with tf.device("/CPU:0"):
            return load_graph(path, snapshot), left
    finally:
        shutil.rmtree(path.parent)
