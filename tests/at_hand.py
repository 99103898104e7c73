"""Models and functions as notebooks have them: in memory, with layers and functions of their own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.models import keras_may_warn

ROWS = np.random.default_rng(7).random((150, 8), np.float32)


class Doubled(keras.layers.Layer):
    """A layer that no worker has, as it is of this module alone."""

    def call(self, x: Any) -> Any:
        return x * 2


class Silent(keras.layers.Layer):
    """A layer that does not tell what it was made with."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


class Own(keras.Model):
    """A model that is code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return keras.ops.sin(self.inner(x))


def relu(x: Any) -> Any:
    """Another one than Keras's."""
    return keras.ops.maximum(x, x * 3)


class Module(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32)])
    def __call__(self, rows: Any) -> Any:
        return rows * self.by


def plain() -> Any:
    """Trained for one step, with an optimizer and a loss of its own."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])
    model.compile("adam", loss=lambda wanted, given: keras.ops.mean(abs(wanted - given)))
    model.fit(ROWS, ROWS[:, :2], verbose=0)
    return model


def two_inputs() -> Any:
    """Whose names are in another order than it takes them."""
    right, left = keras.Input((8,), name="right"), keras.Input((8,), name="left")
    return keras.Model([right, left], keras.layers.Subtract()([Doubled()(right), left]))


def tflite(model: Any) -> bytes:
    data: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    return data


def predicted(model: Any, rows: Any) -> Any:
    with keras_may_warn():
        return model.predict(rows, verbose=0)
