"""The models of `requests`: digits, and a MobileNetV2 of 96 x 96, with what one process makes of some rows.

python -m benchmarks.requests_models FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.executors_models import as_trained
from benchmarks.models import run_apart

ROWS = 64


def write_models(folder: Path) -> None:
    """Make them in a process of their own: NAME.keras, NAME.npz, models.toml."""
    run_apart("benchmarks.requests_models", str(folder))


def expected(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and what the model makes of each by itself."""
    with np.load(folder / f"{name}.npz") as arrays:
        return arrays["rows"], arrays["outputs"]


def check_close(answers: np.ndarray, outputs: np.ndarray, first: int) -> None:
    """Hold answers, one after the other from row `first` on and round again, against what the model makes of each."""
    wanted = outputs[(first + np.arange(len(answers))) % len(outputs)]
    np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-5)


def _write(folder: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    random = np.random.default_rng(3)
    models = {
        "digits": keras.Sequential(
            [keras.Input((64,)), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")]
        ),
        "mobile": keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10),
    }
    as_trained(models["mobile"])
    tables = []
    for name, model in models.items():
        rows = random.random((ROWS, *model.input_shape[1:]), np.float32)
        model.save(folder / f"{name}.keras")
        outputs = model(rows, training=False)
        np.savez(folder / f"{name}.npz", rows=rows, outputs=np.asarray(outputs))
        tables.append(f'[models.{name}]\npath = "{name}.keras"\nbatch_rows = 64\n')
    (folder / "models.toml").write_text("\n".join(tables))


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
