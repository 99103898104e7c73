"""Two workers decode a folder of image files while Keras trains on them: cd examples/images && python train.py.

The files are pictures of discs and squares, of many sizes, in colour, grey and CMYK, which this program writes itself;
two of them are damaged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
from photos import LABELS
from PIL import Image

from producer import Loader, local

FILES = 400
MODES = ("RGB", "L", "CMYK")
EPOCHS = 10


def write_images(folder: Path) -> None:
    """Write FILES pictures into a folder for each label."""
    rng = np.random.default_rng(3)
    for number in range(FILES):
        kind = number % len(LABELS)
        height, width = rng.integers(30, 90, size=2)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        inside = (np.hypot(y, x) if kind == 0 else np.maximum(abs(y), abs(x))) < rng.uniform(0.5, 0.9)
        picture = np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3)).astype(np.uint8)
        path = folder / LABELS[kind] / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).convert(MODES[number % len(MODES)]).save(path)
    for damaged in sorted(folder.glob("*/*.jpg"))[10:210:100]:
        damaged.write_bytes(damaged.read_bytes()[:40])


def main() -> None:
    """Train on the files; those that are damaged are left out, and told."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(len(LABELS), activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    with tempfile.TemporaryDirectory() as folder, local(models="models.toml", workers=2) as client:
        write_images(Path(folder))
        loader = Loader(client, "decode", f"{folder}/*/*.jpg", batch_rows=32, shuffle=True, seed=3)
        model.fit(loader.tf_dataset(), epochs=EPOCHS, verbose=2)
        for record in {record.value: record for record in loader.failures()}.values():
            print(f"left out: {record}")
    print(f"ledger of {EPOCHS} epochs: {loader.ledger}")


if __name__ == "__main__":
    main()
