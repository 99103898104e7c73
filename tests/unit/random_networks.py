"""Small networks of random layers, and what the product makes of them on the rows that hurt.

    seed --> Keras model --prepare--> ServingSpec --load_model, predict--> outputs, held against the model's own graph

They are numerically sane: weights have few bits, what is not continuous stands where numbers are exact (first), and
nothing takes the difference of large sums that were rounded. `python -m tests.unit.random_networks FIRST COUNT FOLDER`
prints a line of JSON for each; TensorFlow runs in processes of their own, as in a worker.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.operations.sweep_rows import sweep_rows
from tasks.executors import EXECUTORS
from tasks.models.batches import in_batches
from tasks.models.model_version import entry_digest
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation import call_sizes
from tasks.preparation.context import PreparationContext
from tasks.preparation.prepare import prepare
from tasks.preparation.serving_spec import ServingSpec
from tasks.snapshots.forked_call import run_forked
from worker_config.manifest import ModelEntry

BATCH_ROWS, ROWS = 8, 20  # two batches and a half
# Of the row's largest number, over some layers.
RELATIVE = 1e-3
LEAST = 1e-6
ACTIVATIONS = ("relu", "relu6", "tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "selu", "leaky_relu", "linear")
ENDS = ("softmax", "sigmoid", "softplus", "log_sigmoid", "linear", "tanh", "relu", "log_softmax")


class Outcome(msgspec.Struct):
    """What became of one network; `differences` is empty where it is right."""

    seed: int
    layers: list[str]
    executor: str = ""
    small_batches: list[int] = []
    differences: list[str] = []


def network(seed: int) -> Any:
    """A Keras model; call it in a process that may run TensorFlow."""
    import keras

    random = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    ends = [_branch(random, kind) for kind in random.choice(list(_KINDS), random.integers(1, 3))]
    inputs, hidden = [end[0] for end in ends], [end[1] for end in ends]
    joined = hidden[0] if len(hidden) == 1 else keras.layers.Concatenate()(hidden)
    for _ in range(random.integers(0, 3)):
        joined = _dense(random, joined)
    outputs = []
    for _ in range(random.integers(1, 3)):
        activation = str(random.choice(ENDS))
        outputs.append(keras.layers.Dense(int(random.integers(2, 9)), activation=activation)(joined))
    model = keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])
    for variable in model.weights:
        if variable.dtype == "float32":
            values = random.choice([-1.0, -0.5, 0.5, 1.0, 2.0], variable.shape)
            variable.assign(np.abs(values) if "variance" in variable.path else values)
    return model


def _branch(random: Any, kind: str) -> tuple[Any, Any]:
    """An input, and a vector that is made of it."""
    import keras

    shape, dtype, first, middle = _KINDS[kind]
    sizes = tuple(int(random.integers(low, high)) for low, high in shape)
    given = keras.Input(sizes, dtype=dtype)
    hidden = given
    if first and random.random() < 0.7:
        hidden = first[random.integers(len(first))](hidden)
    for _ in range(random.integers(1, 3)):
        hidden = middle[random.integers(len(middle))](random, hidden)
    return given, keras.layers.Flatten()(hidden) if len(hidden.shape) > 2 else hidden


def _dense(random: Any, x: Any) -> Any:
    import keras

    y = keras.layers.Dense(int(random.integers(3, 20)), activation=str(random.choice(ACTIVATIONS)))(x)
    return keras.layers.Dropout(0.3)(y) if random.random() < 0.3 else y


def _residual(random: Any, x: Any) -> Any:
    import keras

    return keras.layers.Add()([x, keras.layers.Dense(x.shape[-1], activation=str(random.choice(ACTIVATIONS)))(x)])


def _convolution(random: Any, x: Any) -> Any:
    import keras

    layers = keras.layers
    if len(x.shape) < 3 or min(x.shape[1:-1]) < 3:
        return layers.Dense(4)(x)
    kind = random.integers(4)
    of = "2D" if len(x.shape) == 4 else "1D"
    if kind == 0:
        return getattr(layers, f"MaxPooling{of}")(2, padding=str(random.choice(["same", "valid"])))(x)
    if kind == 1:
        return getattr(layers, f"AveragePooling{of}")(2)(x)
    activation = str(random.choice(ACTIVATIONS))
    if kind == 2:
        return getattr(layers, f"DepthwiseConv{of}")(2, activation=activation)(x)
    y = getattr(layers, f"Conv{of}")(int(random.integers(2, 7)), 3, padding="same", activation=activation)(x)
    return layers.BatchNormalization()(y) if random.random() < 0.5 else y


def _recurrent(random: Any, x: Any) -> Any:
    import keras

    if len(x.shape) != 3:
        return _dense(random, x)
    layer = getattr(keras.layers, str(random.choice(["LSTM", "GRU", "SimpleRNN"])))(int(random.integers(2, 6)))
    return keras.layers.Bidirectional(layer)(x) if random.random() < 0.3 else layer(x)


def _attention(random: Any, x: Any) -> Any:
    import keras

    return keras.layers.MultiHeadAttention(2, 4)(x, x) if len(x.shape) == 3 else _dense(random, x)


def _op(name: str, *arguments: Any, **named: Any) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        import keras

        return getattr(keras.ops, name)(x, *arguments, **named)

    return apply


def _layer(name: str, **named: Any) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        import keras

        return getattr(keras.layers, name)(**named)(x)

    return apply


def _of_argmax(x: Any) -> Any:
    import keras

    return keras.ops.one_hot(keras.ops.argmax(x, axis=-1), x.shape[-1])


def _masked(x: Any) -> Any:
    import keras

    return keras.ops.softmax(keras.ops.where(x > 0, x, -np.inf), axis=-1)


# What need not be continuous, on the rows as they come.
_FIRST = [
    *(_op(name) for name in ("floor", "ceil", "round", "sign", "abs", "square", "sin", "cos", "tanh", "negative")),
    *(_op(name) for name in ("softmax", "softplus", "log_sigmoid", "relu6", "sort", "exp", "log1p", "rsqrt")),
    _op("clip", -3.0, 200.0), _op("maximum", 0.5), _op("minimum", 7.0), _op("floor_divide", 3.0), _op("mod", 7.0),
    _op("nan_to_num"), _op("cumsum", axis=-1),
    _layer("UnitNormalization"), _layer("LayerNormalization"), _layer("Rescaling", scale=1 / 256),
    _layer("LeakyReLU"), _layer("ReLU", max_value=6.0), _layer("Masking"), _of_argmax, _masked,
]  # fmt: skip
_FIRST_OF_INTEGERS = [_op("maximum", 0), _op("minimum", 9), _op("clip", 0, 9), _op("floor_divide", 3), _op("mod", 10)]


def _casted(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(random: Any, x: Any) -> Any:
        import keras

        return function(random, x if x.dtype == "float32" else keras.ops.cast(x, "float32"))

    return apply


def _embedding(random: Any, x: Any) -> Any:
    import keras

    if x.dtype == "float32":
        return _dense(random, x)
    return keras.layers.Embedding(int(random.choice([10, 256])), int(random.integers(2, 6)))(x)


_KINDS: dict[str, tuple[list[tuple[int, int]], str, list[Any], list[Any]]] = {
    "vector": ([(3, 40)], "float32", _FIRST, [_casted(_dense), _casted(_residual)]),
    "sequence": (
        [(3, 7), (2, 9)],
        "float32",
        _FIRST,
        [_casted(f) for f in (_dense, _convolution, _recurrent, _attention)],
    ),
    "picture": ([(6, 12), (6, 12), (1, 5)], "float32", _FIRST, [_casted(_convolution), _casted(_dense)]),
    "indices": ([(2, 7)], "int32", _FIRST_OF_INTEGERS, [_embedding]),
    "integers": ([(3, 12)], "int32", _FIRST_OF_INTEGERS, [_casted(_dense)]),
}


def difference(wanted: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> str:
    """How outputs differ, one line; empty where they are equal."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{got.dtype}{got.shape} instead of {wanted.dtype}{wanted.shape}"
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    same = (exact == found) | (np.isnan(exact) & np.isnan(found))
    finite = np.where(np.isfinite(exact), np.abs(exact), 0)
    largest = finite.reshape(len(exact), -1).max(axis=1, initial=0).reshape(-1, *([1] * (exact.ndim - 1)))
    with np.errstate(invalid="ignore"):
        same |= np.isfinite(exact) & (np.abs(exact - found) <= RELATIVE * largest + LEAST)
    if same.all():
        return ""
    place = tuple(int(number[0]) for number in np.nonzero(~same))
    return f"{found[place]:.7g} instead of {exact[place]:.7g} at {place}"


