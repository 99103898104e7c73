"""A program of its own that makes models and what one process gives for their rows, so that nobody else needs Keras.

python -m benchmarks.peers.works_models write NAME FOLDER        NAME.keras
python -m benchmarks.peers.works_models predict FOLDER BATCH     expected.npy, of model.keras and rows.npy
python -m benchmarks.peers.works_models fit FOLDER               the same, of a fit to the prepared rows
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.executors_models import as_trained, train
from benchmarks.peers.systems import work

PIXELS, DIGIT_SCALE = 64, 8
WIDTHS = {"weights": 12_288, "weights_quick": 1_024}


def write(name: str, folder: Path) -> None:
    """Make one of the models."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(11)
    _MAKERS[name](keras, layers).save(folder / "model.keras")


def _mobilenet(keras: Any, layers: Any, is_trained: bool = True) -> Any:
    pixels = keras.Input((PIXELS, PIXELS, 3), dtype="uint8", name="pixels")
    network = keras.applications.MobileNetV2(input_shape=(PIXELS, PIXELS, 3), weights=None, classes=10)
    model = keras.Model(pixels, network(layers.Rescaling(1 / 127.5, -1)(pixels)))
    as_trained(network)
    if is_trained:
        train(model, network, DIGIT_SCALE)  # and its batch normalizations have the statistics of digits
    return model


def _mlp(keras: Any, layers: Any, width: int = 4096) -> Any:
    inside = [layers.Dense(width, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((1024,)), *inside, layers.Dense(10)])


def _transformer(keras: Any, layers: Any) -> Any:
    words = keras.Input((64, 128), name="words")
    hidden: Any = words
    for _ in range(2):
        hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(4, 32)(hidden, hidden))
        hidden = layers.LayerNormalization()(hidden + layers.Dense(128)(layers.Dense(512, activation="gelu")(hidden)))
    return keras.Model(words, layers.Dense(10)(layers.GlobalAveragePooling1D()(hidden)))


def _wide(keras: Any, layers: Any, width: int) -> Any:
    inside = [layers.Dense(width, activation="tanh") for _ in range(2)]
    return keras.Sequential([keras.Input((1024,)), *inside, layers.Dense(10)])


def _identity(keras: Any, layers: Any) -> Any:
    return keras.Sequential([keras.Input((1024,)), layers.Activation("linear")])


def _trainee(keras: Any, layers: Any) -> Any:
    return keras.Sequential([keras.Input((64,)), layers.Dense(16), layers.Dense(1)])


_MAKERS = {
    "mobilenet": _mobilenet,
    "mobilenet_quick": partial(_mobilenet, is_trained=False),
    "mlp": _mlp,
    "mlp_quick": partial(_mlp, width=256),
    "transformer": _transformer,
    "identity": _identity,
    "fit": _trainee,
    **{name: partial(_wide, width=width) for name, width in WIDTHS.items()},
}


def predict(folder: Path, batch_rows: int) -> None:
    """What Keras itself gives for all rows."""
    import keras

    model = keras.models.load_model(folder / "model.keras", compile=False)
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    np.save(folder / "expected.npy", model.predict(rows, batch_size=batch_rows, verbose=0))


def fit(folder: Path, batch_rows: int) -> None:
    """The weights after one epoch of rows that are prepared beforehand."""
    import tensorflow as tf

    order = {"model": str(folder / "model.keras"), "output": str(folder / "expected")}
    prepared = work.prepare(np.load(folder / "rows.npy"))
    work.fit(order, tf.data.Dataset.from_tensor_slices(prepared).batch(batch_rows))


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "write":
        write(words[0], Path(words[1]))
    else:
        {"predict": predict, "fit": fit}[what](Path(words[0]), int(words[1]))
