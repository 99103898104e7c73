"""Graphs in float64: what is widened, what is left and named, functions, norms, other bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.accuracy.widened import widen
from tasks.models.formats.graph_def import name_functions_apart

ROWS = np.random.default_rng(4).normal(size=(6, 4)).astype(np.float32)


def widened(function: Callable[[Any], Any], *shape: int) -> tuple[Callable[[Any], Any], list[str]]:
    """The function of a float32 array in float64, and what is left of it."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced = tf.function(function, input_signature=[tf.TensorSpec(shape or (None, 4), tf.float32)])
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function(), lower_control_flow=False)
    graph_def = frozen.graph.as_graph_def()
    left = widen(graph_def)
    name_functions_apart(graph_def)
    graph = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    ends = ([graph.graph.as_graph_element(one.name) for one in some] for some in (frozen.inputs, frozen.outputs))
    pruned = graph.prune(*ends)
    return lambda rows: pruned(tf.constant(rows))[0].numpy(), left


def test_products_are_those_of_float64() -> None:
    weights = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
    call, left = widened(lambda x: x @ weights + 0.1)
    wanted = ROWS.astype(np.float64) @ weights.astype(np.float64) + np.float64(np.float32(0.1))
    assert (call(ROWS).dtype, left) == (np.float64, [])
    np.testing.assert_allclose(call(ROWS), wanted, rtol=1e-14)


def test_loops_branches_and_the_norms_in_them_are_widened() -> None:
    import tensorflow as tf

    one = np.ones(4, np.float32)

    def step(number: Any, x: Any) -> Any:
        norm = tf.compat.v1.nn.fused_batch_norm(x, one * 1.1, one * 0.3, one, one * 2, 1e-3, is_training=False)[0]
        return number + 1, tf.cond(number > 1, lambda: norm, lambda: norm / 3)

    call, left = widened(lambda x: tf.while_loop(lambda number, _: number < 4, step, [0, x])[1], None, 2, 2, 4)
    rows = np.random.default_rng(6).normal(size=(3, 2, 2, 4)).astype(np.float32)
    wanted = rows.astype(np.float64)
    for number in range(4):
        scale, offset, epsilon = (np.float64(np.float32(value)) for value in (1.1, 0.3, 1e-3))
        wanted = (wanted - 1) / np.sqrt(2 + epsilon) * scale + offset
        wanted = wanted if number > 1 else wanted / 3
    assert left == []
    np.testing.assert_allclose(call(rows), wanted, rtol=1e-13)


def test_what_has_no_kernel_is_left_in_float32_and_named() -> None:
    import tensorflow as tf

    call, left = widened(lambda x: tf.nn.local_response_normalization(x) / 3, None, 2, 2, 4)
    rows = np.random.default_rng(6).normal(size=(3, 2, 2, 4)).astype(np.float32)
    assert left == ["LRN"]
    wanted = tf.nn.local_response_normalization(rows).numpy().astype(np.float64) / 3
    np.testing.assert_allclose(call(rows), wanted, rtol=1e-14)


def test_bits_are_those_of_float32() -> None:
    import tensorflow as tf

    call, left = widened(lambda x: tf.cast(tf.bitcast(x * 2, tf.int32), tf.float32) / 3)
    assert left == ["Bitcast"]
    np.testing.assert_allclose(call(ROWS), (ROWS * 2).view(np.int32).astype(np.float64) / 3, rtol=1e-14)


def test_complex_numbers_and_lists_of_tensors_are_widened() -> None:
    import tensorflow as tf

    call, left = widened(lambda x: tf.math.real(tf.signal.fft(tf.complex(x, x / 3))))
    assert left == []
    np.testing.assert_allclose(call(ROWS), np.fft.fft(ROWS + 1j * (ROWS.astype(np.float64) / 3)).real, atol=1e-13)

    def of_list(x: Any) -> Any:
        values = tf.TensorArray(tf.float32, 4)
        for number in range(4):
            values = values.write(number, x[:, number] / 3)
        return tf.transpose(values.stack())

    call, left = widened(of_list)
    assert left == []
    np.testing.assert_allclose(call(ROWS), ROWS.astype(np.float64) / 3, rtol=1e-15)


def test_half_precision_is_widened_too() -> None:
    import tensorflow as tf

    call, left = widened(lambda x: tf.cast(tf.cast(x, tf.bfloat16) / 3, tf.float32))
    assert left == []
    np.testing.assert_allclose(call(ROWS), ROWS.astype(np.float64) / np.float64(3), rtol=1e-14)