def outcome(seed: int, served: ServingSpec, layers: list[str]) -> Outcome:
    """Predict the rows that hurt; in a process that may run TensorFlow."""
    from tasks.child.load_model import load_model

    snapshot = served.snapshot
    assert snapshot, served.note
    model = load_model(served)
    graph = EXECUTORS["graph"].load(Path(served.folder), snapshot, BATCH_ROWS, 1)
    if served.small_batches:
        model.runner.batch.seconds = {1: 0.0}  # of no batch but the smallest, however slow it is
    result = Outcome(seed, layers, served.executor, served.small_batches)
    for group in sweep_rows(snapshot.inputs, ROWS):
        if group.kind == "finite" and not group.is_exact:
            continue  # nothing but rounding
        wanted = _or_error(lambda group=group: in_batches(graph, group.rows, BATCH_ROWS))
        for small in (False, True) if served.small_batches else (False,):
            got = _or_error(lambda group=group, small=small: _predicted(model, snapshot, group.rows, small))
            label = f"{group.label}{' one by one' if small else ''}"
            if isinstance(wanted, str) or isinstance(got, str):
                if isinstance(wanted, str) != isinstance(got, str):
                    result.differences.append(f"{label}: {got if isinstance(got, str) else 'no error'}"[:200])
                continue
            said = [what for pair in zip(wanted, got, strict=True) if (what := difference(*pair))]
            result.differences += [f"{label}: {what}" for what in said]
    return result


def _predicted(model: Any, snapshot: Any, rows: list[Any], small: bool) -> list[np.ndarray[Any, Any]]:
    named = {spec.name: array for spec, array in zip(snapshot.inputs, rows, strict=True)}
    outputs = model.predict(named, small_batches=small)
    return [outputs[spec.name] for spec in snapshot.outputs] if isinstance(outputs, dict) else [outputs]


def _or_error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(first: int, count: int, folder: Path) -> None:
    """One after the other."""
    import_tensorflow()
    call_sizes.WORTH_IT = math.inf
    log = folder / "log"
    context = PreparationContext(folder / "cache", 2**33, 1, 1, 0, lambda line: None)
    for seed in range(first, first + count):
        path = folder / f"{seed}.keras"

        def write(seed: int = seed, path: Path = path) -> list[str]:
            model = network(seed)
            model.save(path)
            return [type(operation).__name__ for operation in model.operations]

        layers = run_forked(write, list[str], log)
        entry = ModelEntry(path=str(path), batch_rows=BATCH_ROWS)
        served = prepare(str(seed), entry, entry_digest(entry), context)
        found = run_forked(lambda seed=seed, s=served, n=layers: outcome(seed, s, n), Outcome, log)  # type: ignore[misc]
        print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
