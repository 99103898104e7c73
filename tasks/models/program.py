"""Holds what every format's loader gives: a model's inputs and outputs, and a way to run it.

Program.run        TensorFlow: tensors in the order of the inputs -> tensors in the order of the outputs
Program.call       anything else: arrays -> arrays
Program.function   a Python function: rows as they are -> an array, or arrays by name
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import numpy as np

from tasks.models.state import variable_state, written
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import Arrays, numpy_dtype
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry

Call = Callable[[Arrays], Arrays]
FlatArrays = list[np.ndarray[Any, Any]]
# What it keeps between calls is in its attribute `state`; see `state_of`.
FlatCall = Callable[[Sequence[np.ndarray[Any, Any]]], FlatArrays]


@dataclass(frozen=True)
class Program:
    """A model as its file says, with nothing of ours around it.

    Attributes:
        inputs, outputs: in the order of `run` and `call`; none for a function, which takes rows as they are.
        run: what `tf.function` can trace, from tensors to tensors; None where the model is no TensorFlow graph.
        call: from arrays to arrays, for those that have no `run`.
        function: from the rows of a batch to one row for each, for those that have neither.
        variables: the `tf.Variable`s that `run` reads.
        tracked: what a SavedModel must track besides: lookup tables and their files.
        why_plain: why no snapshot can be made of it; empty where one can.
        ordered: whether the order of the inputs is one that people know, and not ours.
        left_out: outputs that the model has, and that are no row's.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    run: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    call: FlatCall | None = None
    function: Callable[[Any], Any] | None = None
    variables: Sequence[Any] = ()
    tracked: Any = None
    why_plain: str = ""
    ordered: bool = False
    left_out: list[TensorSpec] = field(default_factory=list)


def check_rows(inputs: Sequence[TensorSpec]) -> None:
    """Refuse a model that rows cannot be given to.

    Raises:
        ValueError: it has no inputs, or one that does not have a value for each row.
    """
    if not inputs:
        raise ValueError("it has no inputs")
    for spec in inputs:
        if not spec.shape:
            raise ValueError(
                f"its input {spec.name!r} is a single value, and not one for each row; {flag_hint(spec.name)}"
            )


def flag_hint(name: str) -> str:
    """What to do about an input that is no row."""
    return f'a flag of a graph or a SavedModel is given in the manifest: constants = {{"{name}" = false}}'


def check_order(names: Sequence[str], have: Sequence[str]) -> None:
    """Hold the names of inputs in the manifest against those of the model.

    Raises:
        ValueError: they are not the same.
    """
    if sorted(names) != sorted(have):
        known = ", ".join(map(repr, have))
        raise ValueError(f"inputs in the manifest are {', '.join(map(repr, names))}; those of the model are {known}")


def in_order(program: Program, names: Sequence[str]) -> Program:
    """The same program with its inputs in the order of these names.

    Raises:
        ValueError: they are not the names of its inputs.
    """
    have = [spec.name for spec in program.inputs]
    check_order(names, have)
    places = [names.index(name) for name in have]

    def reordered(call: Any) -> Any:
        return call and wraps(call)(lambda tensors: call([tensors[place] for place in places]))

    inputs = [program.inputs[have.index(name)] for name in names]
    return replace(program, inputs=inputs, run=reordered(program.run), call=reordered(program.call), ordered=True)


def with_outputs(program: Program, entry: ModelEntry) -> Program:
    """The same program with the outputs of `entry.outputs`, in this order; else with all that have a row for each.

    An output whose number of rows is known, and is not that of the inputs, belongs to no row, such as the names of
    classes: it is left out.

    Raises:
        ValueError: they are not names of its outputs, or of outputs of no row; or there are no others.
    """
    have, names = [spec.name for spec in program.outputs], list(dict.fromkeys(entry.outputs))
    if unknown := [name for name in names if name not in have]:
        raise ValueError(f"no output {unknown[0]!r} for outputs; the model has: {', '.join(map(repr, have))}")
    rows = {None, *(size for spec in program.inputs for size in spec.shape[:1])}
    # An interpreter, in which nothing is traced, says 1 or nothing of what it does not know yet.
    is_vague = program.run is None
    if is_vague or entry.batch_rows == 1:
        rows.add(1)
    constant = [one for one in program.outputs if (one.shape[0] not in rows if one.shape else not is_vague)]
    if named := [spec for spec in constant if spec.name in names]:
        raise ValueError(f"its output {named[0]} has no row for each of the inputs; leave it out of outputs")
    chosen = names or [name for name in have if name not in [spec.name for spec in constant]]
    if not chosen and have:
        raise ValueError(f"its output {constant[0]} has no row for each of the inputs, and there is no other")
    if chosen == have:
        return program
    places = [have.index(name) for name in chosen]

    def only(call: Any) -> Any:
        def chosen_alone(tensors: Sequence[Any]) -> list[Any]:
            results = call(tensors)
            return [results[place] for place in places]

        return call and wraps(call)(chosen_alone)

    return replace(
        program,
        outputs=[program.outputs[place] for place in places],
        run=only(program.run),
        call=only(program.call),
        left_out=[] if names else constant,
    )


