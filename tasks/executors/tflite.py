"""The model in TFLite, whose XNNPACK kernels are made for one fixed batch; in float32 or int8.

    signature of fixed batch --freeze--> constants --convert--> NAME.tflite --LiteRT--> call
                                         --XNNPACK's weight cache--> NAME-PROCESSOR.packed --map--> its weights

TensorFlow converts, LiteRT runs. XNNPACK packs the weights for its kernels: once, for this kind of processor, into a
file that all children map. LiteRT takes that file in its newer interface alone, `CompiledModel`, which does not know
all types, and leaves an output unwritten that is an input, or is there twice; models of those go to the older
`Interpreter`, and each child packs for itself. For a smaller batch either is resized, which takes 0.2 ms. Conversion
starts from the frozen function, because that of a Keras 3 model, as it is, can give NaN without a word.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.executors.frozen import freeze
from tasks.executors.operation_table import RUNTIMES
from tasks.models.batches import in_batches
from tasks.models.devices import processor
from tasks.models.formats.tflite import resize_and_run
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.stderr_filter import hushed
from tasks.snapshots.installed import installed
from tasks.snapshots.record import BUILT, Snapshot
from worker_config.files import write_whole

# What `CompiledModel` reads and writes.
_PACKED_TYPES = frozenset(("float32", "int32", "uint8", "int8", "bool"))


@dataclass(frozen=True)
class Converted:
    """A way to convert models, as the functions of an `Executor`.

    Attributes:
        name: of the executor, and of its files.
        is_quantised: whether weights have 8 bits; activations are quantised as they come ("dynamic range").
    """

    name: str
    is_quantised: bool = False

    def build(self, folder: Path, snapshot: Snapshot, batch_rows: int, rows: FlatArrays) -> None:
        """Convert, and pack the weights for this processor.

        Raises:
            Exception: an operation of the graph is not one of TFLite's.
        """
        path = folder / self._file
        if not path.exists():
            import tensorflow as tf

            converter = tf.lite.TFLiteConverter.from_concrete_functions([freeze(folder, snapshot, batch_rows)])
            converter.optimizations = [tf.lite.Optimize.DEFAULT] if self.is_quantised else []
            path.parent.mkdir(exist_ok=True)
            write_whole(path, _with_free_reshapes(converter.convert()))
        _pack(path, folder / self.packed)

    def load(self, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
        """A call of the converted model, which takes any number of rows."""
        path, packed = folder / self._file, folder / self.packed
        of_any = _of_compiled(path, packed, threads) if packed.exists() else _of_interpreter(path, threads)
        return _call(of_any, len(snapshot.inputs), batch_rows)

    def operators(self, folder: Path) -> list[str]:
        """The converted model's builtin operators, each with the activation that is fused into it: `ADD+RELU`."""
        return _operators(folder / self._file)

    @property
    def packed(self) -> str:
        """The file of packed weights, of this kind of processor and version of LiteRT."""
        return f"{BUILT}/{self.name}-{_machine()}.packed"

    @property
    def _file(self) -> str:
        return f"{BUILT}/{self.name}.tflite"


@cache
def _machine() -> str:
    return hashlib.sha256(f"{installed(RUNTIMES['tflite'])}\0{processor()}".encode()).hexdigest()[:12]


def _with_free_reshapes(converted: bytes) -> bytes:
    """The same model, in which the first size of what is reshaped follows from the others.

    It was converted for a fixed batch, whose rows would stand there as a number.
    """
    from ai_edge_litert import schema_py_generated as schema

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
    from ai_edge_litert import schema_py_generated as schema

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


def _pack(path: Path, packed: Path) -> None:
    """Have XNNPACK write the weights as its kernels take them; nothing is written of a model that it cannot be for."""
    if packed.exists():
        return
    interpreter = _interpreter(path, 1)
    taken, given = interpreter.get_input_details(), interpreter.get_output_details()
    places = [detail["index"] for detail in (*taken, *given)]
    types = {np.dtype(detail["dtype"]).name for detail in (*taken, *given)}
    if len(set(places)) < len(places) or not types <= _PACKED_TYPES:
        return
    making = packed.with_suffix(".making")
    making.unlink(missing_ok=True)
    with suppress(RuntimeError):
        _compiled(path, making, 1)
        making.rename(packed)


