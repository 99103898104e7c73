"""A program of its own that makes untrained models and runs one, so that nobody else needs TensorFlow.

    python -m benchmarks.models write FOLDER
    python -m benchmarks.models predict MODEL ROWS.npy OUTPUT.npy

`write_models` and `in_one_process` start it and wait.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

# name: (shape of a row, batch_rows)
MODELS: dict[str, tuple[tuple[int, ...], int]] = {
    "identity": ((1024,), 256),  # rows of 4 KiB
    "small_identity": ((16,), 256),  # rows of 64 bytes
    "mlp": ((1024,), 64),
    "conv": ((64, 64, 3), 32),
}


def write_models(folder: Path) -> Path:
    """Make all of MODELS in `folder`; return the manifest."""
    _run("write", str(folder))
    return folder / "models.toml"


def in_one_process(folder: Path, name: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What Keras itself gives for the rows, in one process."""
    given, expected = folder / f"{name}_rows.npy", folder / f"{name}_expected.npy"
    np.save(given, rows)
    _run("predict", str(folder / f"{name}.keras"), str(given), str(expected))
    given.unlink()
    output: npt.NDArray[np.float32] = np.load(expected)
    return output


def _run(*words: str) -> None:
    run_apart("benchmarks.models", *words)


def run_apart(program: str, *words: str) -> None:
    """Run a module as a program, without TensorFlow's chatter."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", program, *words], env=quiet, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")


def _write(folder: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(11)
    inside = {
        "identity": [layers.Activation("linear")],
        "small_identity": [layers.Activation("linear")],
        "mlp": [
            layers.Dense(4096, activation="relu"),
            layers.Dense(4096, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        "conv": [
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ],
    }
    tables = []
    for name, (shape, batch_rows) in MODELS.items():
        keras.Sequential([keras.Input(shape), *inside[name]]).save(folder / f"{name}.keras")
        tables.append(f'[models.{name}]\npath = "{name}.keras"\nbatch_rows = {batch_rows}\n')
    (folder / "models.toml").write_text("\n".join(tables))


def _predict(model: str, rows: str, output: str) -> None:
    import keras

    np.save(output, keras.models.load_model(model, compile=False).predict(np.load(rows), verbose=0))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        _write(Path(sys.argv[2]))
    else:
        _predict(*sys.argv[2:])
