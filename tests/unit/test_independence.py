"""Models whose rows are not independent are named so, by what they depend on; ordinary ones are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.executors.graph_operations import operations_of
from tasks.models.batches import in_batches
from tasks.models.formats import open_model
from tasks.models.program import Program, plain_call
from tasks.models.state import is_half, state_of
from tasks.preparation.independence import examine, with_chance
from tests import dependent
from tests.dependent import COLUMNS, ROWS, program, weights
from tests.models import keras_may_warn
from worker_config.manifest import ModelEntry

ENTRY = ModelEntry(batch_rows=ROWS)
PATHS = dict[str, Path]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> PATHS:
    """Files of models that are not independent."""
    folder = tmp_path_factory.mktemp("dependent")
    counter = dependent.write_counter(folder / "counter")
    return {
        "counter": counter,
        "references": dependent.write_old_counter(folder / "references", use_resource=False),
        "handles": dependent.write_old_counter(folder / "handles", use_resource=True),
        "table": dependent.write_counting_table(folder / "table"),
        "lite_lstm": dependent.write_lite_lstm(folder / "lstm.tflite"),
        "lite": dependent.write_lite_counter(folder / "counter.tflite", counter),
        "gru": dependent.write_stateful_gru(folder / "gru.keras"),
        "dropout": dependent.write_noisy(folder / "dropout"),
        "statistics": dependent.write_batch_statistics(folder / "statistics"),
    }


def found_in(model: Program) -> dict[str, bool] | None:
    """What a model's rows depend on, and whether it follows from seeds."""
    call = plain_call(model)
    half = model.run is not None and is_half(call.function)  # type: ignore[attr-defined]
    found = examine(call, model.inputs, ENTRY, ROWS, half=half)
    assert not found or all(one.amount is None or one.amount > 0 for one in found)
    return None if found is None else {one.on: one.seeded for one in found}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("counter", {"history": False}),
        ("lite", {"history": False}),
        ("table", {"history": False}),
        ("references", {"history": False}),
        ("handles", {"history": False}),
        ("lite_lstm", {}),
        ("gru", {"history": False}),
        ("dropout", {"chance": True}),
        ("statistics", {"neighbours": False}),
    ],
)
def test_a_file_s_dependence_is_named(paths: PATHS, name: str, wanted: dict[str, bool]) -> None:
    assert found_in(open_model(ModelEntry(str(paths[name]), batch_rows=ROWS))) == wanted


KERNEL = weights(COLUMNS, 3)
GENERATOR = tf.random.Generator.from_seed(3)


def _smallest_place_first(rows: Any) -> Any:
    """An output that is no float, and that the whole batch decides."""
    return tf.argsort(tf.argsort(rows[:, 0]))


def _imputed(rows: Any) -> Any:
    missing = tf.math.is_nan(rows)
    return tf.where(missing, tf.reduce_mean(tf.where(missing, 0.0, rows), axis=0, keepdims=True), rows) @ KERNEL


DEPENDENT: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "largest of the batch": (lambda x: x / tf.reduce_max(tf.abs(x)), {"neighbours"}),
    "attention over the batch": (lambda x: tf.nn.softmax(x @ tf.transpose(x)) @ x, {"neighbours"}),
    "the row before": (lambda x: x + tf.roll(x, 1, axis=0), {"neighbours"}),
    "rank in the batch": (_smallest_place_first, {"neighbours", "place"}),
    "noise by place": (lambda x: x + tf.random.stateless_normal(tf.shape(x), (1, 2)), {"place"}),
    "place": (lambda x: x @ KERNEL + 0.1 * tf.cast(tf.range(tf.shape(x)[0]), tf.float32)[:, None], {"place"}),
    "missing numbers by the batch's mean": (_imputed, {"neighbours"}),
    "a scale by the batch's largest": (
        lambda x: tf.where(tf.reduce_max(x) > 10.0, x / 255.0, x) @ KERNEL,
        {"neighbours"},
    ),
    "one missing number spoils all": (
        lambda x: tf.where(tf.reduce_any(tf.math.is_nan(x)), 0.0, x @ KERNEL),
        {"neighbours"},
    ),
    "chance": (lambda x: x @ KERNEL + tf.random.normal((3,)), {"chance"}),
    "a generator": (lambda x: x @ KERNEL + GENERATOR.normal((3,)), {"chance"}),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_rows_depend_on_is_named(name: str) -> None:
    function, wanted = DEPENDENT[name]
    found = found_in(program(function))
    assert found is not None
    assert set(found) == wanted


