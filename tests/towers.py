"""One model of two inputs of one form, whose names do not sort in their order, in every format."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import keras_may_warn

# Any model that sorts these names takes one for the other.
NAMES = ["user", "item"]
_USER, _ITEM = (np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32) for seed in (1, 2))


def rows_of(count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows by the names of the inputs, in the order of the model."""
    random = np.random.default_rng(count)
    return {name: random.normal(size=(count, 3)).astype(np.float32) for name in NAMES}


def expected(user: np.ndarray[Any, Any], item: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model gives."""
    return np.asarray(user @ _USER + item @ _ITEM)


@keras_may_warn()
def keras_towers(structure: Callable[[Any, Any], Any]) -> Any:
    """As a Keras model; `structure` makes its inputs of user and item."""
    import keras

    user, item = (keras.Input((3,), name=name) for name in NAMES)
    scores = keras.layers.Dense(2, use_bias=False, name="scores")(keras.layers.Concatenate()([user, item]))
    model = keras.Model(structure(user, item), scores)
    model.set_weights([np.concatenate([_USER, _ITEM])])
    return model


def listed(user: Any, item: Any) -> Any:
    return [user, item]


def by_key(user: Any, item: Any) -> Any:
    return {"user": user, "item": item}


@keras_may_warn()
def write_keras(folder: Path, name: str, structure: Callable[[Any, Any], Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old format
        keras_towers(structure).save(folder / name)
    return folder / name


def write_saved(folder: Path) -> Path:
    """As a SavedModel, exported from the Keras model that has a list of inputs."""
    keras_towers(listed).export(str(folder / "saved"), verbose=False)
    return folder / "saved"


def write_graph(folder: Path) -> Path:
    """As a frozen graph."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        user, item = (tf.compat.v1.placeholder(tf.float32, [None, 3], name) for name in NAMES)
        tf.add(tf.matmul(user, _USER), tf.matmul(item, _ITEM), name="scores")
    path = folder / "towers.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def write_old_saved(folder: Path) -> Path:
    """As a SavedModel of TensorFlow 1."""
    import tensorflow as tf

    v1, path = tf.compat.v1, folder / "old"
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = {name: v1.placeholder(tf.float32, [None, 3], name) for name in NAMES}
        outputs = {"scores": tf.matmul(inputs["user"], _USER) + tf.matmul(inputs["item"], _ITEM)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            v1.saved_model.simple_save(session, str(path), inputs, outputs)
    return path


def write_tflite(folder: Path) -> Path:
    """As a TFLite file with a signature."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(write_saved(folder)))
    (folder / "towers.tflite").write_bytes(converter.convert())
    return folder / "towers.tflite"


def write_bare_tflite(folder: Path) -> Path:
    """As a TFLite file without signatures."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = [tf.compat.v1.placeholder(tf.float32, [None, 3], name) for name in NAMES]
        scores = tf.add(tf.matmul(inputs[0], _USER), tf.matmul(inputs[1], _ITEM), name="scores")
        data = tf.compat.v1.lite.TFLiteConverter.from_session(session, inputs, [scores]).convert()
    (folder / "bare.tflite").write_bytes(data)
    return folder / "bare.tflite"
