"""A program of its own that trains the demo's network, so that the producer stays without TensorFlow.

`python -m producer.cli.demo_model FOLDER` reads FOLDER/digits.npy and digits_true.npy, writes FOLDER/digits.keras.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Train on the even rows."""
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(7)
    images, digits = np.load(folder / "digits.npy"), np.load(folder / "digits_true.npy")
    model = keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Dropout(0.25),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(10, activation="softmax", name="scores"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    model.fit(images[::2], digits[::2], batch_size=32, epochs=15, verbose=0)
    # Under another name first: one that was interrupted must not pass for a model.
    model.save(folder / "unfinished.keras")
    (folder / "unfinished.keras").replace(folder / "digits.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
