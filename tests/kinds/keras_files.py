"""Files of Keras 3 and of tf_keras, with what `predict` gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats import Case
from tests.kinds.values import Make, quietly, refused
from worker_config.manifest import ModelEntry


def keras_file(build: Callable[[Any], Any], rows: Any, suffix: str = ".keras", **entry: Any) -> Make:
    """A model of Keras 3 as a file, or, without a suffix, exported."""

    def make(folder: Path) -> Case:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(1)
        model, path = build(keras), folder / f"model{suffix}"
        # Of texts Keras takes tensors alone.
        given = tf.constant(rows) if not isinstance(rows, dict) and rows.dtype.kind == "O" else rows
        quietly(lambda: model.save(path) if suffix else model.export(path, verbose=False))
        return Case(ModelEntry(str(path), **entry), rows, {"": quietly(lambda: model.predict(given, verbose=0))})

    return make


def dense(keras: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])


def two_inputs(keras: Any) -> Any:
    inputs = {"pixels": keras.Input((4,), name="pixels"), "ids": keras.Input((5,), dtype="int64", name="ids")}
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 3)(inputs["ids"]))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()([inputs["pixels"], mean])))


def convolution(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def vocabulary(keras: Any) -> Any:
    lookup = keras.layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")
    rows = keras.Input((1,), dtype="string")
    return keras.Model(rows, keras.layers.Dense(2)(lookup(rows)))


def recurrent(keras: Any) -> Any:
    rows = keras.Input((None, 4))
    return keras.Model(rows, keras.layers.GRU(3)(rows))


def half(keras: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="mixed_bfloat16")])


def with_lambda(keras: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda rows: rows * 3)])


def with_own_layer(keras: Any) -> Any:
    class Mine(keras.layers.Layer):  # type: ignore[misc]
        def call(self, rows: Any) -> Any:
            return rows * 2 + 1

    return keras.Sequential([keras.Input((4,)), Mine()])


def weights_alone(folder: Path) -> Case:
    import keras

    path = folder / "a.weights.h5"
    dense(keras).save_weights(path)
    return refused(ModelEntry(str(path)))


def keras_2_file(build: Callable[[Any], Any], rows: Any, suffix: str, *, fitted: bool = False, **entry: Any) -> Make:
    def make(folder: Path) -> Case:
        import tf_keras

        tf_keras.utils.set_random_seed(1)
        model, path = build(tf_keras), folder / f"model{suffix}"
        if fitted:
            model.compile("adam", "mse")
            model.fit(rows, np.zeros((len(rows), model.output_shape[-1])), verbose=0)
        given = model.predict(rows, verbose=0)
        if suffix or fitted:
            quietly(lambda: model.save(path))
        else:
            quietly(lambda: model.export(str(path)))
        return Case(ModelEntry(str(path), **entry), rows, {"": given})

    return make
