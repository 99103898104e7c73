"""Models whose rows are not independent, and ordinary ones, for tests of what finds out."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.models.program import Program, spec_of
from tasks.protocol.records import TensorSpec
from tests.models import keras_may_warn

ROWS, COLUMNS = 16, 6
MADE_BY = np.random.default_rng(5)


def program(function: Callable[..., Any], *specs: tf.TensorSpec, variables: Sequence[Any] = ()) -> Program:
    """A function of TensorFlow as a model."""
    specs = specs or (tf.TensorSpec((None, COLUMNS), tf.float32),)
    traced = tf.function(function, input_signature=list(specs), autograph=False).get_concrete_function()
    outputs = [TensorSpec(f"y{n}", one.dtype.name, tuple(one.shape)) for n, one in enumerate(traced.outputs)]
    inputs = [spec_of(f"x{n}", spec) for n, spec in enumerate(specs)]
    return Program(inputs, outputs, run=lambda tensors: tf.nest.flatten(traced(*tensors)), variables=variables)


def weights(*shape: int) -> Any:
    """Numbers as of a trained layer."""
    return MADE_BY.standard_normal(shape).astype(np.float32)


class Counter(tf.Module):  # type: ignore[misc]
    """Counts its calls: the n-th adds n to what its layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)
        self.kernel = tf.Variable(weights(COLUMNS, 3))

    @tf.function(input_signature=[tf.TensorSpec((None, COLUMNS), tf.float32, name="rows")])  # type: ignore[untyped-decorator]
    def __call__(self, rows: Any) -> Any:
        """The layer's outputs, and the count of calls on top."""
        return {"sums": tf.matmul(rows, self.kernel) + self.calls.assign_add(1.0)}


def write_counter(folder: Path) -> Path:
    """A SavedModel that counts its calls."""
    counter = Counter()
    tf.saved_model.save(counter, str(folder), signatures=counter.__call__.get_concrete_function())
    return folder


class CountingTable(tf.Module):
    """Adds how often it was called to a product, and keeps that in a lookup table."""

    def __init__(self) -> None:
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
        self.kernel = tf.Variable(weights(COLUMNS, 2))

    @tf.function(input_signature=[tf.TensorSpec([None, COLUMNS], tf.float32)])
    def __call__(self, rows: Any) -> Any:
        key = tf.constant([0], tf.int64)
        calls = self.table.lookup(key)
        with tf.control_dependencies([self.table.insert(key, calls + 1.0)]):
            return {"sums": rows @ self.kernel + calls}


def write_counting_table(folder: Path) -> Path:
    """A SavedModel that writes to a lookup table."""
    model = CountingTable()
    tf.saved_model.save(model, str(folder), signatures=model.__call__.get_concrete_function())
    return folder


def write_lite_counter(path: Path, saved: Path) -> Path:
    """The same as a TFLite file, whose count is a variable."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.experimental_enable_resource_variables = True
    return converted(converter, path)


def write_old_counter(folder: Path, *, use_resource: bool) -> Path:
    """A SavedModel of TensorFlow 1 that counts its calls."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        rows = v1.placeholder(tf.float32, [None, COLUMNS], "rows")
        calls = v1.get_variable("calls", initializer=np.float32(0), use_resource=use_resource)
        kernel = v1.get_variable("kernel", initializer=weights(COLUMNS, 2), use_resource=use_resource)
        sums = tf.matmul(rows, kernel) + v1.assign_add(calls, 1.0)
        session.run(v1.global_variables_initializer())
        tensors = {"rows": v1.saved_model.build_tensor_info(rows)}, {"sums": v1.saved_model.build_tensor_info(sums)}
        signature = v1.saved_model.build_signature_def(*tensors, "predict")
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return folder


def write_lite_lstm(path: Path) -> Path:
    """A TFLite file with a recurrent layer, whose tensors the interpreter keeps."""
    import keras

    keras.utils.set_random_seed(3)
    network = keras.Sequential([keras.Input(batch_shape=(ROWS, 4, 3)), keras.layers.LSTM(5), keras.layers.Dense(1)])
    return converted(tf.lite.TFLiteConverter.from_keras_model(network), path)


def write_stateful_gru(path: Path, rows: int = ROWS) -> Path:
    """A Keras file whose state goes on from call to call."""
    import keras

    keras.utils.set_random_seed(3)
    layers = [keras.Input(batch_shape=(rows, 4, 3)), keras.layers.GRU(5, stateful=True), keras.layers.Dense(1)]
    with keras_may_warn():
        keras.Sequential(layers).save(path)
    return path


def write_noisy(path: Path) -> Path:
    """A SavedModel with dropout that is on; of a `.keras` file, `predict` would switch it off."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((COLUMNS,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(hidden, training=True)))
    with keras_may_warn():
        model.export(path, verbose=False)
    return path


class Centred(tf.Module):  # type: ignore[misc]
    """What a batch's rows are besides its mean; a row that is not finite is refused."""

    @tf.function(input_signature=[tf.TensorSpec((None, COLUMNS), tf.float32, name="rows")])  # type: ignore[untyped-decorator]
    def __call__(self, rows: Any) -> Any:
        """The batch, centred."""
        checked = tf.debugging.check_numerics(rows, "a row is not finite")
        return {"centred": checked - tf.reduce_mean(checked, axis=0)}


def write_centred(folder: Path) -> Path:
    """A SavedModel whose rows depend on their batch, and that refuses some."""
    centred = Centred()
    tf.saved_model.save(centred, str(folder), signatures=centred.__call__.get_concrete_function())
    return folder


def write_batch_statistics(path: Path) -> Path:
    """A SavedModel that normalizes by the batch, as `write_noisy`."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((COLUMNS,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs), training=True)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    with keras_may_warn():
        model.export(path, verbose=False)
    return path


def converted(converter: Any, path: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        path.write_bytes(converter.convert())
    return path
