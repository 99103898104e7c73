"""Runs the frozen graph with its large products in bfloat16, where the processor has instructions for it.

    frozen graph --grappler: mixed precision, constant folding--> bfloat16.pb --import--> call

The graph is rewritten once, when it is built: as an option of TensorFlow's, grappler's mixed precision would reach all
models of a process. Folding turns the weights themselves into bfloat16, half the bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.executors.frozen import freeze, load_graph, write_graph
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.state import all_nodes
from tasks.snapshots.record import BUILT, Snapshot

FILE = f"{BUILT}/bfloat16.pb"
CONSTANTS = f"{BUILT}/bfloat16.bin"  # where `write_graph` puts them


def build(folder: Path, snapshot: Snapshot, batch_rows: int, rows: FlatArrays) -> None:
    """Write the rewritten graph; raises ValueError where nothing in the graph can be computed in bfloat16 here."""
    if (folder / FILE).exists():
        return
    function = freeze(folder, snapshot, None)
    rewritten = _rewritten(function)
    if not _uses_bfloat16(rewritten):
        raise ValueError("nothing in the model is computed in bfloat16 on this processor")
    for node in rewritten.node:
        if node.op == "Const":
            # What was folded still waits for what it was folded from; loops, where that matters, are functions here.
            del node.input[:]
    write_graph(folder / FILE, rewritten, function)


def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
    """The rewritten graph, of any batch."""
    return load_graph(folder / FILE, snapshot)


def _rewritten(function: Any) -> Any:
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
    from tensorflow.python.grappler.tf_optimizer import OptimizeGraph

    graph = function.graph
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    fetched = [tensor.name for tensor in (*function.inputs, *function.outputs)]
    meta.collection_def["train_op"].node_list.value.extend(fetched)  # what grappler must keep
    config = ConfigProto()
    options = config.graph_options.rewrite_options
    options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    options.constant_folding = RewriterConfig.ON
    # Fused operations of one processor do not belong into a file; TensorFlow fuses when it loads.
    options.remapping = RewriterConfig.OFF
    options.layout_optimizer = RewriterConfig.OFF
    options.min_graph_nodes = -1  # small graphs too
    # Casts of weights appear in the first round and are folded in the second.
    options.meta_optimizer_iterations = RewriterConfig.TWO
    return OptimizeGraph(config, meta)


def _uses_bfloat16(graph_def: Any) -> bool:
    import tensorflow as tf

    wanted = tf.bfloat16.as_datatype_enum
    return any(node.op == "Cast" and node.attr["DstT"].type == wanted for node in all_nodes(graph_def))
