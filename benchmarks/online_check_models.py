"""A program: it writes the models of `online_check` into the folder that it is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# Inputs, then the widths of dense layers.
WIDTHS = {"small": (64, 64, 10), "mlp": (64, 256, 256, 10), "large": (1024, 4096, 4096, 10)}


def write(place: Path) -> None:
    """Networks of dense layers with a softmax, their weights random."""
    keras: Any = __import__("keras")
    keras.utils.set_random_seed(5)
    for name, (inputs, *hidden, outputs) in WIDTHS.items():
        layers = [keras.layers.Dense(width, activation="relu") for width in hidden]
        last = keras.layers.Dense(outputs, activation="softmax")
        keras.Sequential([keras.Input((inputs,)), *layers, last]).save(place / f"{name}.keras")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
