"""Where a graph may make of finite rows what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.executors.graph_bodies import graph_bodies
from tasks.executors.hazards import constant_values, hazards
from tests.models import keras_may_warn


def _found(folder: Path, function: Callable[[Any], Any]) -> tuple[str, ...]:
    import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable(tf.ones([4, 4]))
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")
    traced = tf.function(lambda x: {"y": function(tf.matmul(x, module.weights))}, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "model"), signatures=traced.get_concrete_function())
    return hazards(graph_bodies(folder), constant_values)


def _log_of_a_square(x: Any) -> Any:
    import tensorflow as tf

    return tf.math.log(tf.square(x) + 1e-6) * tf.math.rsqrt(tf.maximum(x, 0.5))


def _softmax_by_hand(x: Any) -> Any:
    import tensorflow as tf

    raised = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return raised / (1.0 + tf.reduce_sum(raised, axis=-1, keepdims=True))


def _bell(x: Any) -> Any:
    import tensorflow as tf

    return tf.exp(-tf.square(x)) + tf.exp(tf.minimum(x, 1.0)) + tf.sqrt(tf.abs(x))


def _logarithm_in_a_branch(x: Any) -> Any:
    import tensorflow as tf

    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.math.log(x), lambda: x)


def _masked(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.softmax(tf.where(x > 0, x, -float("inf")))


def _by_a_weight(x: Any) -> Any:
    return x / 3.0


@pytest.mark.parametrize("function", [_log_of_a_square, _softmax_by_hand, _bell, _by_a_weight])
def test_what_the_graph_keeps_within_bounds_is_no_hazard(tmp_path: Path, function: Callable[[Any], Any]) -> None:
    assert _found(tmp_path, function) == ()


def test_what_nothing_bounds_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    one = {
        "Log": lambda x: tf.math.log(x + 1e-6),
        "RealDiv": lambda x: x / tf.reduce_sum(x, axis=-1, keepdims=True),
        "Exp": tf.exp,
        "Rsqrt": lambda x: tf.math.rsqrt(tf.square(x)),
        "Pow": lambda x: x**x,
        "a constant that is not finite": _masked,
    }
    for number, (name, function) in enumerate(one.items()):
        assert _found(tmp_path / str(number), function) == (name,)
    assert _found(tmp_path / "branch", _logarithm_in_a_branch) == ("Log",)


@pytest.mark.parametrize("kind", ["norms", "attention", "lstm", "conv"])
def test_ordinary_layers_have_none(tmp_path: Path, kind: str) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    with keras_may_warn():
        rows = keras.Input((6, 8))
        made = {
            "norms": lambda: layers.GroupNormalization(2)(
                layers.BatchNormalization()(layers.RMSNormalization()(layers.LayerNormalization()(rows)))
            ),
            "attention": lambda: layers.Dense(3, activation="gelu")(layers.MultiHeadAttention(2, 4)(rows, rows)),
            "lstm": lambda: layers.Bidirectional(layers.LSTM(4))(rows),
            "conv": lambda: layers.Softmax()(layers.MaxPooling1D()(layers.Conv1D(4, 3, activation="silu")(rows))),
        }[kind]()
        model = keras.Model(rows, made)
        spec = tf.TensorSpec([None, 6, 8], tf.float32, name="x")
        traced = tf.function(lambda x: {"y": model(x, training=False)}, input_signature=[spec], autograph=False)
        module = tf.Module()
        module.kept = [variable.value for variable in model.variables]
        tf.saved_model.save(module, str(tmp_path / "model"), signatures=traced.get_concrete_function())
    assert hazards(graph_bodies(tmp_path), constant_values) == ()