@dataclass(frozen=True)
class _Resizable:
    """A converted model: the names of its inputs, the rows that it was converted for, and how it is resized and run."""

    inputs: Sequence[str]
    rows: int
    resize: Callable[[Sequence[tuple[int, ...]]], None]
    run: Callable[[FlatArrays], FlatArrays]


def _call(model: _Resizable, inputs: int, batch_rows: int) -> FlatCall:
    numbers = [_number(name, inputs) for name in model.inputs]
    rows_now = model.rows

    def resize(arrays: FlatArrays) -> None:
        nonlocal rows_now
        if not arrays or len(arrays[0]) == rows_now:
            return
        rows_now = 0  # should it fail
        model.resize([array.shape for array in arrays])
        rows_now = len(arrays[0])

    def batch(arrays: Sequence[np.ndarray[Any, Any]]) -> FlatArrays:
        read = [arrays[number] for number in numbers]
        resize(read)
        return model.run(read)

    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> FlatArrays:
        fits = len(arrays[0]) <= batch_rows
        if fits:
            try:
                resize([arrays[number] for number in numbers])
            except RuntimeError:  # the batch still stands as a number inside
                fits = False
        return batch(arrays) if fits else in_batches(batch, list(arrays), model.rows or batch_rows)

    return call


def _number(name: str, inputs: int) -> int:
    """The number of the model's input that an input of the converted model is; not all of them need be read."""
    found = re.search(r"input_(\d+)(:\d+)?$", name)
    if not found or int(found[1]) >= inputs:
        raise ValueError(f"the converted model has an input {name!r} that is none of the model's")
    return int(found[1])


def _interpreter(path: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=threads)


def _of_interpreter(path: Path, threads: int) -> _Resizable:
    with hushed():
        interpreter = _interpreter(path, threads)
        interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    resize, run = resize_and_run(interpreter, details, interpreter.get_output_details())
    return _Resizable([detail["name"] for detail in details], _rows(details), resize, run)


def _of_compiled(path: Path, packed: Path, threads: int) -> _Resizable:
    with hushed():
        model = _compiled(path, packed, threads)
    ((signature, names),) = model.get_signature_list().items()
    taken = model.get_input_tensor_details(signature)
    given: list[tuple[tuple[int, ...], Any]] = []
    into: list[Any] = []
    out_of: list[Any] = []

    def settle() -> None:
        details = model.get_output_tensor_details(signature)
        given[:] = [(tuple(details[name]["shape"]), np.dtype(details[name]["dtype"])) for name in names["outputs"]]
        into[:], out_of[:] = model.create_input_buffers(0), model.create_output_buffers(0)

    def resize(shapes: Sequence[tuple[int, ...]]) -> None:
        failed: RuntimeError | None = None
        for number, shape in enumerate(shapes):
            try:
                model.resize_input_tensor(number, shape, strict=False)
                failed = None
            except RuntimeError as error:  # of inputs that go together, all but the last are resized before the others
                failed = error
        if failed:
            raise failed
        settle()

    def run(arrays: FlatArrays) -> FlatArrays:
        for buffer, array in zip(into, arrays, strict=True):
            buffer.write(array)
        model.run_by_index(0, into, out_of)
        return [
            buffer.read(math.prod(shape), dtype).reshape(shape)
            for buffer, (shape, dtype) in zip(out_of, given, strict=True)
        ]

    with hushed():
        settle()
        # The first of all that is written makes an environment of its own, and says so.
        for buffer, name in zip(into, names["inputs"], strict=True):
            buffer.write(np.zeros(taken[name]["shape"], taken[name]["dtype"]))
    return _Resizable(names["inputs"], _rows([taken[name] for name in names["inputs"]]), resize, run)


def _rows(inputs: Sequence[Any]) -> int:
    return int(inputs[0]["shape"][0]) if inputs else 0


def _compiled(path: Path, packed: Path, threads: int) -> Any:
    """A `CompiledModel` with XNNPACK, its weights in a file, which is written where it is not there."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import Options

    processor_options = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(packed))
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=processor_options)
    return CompiledModel.from_file(str(path), environment=_environment(), options=options)


@cache
def _environment() -> Any:
    """LiteRT's environment, of which a process needs one."""
    from ai_edge_litert.environment import Environment

    no_plugins = str(Path(__file__).parent)  # else it loads those for other hardware
    return Environment.create(compiler_plugin_path=no_plugins, dispatch_library_path=no_plugins)