def test_a_slow_average_is_named_as_history() -> None:
    mean = tf.Variable(tf.zeros(COLUMNS))

    def function(rows: Any) -> Any:
        return rows - mean.assign(0.999 * mean + 1e-7 * tf.reduce_mean(rows, axis=0))

    assert found_in(program(function, variables=[mean])) == {"history": False}


def test_what_begins_after_some_calls_is_named_as_history() -> None:
    calls = tf.Variable(0)

    def function(rows: Any) -> Any:
        return tf.where(calls.assign_add(1) > 3, rows @ KERNEL, 2 * rows @ KERNEL)

    assert found_in(program(function, variables=[calls])) == {"history": False}


def test_chance_that_hardly_shows_is_told_by_the_graph() -> None:
    rare = program(lambda x: tf.argmax(x @ KERNEL + 1e-6 * tf.random.normal((3,)), axis=-1))
    graph = plain_call(rare).function.graph.as_graph_def()  # type: ignore[attr-defined]
    operations = operations_of(graph)
    assert {one.on for one in with_chance([], operations) or ()} == {"chance"}
    assert with_chance([], ["MatMul/float", "StatelessRandomNormalV2"]) == []


def _strings(rows: Any) -> Any:
    return tf.strings.to_hash_bucket_fast(rows, 100), tf.strings.lower(rows)


ORDINARY: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: x @ KERNEL,
    "softmax": lambda x: tf.nn.softmax(x @ KERNEL),
    "class": lambda x: tf.argmax(x @ KERNEL, axis=-1),
    "ties": lambda x: tf.argmax(tf.round(x @ KERNEL), axis=-1),
    "large": lambda x: 1e9 * (x @ KERNEL),
    "small": lambda x: 1e-12 * (x @ KERNEL),
    "far from zero": lambda x: 1e5 + x @ KERNEL,
    "distance": lambda x: tf.sqrt(tf.reduce_sum((x[:, None] - KERNEL[None, :, :1]) ** 2, axis=(1, 2))),
    "difference of squares": lambda x: tf.sqrt(
        tf.abs(tf.reduce_sum(x**2, -1, keepdims=True) - 2 * x @ KERNEL + tf.reduce_sum(KERNEL**2, axis=0))
    ),
    "sine of a large number": lambda x: tf.sin(1e4 * x),
    "the same for all": lambda x: 0 * x + 3,
    "zero for all": lambda x: 0 * x,
    "not a number": lambda x: tf.math.log(x @ KERNEL),
    "infinite": lambda x: tf.cast(x > 0, tf.float32) / 0.0,
    "bytes out of range": lambda x: tf.cast(300 * x, tf.uint8),
    "integers out of range": lambda x: tf.cast(1e12 * x, tf.int32),
    "comparison": lambda x: x > 0.2,
    "sorted": lambda x: tf.sort(x),
    "complex": lambda x: tf.signal.fft(tf.cast(x, tf.complex64)),
    "half": lambda x: tf.cast(tf.cast(x, tf.bfloat16) @ tf.cast(KERNEL, tf.bfloat16), tf.float32),
    "float16": lambda x: tf.cast(x @ KERNEL, tf.float16),
    "double": lambda x: tf.cast(x, tf.float64) @ tf.cast(KERNEL, tf.float64),
    "two outputs": lambda x: (x @ KERNEL, tf.reduce_mean(x, axis=-1)),
    "scan over columns": lambda x: tf.scan(lambda a, b: a * 0.5 + b, tf.transpose(x))[-1],
    "a loop": lambda x: tf.while_loop(
        lambda i, _: i < 5, lambda i, y: (i + 1, tf.tanh(y @ (KERNEL @ KERNEL_BACK))), (0, x)
    )[1],
}
KERNEL_BACK = weights(3, COLUMNS)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_models_give_no_alarm(name: str) -> None:
    assert found_in(program(ORDINARY[name])) == {}