def left_out_note(left_out: Sequence[TensorSpec]) -> str:
    """For people; empty where nothing is left out."""
    listed = ", ".join(map(str, left_out))
    return f"left out of its outputs, as they have no row for each of the inputs: {listed}" if listed else ""


def spec_of(name: str, tensor: Any) -> TensorSpec:
    """The form of a tensor, a Keras tensor or a `tf.TensorSpec`; raises ValueError where its shape is not known."""
    dtype = getattr(tensor.dtype, "name", tensor.dtype)
    if tensor.shape is None or getattr(tensor.shape, "rank", 1) is None:
        raise ValueError(f"{name!r} has no known shape")
    return TensorSpec(name, str(dtype), tuple(tensor.shape))


def batch_rows_of(inputs: Sequence[TensorSpec], entry: ModelEntry) -> int:
    """Rows of one call: what the model itself says, else the manifest, and no more than its limit in bytes allows.

    What is free of a row's shape counts for nothing here, nor does text: such rows are measured as they come.

    Raises:
        ConfigError: there would be more, of rows that are meant to depend on their batch.
    """
    fixed = [spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None]
    if fixed:
        return max(1, fixed[0])
    row_bytes = row_bytes_of(inputs)
    rows = rows_within(entry.batch_rows, row_bytes, entry.batch_bytes)
    if rows < entry.batch_rows and not entry.independent_rows:
        raise ConfigError(
            f"batch_rows is {entry.batch_rows}, which with {row_bytes:,} bytes in each row is a batch of "
            f"{entry.batch_rows * row_bytes / 2**20:,.0f} MiB, and batch_mib allows {entry.batch_mib}; rows depend on "
            "their batch, so it is not made smaller: change one of the two in the manifest"
        )
    return rows


def rows_within(rows: int, row_bytes: float, limit_bytes: int) -> int:
    """As many rows, or as many of this size as a limit allows, but at least one."""
    return min(rows, max(1, int(limit_bytes // max(1, row_bytes))))


def row_bytes_of(inputs: Sequence[TensorSpec]) -> int:
    """Bytes of one row, as far as its form says; what is free in it, and text, counts for nothing."""
    return sum(map(_row_bytes, inputs))


def _row_bytes(spec: TensorSpec) -> int:
    dtype, sizes = numpy_dtype(spec.dtype), [size for size in spec.shape[1:] if size is not None]
    return 0 if dtype.kind == "O" or len(sizes) < len(spec.shape[1:]) else math.prod(sizes) * dtype.itemsize


def output_spec_of(name: str, tensor: Any) -> TensorSpec:
    """The same of an output, where a form that is not known does no harm: it reads as rows of a free size."""
    if getattr(tensor.shape, "rank", 1) is None:
        return TensorSpec(name, tensor.dtype.name, (None, None))
    return spec_of(name, tensor)


def tensor_specs(inputs: Sequence[TensorSpec], batch_rows: int | None = None) -> list[Any]:
    """The inputs as TensorFlow has them, `input_0` and so on; with `batch_rows` in the place of free rows."""
    import tensorflow as tf

    shapes = [(batch_rows, *spec.shape[1:]) if spec.shape[:1] == (None,) else spec.shape for spec in inputs]
    return [
        tf.TensorSpec(shape, spec.dtype, name=f"input_{number}")
        for number, (shape, spec) in enumerate(zip(shapes, inputs, strict=True))
    ]


def concrete(program: Program) -> Any:
    """One concrete function of `run`, of free batch."""
    import tensorflow as tf

    run = program.run
    assert run is not None  # noqa: S101 - callers have asked

    @tf.function(input_signature=tensor_specs(program.inputs), autograph=False)  # type: ignore[untyped-decorator]
    def function(*tensors: Any) -> dict[str, Any]:
        return {f"output_{number}": tensor for number, tensor in enumerate(run(tensors))}

    return function.get_concrete_function()


def list_call(function: Any) -> FlatCall:
    """Call a concrete function from tensors to a list of them with arrays."""
    import tensorflow as tf

    return lambda arrays: [tensor.numpy() for tensor in function(*map(tf.convert_to_tensor, arrays))]


def flat_call(function: Any, outputs: int) -> FlatCall:
    """Call a concrete function of `concrete`, or a signature of the same form, with arrays."""
    import tensorflow as tf

    names = [f"output_{number}" for number in range(outputs)]

    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        tensors = function(**{f"input_{number}": tf.convert_to_tensor(array) for number, array in enumerate(arrays)})
        return [tensors[name].numpy() for name in names]

    return call


def plain_call(program: Program) -> FlatCall:
    """Run a program as it is, with nothing shared."""
    if program.call is not None:
        return program.call
    function = concrete(program)
    call = flat_call(function, len(program.outputs))
    call.keep = program  # type: ignore[attr-defined] # its variables live as long as it does
    call.state = variable_state(function.variables, *written(function))  # type: ignore[attr-defined]
    call.function = function  # type: ignore[attr-defined]
    return call


def by_name(call: FlatCall, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Call:
    """The same call, with arrays by the names that people know."""

    def named(arrays: Arrays) -> Arrays:
        results = call([arrays[spec.name] for spec in inputs])
        return {spec.name: result for spec, result in zip(outputs, results, strict=True)}

    return named
