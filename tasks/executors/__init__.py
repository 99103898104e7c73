"""The ways to run a snapshot's model, and what is known of them; `tasks/preparation` chooses one.

    graph_operations --operations--> operation_table.judge      EXECUTORS[name].build, .load --> a call in a child

graph       the SavedModel's own graph on mapped weights: what all others are held against
xla         the same graph, compiled for one batch; mapped weights
frozen      all but the large weights are constants of the graph, which TensorFlow can fold and fuse; mapped weights
tflite      TFLite with XNNPACK; mapped weights, as it packs them for its kernels
openvino    OpenVINO, where it is installed: weights packed for its kernels, a copy in each child
bfloat16    the frozen graph with its large products in bfloat16: half the weights, mapped, another rounding
openvino_bfloat16   OpenVINO in bfloat16
int8        TFLite with weights of 8 bits: a quarter of the weights, another rounding
openvino_int8       OpenVINO with weights and activations of 8 bits, where NNCF is installed to quantise them

float64 (widened) runs it once, for `rounding` to measure the others by; no child does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.executors import bfloat16, frozen, graph, xla
from tasks.executors.openvino_ir import Compiled
from tasks.executors.tflite import Converted
from tasks.models.program import FlatArrays, FlatCall
from tasks.snapshots.record import WEIGHTS, Snapshot


@dataclass(frozen=True)
class Executor:
    """One way to run a model.

    Attributes:
        mapped: the file of weights that all children of a machine map; empty where each has its own. A model for which
            it cannot be written has copies, too.
        precision: what it computes in: "float32" keeps the model's own.
        build: (folder, snapshot, batch_rows, rows): write what `load` needs into the folder, in a process of its own;
            what is there already stays. `rows` are typical, an array for each input. None where the snapshot is enough.
        load: (folder, snapshot, batch_rows, threads) -> a call, fast for `batch_rows` rows, of any number of rows.
            It takes and gives arrays in the order of the snapshot's inputs and outputs; what it gives is the caller's.
        operators: (folder): the operators that building has made of the graph's operations, where they are
            others.
        needs_tensorflow: whether `load` and its calls do; building does, always.
        is_calibrated: whether it cuts off numbers that are larger than in the rows that it was built with.
    """

    mapped: str
    precision: str
    build: Callable[[Path, Snapshot, int, FlatArrays], None] | None
    load: Callable[[Path, Snapshot, int, int], FlatCall]
    operators: Callable[[Path], list[str]] | None = None
    needs_tensorflow: bool = True
    is_calibrated: bool = False


_OPENVINO, _OPENVINO_BFLOAT16 = Compiled("openvino"), Compiled("openvino_bfloat16", "bf16")
_OPENVINO_INT8 = Compiled("openvino_int8", is_quantised=True)
_TFLITE, _INT8 = Converted("tflite"), Converted("int8", is_quantised=True)

EXECUTORS: dict[str, Executor] = {
    "graph": Executor(mapped=WEIGHTS, precision="float32", build=None, load=graph.load),
    "xla": Executor(mapped=WEIGHTS, precision="float32", build=None, load=xla.load),
    "frozen": Executor(mapped=frozen.CONSTANTS, precision="float32", build=frozen.build, load=frozen.load),
    "tflite": Executor(_TFLITE.packed, "float32", _TFLITE.build, _TFLITE.load, _TFLITE.operators, False),
    "openvino": Executor("", "float32", _OPENVINO.build, _OPENVINO.load, None, False),
    "bfloat16": Executor(mapped=bfloat16.CONSTANTS, precision="bfloat16", build=bfloat16.build, load=bfloat16.load),
    "openvino_bfloat16": Executor("", "bfloat16", _OPENVINO_BFLOAT16.build, _OPENVINO_BFLOAT16.load, None, False),
    "int8": Executor(_INT8.packed, "int8", _INT8.build, _INT8.load, _INT8.operators, False),
    "openvino_int8": Executor("", "int8", _OPENVINO_INT8.build, _OPENVINO_INT8.load, None, False, True),
}
