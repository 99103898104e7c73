"""The model in TFLite, whose XNNPACK kernels are made for one fixed batch; in float32 or int8.

    signature of fixed batch --freeze--> constants --convert--> tflite-ROWS.tflite --interpreter--> call

XNNPACK packs the weights when it loads: each child has its own, one for batches of all sizes. For a smaller batch the
interpreter is resized, which takes 0.2 ms. Conversion starts from the frozen function, because that of a Keras 3 model,
as it is, can give NaN without a word.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.executors.frozen import freeze
from tasks.models.batches import in_batches
from tasks.models.program import FlatCall
from tasks.models.stderr_filter import hushed
from tasks.snapshots.record import BUILT, Snapshot
from worker_config.files import write_whole


@dataclass(frozen=True)
class Converted:
    """A way to convert models, as the functions of an `Executor`.

    Attributes:
        name: of the executor, and of its files.
        is_quantised: whether weights have 8 bits; activations are quantised as they come ("dynamic range").
    """

    name: str
    is_quantised: bool = False

    def build(self, folder: Path, snapshot: Snapshot, batch_rows: int) -> None:
        """Convert.

        Raises:
            Exception: an operation of the graph is not one of TFLite's.
        """
        import tensorflow as tf

        path = self._file(folder, batch_rows)
        if path.exists():
            return
        converter = tf.lite.TFLiteConverter.from_concrete_functions([freeze(folder, snapshot, batch_rows)])
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if self.is_quantised else []
        path.parent.mkdir(exist_ok=True)
        write_whole(path, _with_free_reshapes(converter.convert()))

    def load(self, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
        """An interpreter of the converted model."""
        return _load(self._file(folder, batch_rows), batch_rows, len(snapshot.inputs), threads)

    def operators(self, folder: Path, batch_rows: int) -> list[str]:
        """The converted model's builtin operators, each with the activation that is fused into it: `ADD+RELU`."""
        return _operators(self._file(folder, batch_rows))

    def _file(self, folder: Path, batch_rows: int) -> Path:
        return folder / BUILT / f"{self.name}-{batch_rows}.tflite"


def _with_free_reshapes(converted: bytes) -> bytes:
    """The same model, in which the first size of what is reshaped follows from the others.

    It was converted for a fixed batch, whose rows would stand there as a number.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = bytearray(converted)
    model = schema.Model.GetRootAsModel(data, 0)
    uses: dict[int, set[tuple[int, int]]] = {}  # of each buffer: operators, and as which of their inputs
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            for place in range(operator.InputsLength()):
                if (tensor := operator.Inputs(place)) >= 0:
                    uses.setdefault(graph.Tensors(tensor).Buffer(), set()).add((kind, place))
    for buffer, of in uses.items():
        if of == {(schema.BuiltinOperator.RESHAPE, 1)} and model.Buffers(buffer).DataLength():
            sizes = model.Buffers(buffer).DataAsNumpy().view(np.int32)  # in `data` itself
            if (sizes > 0).all():
                sizes[0] = -1
    return bytes(data)


def _operators(path: Path) -> list[str]:
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    fused = {number: name for name, number in vars(schema.ActivationFunctionType).items() if not name.startswith("_")}
    found = set()
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            code = model.operatorCodes[operator.opcodeIndex]
            # The older field has room for 127 operators alone.
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
            found.add(f"{name}+{fused[activation]}" if activation else name)
    return sorted(found)


def _load(path: Path, batch_rows: int, inputs: int, threads: int) -> FlatCall:
    import tensorflow as tf

    with hushed(), warnings.catch_warnings():  # it announces its move to another package
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    places = _places(interpreter, inputs)
    results = [detail["index"] for detail in interpreter.get_output_details()]

    rows_now = batch_rows

    def resize(arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        nonlocal rows_now
        if len(arrays[0]) == rows_now:
            return
        rows_now = 0  # should it fail
        for number, index in places.items():
            interpreter.resize_tensor_input(index, arrays[number].shape)
        interpreter.allocate_tensors()
        rows_now = len(arrays[0])

    def batch(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        resize(arrays)
        for number, index in places.items():
            interpreter.set_tensor(index, arrays[number])
        interpreter.invoke()
        # A copy each; views of the interpreter's own memory would save it, but change with the next call.
        return [interpreter.get_tensor(index) for index in results]

    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        fits = len(arrays[0]) <= batch_rows
        if fits:
            try:
                resize(arrays)
            except RuntimeError:  # the batch still stands as a number inside
                fits = False
        return batch(arrays) if fits else in_batches(batch, list(arrays), batch_rows)

    return call


def _places(interpreter: Any, inputs: int) -> dict[int, int]:
    """The interpreter's index of each input that the model reads, by its number."""
    places = {}
    for detail in interpreter.get_input_details():
        found = re.search(r"input_(\d+)(:\d+)?$", detail["name"])
        if not found or int(found[1]) >= inputs:
            raise ValueError(f"the converted model has an input {detail['name']!r} that is none of the model's")
        places[int(found[1])] = detail["index"]
    return places
