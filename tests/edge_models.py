"""Small models whose values other runtimes change on rows out of the ordinary, with such rows.

Each is a SavedModel of one input `x` and one output `y`; what it gives, TensorFlow itself says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 8
ROWS = 40

Array = np.ndarray[Any, Any]


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ordinary(seed: int = 1) -> Array:
    """Rows that every model takes, positive and negative."""
    return _random(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def pixels() -> Array:
    """Integers of 0 to 255."""
    return _random(2).integers(0, 256, (ROWS, COLUMNS)).astype(np.float32)


def times() -> Array:
    """Seconds since 1970."""
    return (1.7e9 + _random(3).integers(0, 10**6, (ROWS, COLUMNS))).astype(np.float32)


def with_zeros() -> Array:
    """Some rows of zeros."""
    rows = ordinary()
    rows[::3] = 0
    return rows


def all_negative() -> Array:
    """Some rows without a positive number."""
    rows = ordinary()
    rows[1::4] = -np.abs(rows[1::4])
    return rows


def with_nan() -> Array:
    """Some rows with a NaN, some with nothing else, some with an infinity."""
    rows = ordinary()
    rows[::5, 3] = np.nan
    rows[7] = np.nan
    rows[8, 0], rows[9, 1] = np.inf, -np.inf
    return rows


def refused() -> Array:
    """Two rows with a number of 100 and more."""
    rows = ordinary()
    rows[5, 2], rows[30, 0] = 100.0, 1e4
    return rows


def close_to_0() -> Array:
    """Negative numbers of a hundred-millionth to a thousandth."""
    return (-(10.0 ** _random(7).uniform(-8, -3, (ROWS, 1))) * _random(8).uniform(0.1, 1, (ROWS, COLUMNS))).astype("f4")


def missing_categories() -> Array:
    """Categories of 0 to 9, one of -1 and one of 10."""
    rows = _random(4).integers(0, 10, (ROWS, 1)).astype(np.int32)
    rows[6], rows[21] = -1, 10
    return rows


def divisors() -> Array:
    """Integers, two of them 0."""
    rows = _random(5).integers(1, 100, (ROWS, 1)).astype(np.int32)
    rows[3], rows[33] = 0, 0
    return rows


def functions() -> dict[str, tuple[Callable[[Any, Any], Any], Callable[[], Array]]]:
    """By name: the model, from its input and a matrix of weights to its output, and rows that hurt it."""
    import tensorflow as tf

    def asserting(x: Any, w: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0)]):
            return x @ w

    def checking(x: Any, w: Any) -> Any:
        return tf.debugging.check_numerics(x, "a feature") @ w

    def masked_softmax(x: Any, w: Any) -> Any:
        return tf.nn.softmax(tf.where(x > 0, x @ w, -np.inf))

    def pooled(x: Any, w: Any) -> Any:
        return tf.squeeze(tf.nn.max_pool1d(tf.nn.relu(x @ w)[..., None] - x[..., None], 2, 2, "VALID"), -1)

    return {
        "softplus": (lambda x, w: tf.nn.softplus(x @ w), pixels),
        "log_sigmoid": (lambda x, w: tf.math.log_sigmoid(-(x @ w)), pixels),
        "waves": (lambda x, w: tf.concat([tf.sin(x), tf.cos(x)], -1), times),
        "unit": (lambda x, w: tf.math.l2_normalize(x, -1) @ w, with_zeros),
        "masked_softmax": (masked_softmax, all_negative),
        "argmax": (lambda x, w: tf.argmax(x @ w, -1), with_nan),
        "max_pool": (pooled, with_nan),
        "assert_less": (asserting, refused),
        "check_numerics": (checking, with_nan),
        "embedding": (lambda x, w: tf.gather(tf.concat([w, w], 0)[:10], x[:, 0]), missing_categories),
        "floor_division": (lambda x, w: 100 // x, divisors),
        "elu": (lambda x, w: tf.nn.softmax(1e7 * tf.nn.elu(x)), close_to_0),
        # The same kinds in other words.
        "log1p": (lambda x, w: 1e8 * tf.math.log1p(x) @ w, close_to_0),
        "selu": (lambda x, w: tf.math.l2_normalize(tf.nn.selu(x), -1), close_to_0),
        "relu": (lambda x, w: tf.nn.relu(x) @ w, with_nan),
        "relu_of_product": (lambda x, w: tf.nn.relu(x @ w + 1.0), with_nan),
        "maximum": (lambda x, w: tf.maximum(x @ w, 0.5) - tf.minimum(x, 1.0), with_nan),
        "reduced": (lambda x, w: tf.reduce_max(x @ w, -1) + tf.reduce_min(x, -1), with_nan),
        "sorted": (lambda x, w: tf.sort(x) @ w, with_nan),
        "top": (lambda x, w: tf.math.top_k(x @ w, 3)[1], with_nan),
        "clipped": (lambda x, w: tf.clip_by_value(x, -1.0, 1.0) @ w, with_nan),
        "is_nan": (lambda x, w: tf.where(tf.math.is_nan(x), 0.0, x) @ w, with_nan),
        "remainder": (lambda x, w: tf.math.floormod(100, x), divisors),
        "one_hot": (lambda x, w: tf.one_hot(x[:, 0], 10) @ tf.concat([w, w], 0)[:10], missing_categories),
        "logarithm": (lambda x, w: tf.nn.relu(tf.math.log(tf.abs(x)) @ w), with_zeros),
        "softmax_pixels": (lambda x, w: tf.nn.softmax(x @ w), pixels),
        "exponential": (lambda x, w: 1 / (1 + tf.exp(-(x @ w))), pixels),
        "variance": (
            lambda x, w: (x - tf.reduce_mean(x, -1, keepdims=True)) / tf.math.reduce_std(x, -1, True),
            with_zeros,
        ),
    }


def write_edge_model(folder: Path, name: str) -> tuple[Array, Any]:
    """Write the SavedModel `folder/name`; return its rows, and the function that is the model."""
    import tensorflow as tf

    function, rows_of = functions()[name]
    rows = rows_of()
    module = tf.Module()
    module.weights = tf.Variable(_random(6).standard_normal((COLUMNS, COLUMNS)).astype(np.float32))
    spec = tf.TensorSpec([None, rows.shape[1]], rows.dtype, name="x")
    model = tf.function(lambda x: {"y": function(x, module.weights)}, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder / name), signatures=model.get_concrete_function())
    return rows, model.get_concrete_function()
