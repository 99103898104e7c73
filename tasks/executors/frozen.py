"""Runs the graph with its small weights as constants, which TensorFlow folds and fuses when it loads.

    signature --inline, variables to constants--> frozen.pb, frozen.json --import--> call
                             --large constants--> frozen.bin --map--> fed to it

The batch stays free: measured, a graph of fixed batch is no faster; nor is one whose large weights are constants, which
takes 15 times their size in each child.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tasks.executors import graph
from tasks.models.formats.graph_def import lift_constants, name_functions_apart
from tasks.models.program import FlatArrays, FlatCall, list_call
from tasks.snapshots.record import BUILT, Snapshot, Weight
from tasks.snapshots.weights import map_arrays, write_arrays
from worker_config.decodable import decodable
from worker_config.files import write_whole

FILE = f"{BUILT}/frozen.pb"
CONSTANTS = f"{BUILT}/frozen.bin"  # where `write_graph` puts them


class Ends(msgspec.Struct, frozen=True):
    """Names of a graph's tensors: what is fed, and what comes out, in their order."""

    inputs: list[str]
    outputs: list[str]


def ends_of(function: Any) -> Ends:
    """Those of a concrete function."""
    return Ends(*([tensor.name for tensor in some] for some in (function.inputs, function.outputs)))


class _LiftedEnds(Ends, frozen=True):
    constants: list[Weight]  # that stand in a file of their own


def build(folder: Path, snapshot: Snapshot, batch_rows: int, rows: FlatArrays) -> None:
    """Write the frozen graph, and the names of its inputs and outputs.

    Raises:
        ValueError: something in the graph has no form as a constant, such as a lookup table.
    """
    if not (folder / FILE).exists():
        function = freeze(folder, snapshot, None)
        write_graph(folder / FILE, function.graph.as_graph_def(), function)


def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
    """The frozen graph, of any batch."""
    return load_graph(folder / FILE, snapshot)


def freeze(folder: Path, snapshot: Snapshot, batch_rows: int | None) -> Any:
    """The signature as a concrete function without variables; its batch free, or of `batch_rows` rows.

    Raises:
        ValueError: something in the graph has no form as a constant.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function, _saved = graph.listed(folder, snapshot, batch_rows)
    # Loops stay whole: neither grappler nor TFLite gets far with the lowered ones.
    return convert_variables_to_constants_v2(function, lower_control_flow=False)


def write_graph(path: Path, graph_def: Any, function: Any) -> None:
    """Write a graph, its large constants and the names of its ends; a graph that is there is whole. Changes the graph.

    The constants come into a file of their own, as the snapshot's weights, so that processes share them. The ends are
    those of a concrete function.
    """
    path.parent.mkdir(exist_ok=True)
    name_functions_apart(graph_def)
    constants = write_arrays(path.with_suffix(".bin"), lift_constants(graph_def).items())
    ends = _LiftedEnds(**msgspec.structs.asdict(ends_of(function)), constants=constants)
    path.with_suffix(".json").write_bytes(msgspec.json.encode(ends))
    write_whole(path, graph_def.SerializeToString())


def load_graph(path: Path, snapshot: Snapshot) -> FlatCall:
    """A call of a graph that `write_graph` wrote for this snapshot."""
    import tensorflow as tf

    ends = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=decodable(_LiftedEnds))
    constants = map_arrays(path.with_suffix(".bin"), ends.constants)
    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    fed = [*ends.inputs, *(constant.name for constant in ends.constants)]
    inputs, outputs = ([whole.graph.as_graph_element(name) for name in names] for names in (fed, ends.outputs))
    pruned = whole.prune(inputs, outputs)
    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in snapshot.inputs]
    # Measured: a call of the pruned function itself has 1.3 ms of overhead and more, from inside another 0.1 ms.
    outer = tf.function(lambda *tensors: pruned(*tensors, *constants), input_signature=specs, autograph=False)
    call = list_call(outer.get_concrete_function())
    call.keep = pruned  # type: ignore[attr-defined] # its graph's functions live as long as it does
    return call
