"""What is swept: an operation, a function or a layer, in a program where it stands alone, behind and before a product.

All three are in one program, each with inputs of its own, so that TensorFlow cannot share what it computes: runtimes
fuse an operation with what is around it, and a fused one may treat a NaN in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.models.program import Program, output_spec_of
from tasks.protocol.records import TensorSpec

# With 9 rows, 33 columns are 18 times 16 numbers and 9 more: both the vector path and the rest of a kernel run.
# A square matrix of them is just large enough (1,024 numbers) for TFLite to quantise it.
ROWS, COLUMNS = 9, 33
# Numbers that are smaller count as 0: runtimes flush what is below the normal numbers in different places.
LEAST = 1e-37
PLACES = ("alone", "behind a product", "before a product")


def spec(*sizes: int, dtype: str = "float32") -> TensorSpec:
    """An input of these sizes beside the rows."""
    return TensorSpec("x", dtype, (None, *sizes))


@dataclass(frozen=True)
class Case:
    """One line of the sweep.

    Attributes:
        name: unique.
        make: gives what computes it, and its variables; called in a process that may run TensorFlow.
        inputs: of one place.
        has_places: whether it is tried beside products, too.
        is_exact: whether a difference is the operation's even where sums are rounded: it has none, or few bits.
        shows: keys that this case stands for, where no case has them alone.
        is_layer: named as a layer of Keras.
    """

    name: str
    make: Callable[[], tuple[Callable[..., Any], Sequence[Any]]]
    inputs: list[TensorSpec] = field(default_factory=lambda: [spec(COLUMNS)])
    has_places: bool = True
    is_exact: bool = True
    shows: tuple[str, ...] = ()
    is_layer: bool = False

    @property
    def places(self) -> int:
        """How many of `PLACES` its program has."""
        first = self.inputs[0]
        return 3 if self.has_places and first.dtype == "float32" and len(first.shape) > 1 else 1


def plain(function: Callable[..., Any]) -> Callable[[], tuple[Callable[..., Any], Sequence[Any]]]:
    """A `make` of a function without variables."""
    return lambda: (function, ())


Owner = tuple[int, int]  # the number of a case, and of one of `PLACES`
COMPANION: Owner = (-1, 0)


def program_of(cases: Sequence[Case], places: int, *, companion: bool = False) -> tuple[Program, list[Owner]]:
    """The program of cases side by side, and for each output whose it is.

    Args:
        cases: what it computes; of the same inputs each.
        places: how many of `PLACES` each has.
        companion: add an input and a product of it, of no case: without one there is no graph in bfloat16.
    """
    import tensorflow as tf

    variables: list[Any] = []
    made = [case.make() for case in cases]
    tracked = [tables for function, _ in made if (tables := getattr(function, "tracked", None))]
    runs = [_placed(case, places, *one, variables) for case, one in zip(cases, made, strict=True)]
    beside = _product(COLUMNS, variables) if companion else None
    count = len(cases[0].inputs) * places
    owners: list[Owner] = []

    def run(tensors: Sequence[Any]) -> list[Any]:
        results: list[Any] = []
        owners.clear()
        for number, one in enumerate(runs):
            for place, given in enumerate(one(tensors[number * count : (number + 1) * count])):
                results += given
                owners.extend([(number, place)] * len(given))
        if beside is not None:
            results.append(beside(tensors[-1]))
            owners.append(COMPANION)
        return [tf.identity(result) for result in results]

    forms = [form for case in cases for form in case.inputs * places] + [spec(COLUMNS)] * companion
    inputs = [TensorSpec(f"x{number}", one.dtype, one.shape) for number, one in enumerate(forms)]
    tensor_specs = [tf.TensorSpec(one.shape, one.dtype) for one in inputs]
    traced = tf.function(lambda *tensors: run(tensors), autograph=False).get_concrete_function(*tensor_specs)
    outputs = [output_spec_of(f"y{number}", tensor) for number, tensor in enumerate(traced.outputs)]
    return Program(inputs, outputs, run=run, variables=variables, tracked=tracked), owners


def _placed(
    case: Case, places: int, function: Callable[..., Any], own: Sequence[Any], variables: list[Any]
) -> Callable[[Sequence[Any]], list[list[Any]]]:
    """What computes a case in its places: the outputs of each."""
    import tensorflow as tf

    variables += own
    if places == 1:
        return lambda tensors: [list(tf.nest.flatten(function(*tensors)))]
    behind = _product(case.inputs[0].shape[-1] or 1, variables)
    specs = [tf.TensorSpec(one.shape, one.dtype) for one in case.inputs]
    # How wide its outputs are is known only now.
    traced = tf.function(lambda *tensors: _floats(function(*tensors)), autograph=False).get_concrete_function(*specs)
    widths = {output.shape[-1] for output in traced.outputs if output.shape.rank}
    before = {width: _product(width, variables) for width in widths}
    count = len(case.inputs)

    def run(tensors: Sequence[Any]) -> list[list[Any]]:
        first, second, third = (tensors[place * count : (place + 1) * count] for place in range(3))
        return [
            list(tf.nest.flatten(function(*first))),
            list(tf.nest.flatten(function(behind(second[0]), *second[1:]))),
            [before[tensor.shape[-1]](tensor) for tensor in _floats(function(*third))],
        ]

    return run


def _floats(results: Any) -> list[Any]:
    """Outputs that a product can take."""
    import tensorflow as tf

    flat = tf.nest.flatten(results)
    return [one for one in flat if one.dtype == tf.float32 and one.shape.rank and one.shape.rank > 1 and one.shape[-1]]


def _product(width: int, variables: list[Any]) -> Callable[[Any], Any]:
    """x @ W + b, which is exact: each column takes one number of the row, times a power of two."""
    import tensorflow as tf

    random = np.random.default_rng(width)
    matrix = np.zeros((width, width), np.float32)
    matrix[np.arange(width), random.permutation(width)] = random.choice([1, -1, 2, 1], width)
    weights = tf.Variable(matrix)
    bias = tf.Variable(random.choice([0.0, 0.0, 0.5, 1.0], width).astype(np.float32))
    variables += [weights, bias]

    def product(x: Any) -> Any:
        if x.shape.rank == 4:
            return tf.nn.bias_add(tf.nn.conv2d(x, weights[None, None], 1, "VALID"), bias)
        if x.shape.rank > 2:
            sizes = tf.concat([tf.shape(x)[:-1], [width]], 0)
            flat = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, width]), weights), bias)
            return tf.reshape(flat, [-1, *x.shape[1:]]) if None not in x.shape[1:] else tf.reshape(flat, sizes)
        return tf.nn.bias_add(tf.matmul(x, weights), bias)

    return product
