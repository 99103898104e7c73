"""Models that refuse the rows that one would make up: empty text, zeros; each with rows that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import keras_may_warn

ROWS = 23
Saved = tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]


def write_refusing(folder: Path) -> dict[str, Saved]:
    """Write one of each kind; its file, rows, and what they come to by TensorFlow or Keras alone."""
    return {name: make(folder) for name, make in _KINDS.items()}


def _saved(folder: Path, name: str, dtype: Any, shape: list[int], serve: Callable[[Any], Any], rows: Any) -> Saved:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, *shape], dtype, name="rows")])  # type: ignore[untyped-decorator]
        def serve(self, rows: Any) -> Any:
            return {"y": serve(rows)}

    module = Module()
    tf.saved_model.save(module, folder / name, signatures=module.serve)
    return name, rows, module.serve(tf.constant(rows))["y"].numpy()


def _weights() -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)


def _examples(folder: Path) -> Saved:
    import tensorflow as tf

    def example(values: Any) -> bytes:
        feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=values))}
        data: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
        return data

    spec = {"x": tf.io.FixedLenFeature([4], tf.float32)}
    rows = np.array([example(values) for values in np.random.default_rng(1).normal(size=(ROWS, 4))], object)
    return _saved(folder, "examples", "string", [], lambda t: tf.io.parse_example(t, spec)["x"] @ _weights(), rows)


def _photos(folder: Path) -> Saved:
    import tensorflow as tf

    def mean(data: Any) -> Any:
        return tf.reduce_mean(tf.cast(tf.io.decode_jpeg(data, channels=3), tf.float32), axis=[0, 1])

    pixels = np.random.default_rng(2).integers(0, 256, (ROWS, 8, 6, 3)).astype(np.uint8)
    rows = np.array([tf.io.encode_jpeg(one).numpy() for one in pixels], object)
    serve = lambda t: tf.map_fn(mean, t, fn_output_signature=tf.TensorSpec([3], tf.float32))  # noqa: E731
    return _saved(folder, "photos", "string", [], serve, rows)


def _paths(folder: Path) -> Saved:
    import tensorflow as tf

    paths = [folder / f"{number}.txt" for number in range(ROWS)]
    for number, path in enumerate(paths):
        path.write_text(f"{number / 7}")
    rows = np.array([str(path).encode() for path in paths], object)
    serve = lambda t: tf.strings.to_number(tf.map_fn(tf.io.read_file, t))  # noqa: E731
    return _saved(folder, "paths", "string", [], serve, rows)


def _texts(folder: Path) -> Saved:
    import tensorflow as tf

    rows = np.array([[str(row + column / 8).encode() for column in range(4)] for row in range(ROWS)], object)
    return _saved(folder, "texts", "string", [4], lambda t: tf.strings.to_number(t) @ _weights(), rows)


def _ids(folder: Path) -> Saved:
    """From 1 on, as a table of a database has them."""
    import tensorflow as tf

    def serve(ids: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(ids, tf.constant(0, tf.int64))]):
            return tf.gather(tf.constant(_weights()), (ids - 1) % 4)

    return _saved(folder, "ids", "int64", [], serve, np.arange(1, ROWS + 1))


def _ratios(folder: Path) -> Saved:
    """Takes any number but 0."""
    import tensorflow as tf

    def serve(values: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_none_equal(values, 0.0)]):
            return tf.identity(values) @ _weights()

    rows = np.random.default_rng(3).uniform(0.5, 1.5, (ROWS, 4)).astype(np.float32)
    return _saved(folder, "ratios", "float32", [4], serve, rows)


@keras_may_warn()
def _lookup(folder: Path) -> Saved:
    import keras

    keras.utils.set_random_seed(3)
    words = keras.Input((1,), dtype="string", name="word")
    lookup = keras.layers.StringLookup(vocabulary=["f", "m", "x"], num_oov_indices=0, output_mode="one_hot")
    model = keras.Model(words, keras.layers.Dense(2, name="y")(lookup(words)))
    model.save(folder / "lookup.keras")
    rows = np.array([["fmx"[number % 3]] for number in range(ROWS)], object)
    import tensorflow as tf

    return "lookup.keras", rows, model(tf.constant(rows)).numpy()


_KINDS: dict[str, Callable[[Path], Saved]] = {
    "examples": _examples,
    "photos": _photos,
    "paths": _paths,
    "texts": _texts,
    "ids": _ids,
    "ratios": _ratios,
    "lookup": _lookup,
}
