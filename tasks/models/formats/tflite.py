"""Runs `.tflite` files in LiteRT's interpreter, without TensorFlow."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.models.devices import threads
from tasks.models.error_text import telling_line
from tasks.models.program import FlatCall, Program
from tasks.models.state import opened_again
from tasks.models.stderr_filter import hushed
from tasks.protocol.records import TensorSpec
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry

WHY_PLAIN = "a TFLite file is mapped by its interpreter as it is"

# Of an operation of its author's own, and of one of TensorFlow's ("Flex").
_LACKING = re.compile(r"custom op: (\w+)|\((Flex\w+)\)")

Details = dict[str, dict[str, Any]]


def open_tflite(path: Path, entry: ModelEntry) -> Program:
    """The signature `entry.signature` of a file, or its only one; the names are those of tensors if it has none.

    Raises:
        ValueError: it is no TFLite file, has no such signature, or operations that the interpreter lacks.
    """
    interpreter = _interpreter(path)
    signature = _signature(interpreter.get_signature_list(), entry.signature)
    call, inputs, outputs = _opened(interpreter, signature)
    specs = [_spec(*item) for item in inputs.items()], [_spec(*item) for item in outputs.items()]
    call = _said_clearly(call)
    if _codes(path)[0]:  # which the interpreter's own reset does not know of
        call = opened_again(lambda: _said_clearly(_opened(_interpreter(path), signature)[0]), call)
    else:
        call.state = _TensorState(interpreter)  # type: ignore[attr-defined]
    # A signature is a map; a file without one has a list.
    return Program(*specs, call=call, why_plain=WHY_PLAIN, ordered=not signature)


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        return Interpreter(model_path=str(path), num_threads=threads())
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"not a TFLite file that this interpreter reads: {telling_line(error)}") from None


def _opened(interpreter: Any, signature: str) -> tuple[FlatCall, Details, Details]:
    """A call, and what is known of the tensors that it takes and gives, by their names."""
    if signature:
        runner = interpreter.get_signature_runner(signature)
        inputs = dict(sorted(runner.get_input_details().items()))
        outputs = dict(sorted(runner.get_output_details().items()))
        return _runner_call(runner, list(inputs), list(outputs)), inputs, outputs
    inputs = {details["name"]: details for details in interpreter.get_input_details()}
    outputs = {details["name"]: details for details in interpreter.get_output_details()}
    return _tensor_call(interpreter, inputs, outputs), inputs, outputs


def custom_operations(path: Path) -> list[str]:
    """The names of the file's operations that are not built in; raises ValueError where it is no TFLite file."""
    _interpreter(path)  # which looks whether it is whole
    return _codes(path)[1]


def _codes(path: Path) -> tuple[bool, list[str]]:
    """Whether the file assigns to variables, and the names of its custom operations."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = schema.Model.GetRootAs(data)
        codes = [model.OperatorCodes(number) for number in range(model.OperatorCodesLength())]
        assigns = any(code.BuiltinCode() == schema.BuiltinOperator.ASSIGN_VARIABLE for code in codes)
        custom = [name.decode() for code in codes if (name := code.CustomCode())]
        del model, codes  # they look into the map
    return assigns, sorted(custom)


class _TensorState:
    """Tensors that the interpreter keeps between calls, as those of a recurrent layer; most files have none."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter

    def restore(self, first_row: int | None = None, *, seeds_alone: bool = False) -> None:
        """Set them to zero, as the file has them."""
        if not seeds_alone:
            self._interpreter.reset_all_variables()


def _signature(known: dict[str, Any], wanted: str) -> str:
    if wanted in known or not known:
        return wanted if known else ""
    if len(known) == 1 and wanted == ModelEntry("").signature:
        return next(iter(known))
    raise ValueError(f"no signature {wanted!r}; it has: {', '.join(sorted(known))}")


def _runner_call(runner: Any, inputs: Sequence[str], outputs: Sequence[str]) -> FlatCall:
    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        # It resizes its inputs to those that it is given, which costs nothing where they are as before.
        results = runner(**dict(zip(inputs, arrays, strict=True)))
        return [results[name] for name in outputs]

    return call


def _tensor_call(interpreter: Any, inputs: Details, outputs: Details) -> FlatCall:
    resize, run = resize_and_run(interpreter, list(inputs.values()), list(outputs.values()))
    shapes: list[tuple[int, ...]] = []

    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        if shapes != [array.shape for array in arrays]:
            resize([array.shape for array in arrays])
            shapes[:] = [array.shape for array in arrays]
        return run(arrays)

    return call


def resize_and_run(
    interpreter: Any, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]
) -> tuple[Callable[[Sequence[tuple[int, ...]]], None], FlatCall]:
    """An interpreter by its tensors: takes inputs of other shapes from now on; gives outputs for arrays of these."""
    wanted, given = ([details["index"] for details in tensors] for tensors in (inputs, outputs))

    def resize(shapes: Sequence[tuple[int, ...]]) -> None:
        for index, shape in zip(wanted, shapes, strict=True):
            interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()

    def run(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        for index, array in zip(wanted, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        # A copy each; views of the interpreter's own memory would save it, but change with the next call.
        return [interpreter.get_tensor(index) for index in given]

    return resize, run


def _said_clearly(call: FlatCall) -> FlatCall:
    begun = False

    def clear(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        nonlocal begun
        try:
            if begun:
                return call(arrays)
            with hushed():  # it tells of its delegate when it first allocates
                results = call(arrays)
            begun = True
            return results
        except RuntimeError as error:
            lacking = _LACKING.search(str(error))
            if lacking is None:
                raise
            raise ModelLoadError(
                f"the file has the operation {lacking[1] or lacking[2]!r}, which LiteRT lacks; "
                "convert it with built-in operations alone, or serve the SavedModel that it was made from"
            ) from None

    return clear


def _spec(name: str, details: dict[str, Any]) -> TensorSpec:
    # A free size is -1 in the signature, and 1 in the shape until it is known.
    signature = details.get("shape_signature", details["shape"])
    shape = tuple(None if size < 0 else int(size) for size in signature)
    dtype = np.dtype(details["dtype"])
    return TensorSpec(name, "string" if dtype.kind in "OSU" else dtype.name, shape)
