"""A program of its own that makes the models of `benchmarks.executors`, `choice` and `guard`, with random weights.

python -m benchmarks.executors_models FOLDER [trained]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

EPOCHS = 3


def main(folder: Path, is_trained: bool) -> None:
    """Write `mobilenet.keras`, `mlp.keras`, `transformer.keras` and `lstm.keras`; and `digits.keras`, if any is."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(11)
    pixels = keras.Input((96, 96, 3), dtype="uint8", name="pixels")
    network = keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=10)
    mobilenet = keras.Model(pixels, network(layers.Rescaling(1 / 127.5, -1)(pixels)))
    as_trained(network)
    mobilenet.save(folder / "mobilenet.keras")
    if is_trained:
        train(mobilenet, network)
        mobilenet.save(folder / "digits.keras")
    inside = [layers.Dense(4096, activation="relu") for _ in range(2)]
    keras.Sequential([keras.Input((1024,)), *inside, layers.Dense(10)]).save(folder / "mlp.keras")
    words = keras.Input((64, 128), name="words")
    hidden: Any = words
    for _ in range(2):
        hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(4, 32)(hidden, hidden))
        hidden = layers.LayerNormalization()(hidden + layers.Dense(128)(layers.Dense(512, activation="gelu")(hidden)))
    scores = layers.Dense(10)(layers.GlobalAveragePooling1D()(hidden))
    keras.Model(words, scores).save(folder / "transformer.keras")
    steps = keras.Input((32, 64), name="steps")
    keras.Model(steps, layers.Dense(10)(layers.Bidirectional(layers.LSTM(128))(steps))).save(folder / "lstm.keras")


def digits(
    count: int, random: np.random.Generator, scale: int = 12
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Handwritten digits, (count, 8 scale, 8 scale, 3), with noise, so that no two are equal; and what they are."""
    from sklearn.datasets import load_digits

    images, truth = load_digits(return_X_y=True)
    chosen = random.permutation(count) % len(images)
    noisy = 15 * images[chosen].reshape(-1, 8, 8) + random.integers(0, 16, (count, 8, 8))
    pixels = noisy.astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
    return pixels[..., None].repeat(3, axis=3), truth[chosen]


def train(model: Any, network: Any, scale: int = 12) -> None:
    """Some epochs on digits; then batch normalizations get the statistics of these, as they would have in the end."""
    import keras
    from keras import layers

    rows, truth = digits(1_024, np.random.default_rng(7), scale)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(rows, truth, batch_size=32, epochs=EPOCHS, verbose=0)
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(rows[:512], training=True)


def as_trained(network: Any) -> None:
    """Give batch normalizations what training would: else all rows give the same output."""
    from keras import layers

    random = np.random.default_rng(5)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = np.asarray(layer.get_weights()[0]).shape
            offset, mean = (random.normal(0, 0.3, shape) for _ in range(2))
            layer.set_weights([random.uniform(0.8, 1.6, shape), offset, mean, random.uniform(0.05, 0.4, shape)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), "trained" in sys.argv[2:])