def test_ordinary_texts_give_no_alarm() -> None:
    assert found_in(program(_strings, tf.TensorSpec((None, 2), tf.string))) == {}


def _networks(name: str) -> list[Any]:
    import keras

    layers = keras.layers
    if name == "perceptron":
        return [keras.Input((20,)), layers.Dense(64, "relu"), layers.BatchNormalization(), layers.Dense(5, "softmax")]
    if name == "convolutions":
        small = [layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPooling2D()]
        large = [layers.SeparableConv2D(8, 3), layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(4)]
        return [keras.Input((12, 12, 3)), *small, *large]
    if name == "recurrent":
        hidden = [layers.Bidirectional(layers.LSTM(6)), layers.GaussianNoise(1.0)]
        return [keras.Input((7, 4)), *hidden, layers.Dense(2)]
    if name == "words":
        hidden = [layers.Embedding(256, 8, mask_zero=True), layers.GRU(6)]
        return [keras.Input((9,), dtype="int32"), *hidden, layers.Dense(3)]
    return [keras.Input((20,)), layers.Dense(64, "relu", dtype="mixed_bfloat16"), layers.Dense(5)]


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "recurrent", "words", "half precision"])
def test_ordinary_networks_give_no_alarm(tmp_path: Path, name: str) -> None:
    import keras

    keras.utils.set_random_seed(2)
    with keras_may_warn():
        keras.Sequential(_networks(name)).save(tmp_path / "model.keras")
    assert found_in(open_model(ModelEntry(str(tmp_path / "model.keras")))) == {}


def test_an_ordinary_lite_file_gives_no_alarm(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(2)
    network = keras.Sequential(_networks("convolutions"))
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path = dependent.converted(converter, tmp_path / "model.tflite")
    assert found_in(open_model(ModelEntry(str(path)))) == {}


def test_of_a_model_that_runs_on_no_rows_nothing_is_known() -> None:
    def function(rows: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(rows, 1e6)]):
            return tf.identity(rows)

    assert found_in(program(function)) is None


@pytest.mark.parametrize("name", ["counter", "lite", "table", "references", "handles", "gru", "dropout"])
def test_state_is_restored(paths: PATHS, name: str) -> None:
    model = open_model(ModelEntry(str(paths[name]), batch_rows=ROWS))
    call = plain_call(model)
    rows = [np.ones((2 * ROWS, *model.inputs[0].shape[1:]), np.float32)]
    first, later = (in_batches(call, rows, ROWS) for _ in range(2))
    assert not np.array_equal(first[0], later[0]), "it has a state"
    state = state_of(call)
    assert state is not None
    for _ in range(2):
        state.restore()
        np.testing.assert_array_equal(in_batches(call, rows, ROWS)[0], first[0])


def test_a_chunk_s_seed_is_its_own_and_the_same_every_time(paths: PATHS) -> None:
    call = plain_call(open_model(ModelEntry(str(paths["dropout"]), batch_rows=ROWS)))
    state, rows = state_of(call), [np.ones((ROWS, COLUMNS), np.float32)]
    assert state is not None
    made = []
    for first_row in (0, 64, 0, 64):
        state.restore(first_row)
        made.append(call(rows)[0])
    np.testing.assert_array_equal(made[:2], made[2:])
    assert not np.array_equal(made[0], made[1])
