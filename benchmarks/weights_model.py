"""A program of its own: it makes a model with large weights, and runs its graph, loaded plainly.

python -m benchmarks.weights_model write FOLDER WIDTH
python -m benchmarks.weights_model predict FOLDER BATCH_ROWS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def write(folder: Path, width: int) -> None:
    """1024-WIDTH-WIDTH-10 in float32: for 12288 they are 654 MB."""
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    inside = [layers.Dense(width, activation="tanh"), layers.Dense(width, activation="tanh"), layers.Dense(10)]
    keras.Sequential([keras.Input((1024,)), *inside]).save(folder / "large.keras")
    (folder / "models.toml").write_text('[models.large]\npath = "large.keras"\nbatch_rows = 8\nprefer = "memory"\n')


def predict(folder: Path, batch_rows: int) -> None:
    """With one thread, as the worker's children."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(folder / "large.keras", compile=False)
    function = tf.function(lambda batch: model(batch, training=False), autograph=False)
    rows = np.load(folder / "rows.npy")
    starts = range(0, len(rows), batch_rows)
    np.save(
        folder / "expected.npy", np.concatenate([function(tf.constant(rows[at : at + batch_rows])) for at in starts])
    )


if __name__ == "__main__":
    what, folder, number = sys.argv[1:]
    {"write": write, "predict": predict}[what](Path(folder), int(number))
