"""Two workers augment handwritten digits while Keras trains on them: cd examples/digits && python train.py."""

from __future__ import annotations

import keras
import numpy as np
from sklearn.datasets import load_digits

from producer import Loader, local

EPOCHS = 10


def main() -> None:
    """Train on half of the digits, augmented; test on the other half, as it is."""
    digits = load_digits()
    rows = {"image": digits.images[::2].astype(np.float32), "label": digits.target[::2]}
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])

    with local(models="models.toml", workers=2) as client:
        loader = Loader(client, "augment", rows, batch_rows=32, shuffle=True, seed=7)
        model.fit(loader.tf_dataset(), epochs=EPOCHS, verbose=2)

    _, accuracy = model.evaluate(digits.images[1::2, ..., None] / 16, digits.target[1::2], verbose=0)
    print(f"accuracy {accuracy:.3f} on digits that were not trained on")
    print(f"ledger of {EPOCHS} epochs: {loader.ledger}")


if __name__ == "__main__":
    main()
