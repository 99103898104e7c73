"""A program of its own that makes eight models of several kinds: FOLDER COUNT."""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path, count: int) -> None:
    """Write the models and their manifest."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    tables = []
    for number in range(count):
        kind = ("dense", "conv", "lstm", "wide")[number % 4]
        if kind == "conv":
            body = [layers.Conv2D(16, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()]
            model = keras.Sequential([keras.Input((32, 32, 3)), *body, layers.Dense(10)])
        elif kind == "lstm":
            model = keras.Sequential([keras.Input((20, 8)), layers.LSTM(32), layers.Dense(3)])
        else:
            width = 2048 if kind == "wide" else 128
            inside = [layers.Dense(width, activation="relu") for _ in range(3)]
            model = keras.Sequential([keras.Input((64,)), *inside, layers.Dense(10, activation="softmax")])
        model.save(folder / f"m{number}.keras")
        tables.append(f'[models.m{number}_{kind}]\npath = "m{number}.keras"\n')
    (folder / "models.toml").write_text("\n".join(tables))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
