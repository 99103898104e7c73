"""Networks as training leaves them: norms have the statistics of data, embeddings lie apart, outputs tell rows apart.

NETWORKS[name]() --> Keras model --in_float64--> the same in float64, by Keras's own policy
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np


def _inside(model: Any) -> Any:
    import keras

    for layer in model.layers:
        yield from _inside(layer) if isinstance(layer, keras.Model) else [layer]


def as_trained(model: Any, rows: Any) -> Any:
    """The model, with the statistics of these rows in its batch norms."""
    from keras import layers

    random = np.random.default_rng(5)
    for layer in _inside(model):
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, *moving = layer.get_weights()
            layer.set_weights([random.uniform(0.8, 1.6, gamma.shape), random.normal(0, 0.3, beta.shape), *moving])
            layer.momentum = 0.0
        elif isinstance(layer, layers.Embedding):
            layer.set_weights([random.normal(0, 1, one.shape) for one in layer.get_weights()])
    model(rows, training=True)
    return model


def in_float64(model: Any) -> Any:
    """The same network with the same weights, which Keras computes in float64."""
    config = json.dumps(model.get_config()).replace('"float32"', '"float64"')
    # Norms keep it in float32, and the graph has it so.
    config = re.sub(r'"epsilon": ([\d.e-]+)', lambda found: f'"epsilon": {float(np.float32(found[1]))!r}', config)
    wide = type(model).from_config(json.loads(config))
    wide.set_weights(
        [array.astype(np.float64) if array.dtype == np.float32 else array for array in model.get_weights()]
    )
    return wide


def convolutional() -> Any:
    """Convolutions, norms, pooling, softmax."""
    import keras
    from keras import layers

    pixels = keras.Input((24, 24, 3))
    hidden = pixels
    for filters in (16, 32, 64):
        hidden = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(hidden))
        hidden = layers.MaxPooling2D()(layers.ReLU()(hidden))
    scores = layers.Dense(10, activation="softmax")(layers.Flatten()(hidden))
    return as_trained(keras.Model(pixels, scores), _random((64, 24, 24, 3)))


def residual() -> Any:
    """Convolutions whose outputs are added to what they were made of."""
    import keras
    from keras import layers

    given = keras.Input((16, 16, 8))
    hidden = layers.Conv2D(16, 3, padding="same")(given)
    for _ in range(4):
        other = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(hidden))
        other = layers.Conv2D(16, 3, padding="same", use_bias=False)(layers.ReLU()(other))
        hidden = layers.ReLU()(layers.Add()([hidden, layers.BatchNormalization()(other)]))
    scores = layers.Dense(10)(layers.GlobalAveragePooling2D()(hidden))
    return as_trained(keras.Model(given, scores), _random((64, 16, 16, 8)))


def transformer() -> Any:
    """Attention over embedded words."""
    import keras
    from keras import layers

    words = keras.Input((24,), dtype="int32")
    hidden = layers.Embedding(256, 32)(words)
    for _ in range(2):
        hidden = layers.LayerNormalization()(layers.Add()([hidden, layers.MultiHeadAttention(4, 8)(hidden, hidden)]))
        wide = layers.Dense(128, activation="gelu")(hidden)
        hidden = layers.LayerNormalization()(layers.Add()([hidden, layers.Dense(32)(wide)]))
    scores = layers.Dense(10)(layers.GlobalAveragePooling1D()(hidden))
    return as_trained(keras.Model(words, scores), _whole((64, 24), 256))


def recurrent() -> Any:
    """An LSTM."""
    import keras
    from keras import layers

    steps = keras.Input((20, 16))
    return as_trained(keras.Model(steps, layers.Dense(5)(layers.LSTM(32)(steps))), _random((64, 20, 16)))


def tabular() -> Any:
    """Numbers, and kinds that are embedded; one probability."""
    import keras
    from keras import layers

    numbers, kinds = keras.Input((12,), name="numbers"), keras.Input((3,), dtype="int32", name="kinds")
    embedded = layers.Flatten()(layers.Embedding(10, 4)(kinds))
    hidden = layers.Concatenate()([layers.BatchNormalization()(numbers), embedded])
    for units in (64, 32):
        hidden = layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(hidden)))
    model = keras.Model([numbers, kinds], layers.Dense(1, activation="sigmoid")(hidden))
    return as_trained(model, [_random((64, 12)), _whole((64, 3), 10)])


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).random(shape, np.float32)


def _whole(shape: tuple[int, ...], most: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, most, shape, np.int32)


NETWORKS: dict[str, Callable[[], Any]] = {
    made.__name__: made for made in (convolutional, residual, transformer, recurrent, tabular)
}
