"""What the workers do: handwritten digits are moved, dimmed and made noisy, anew in each epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def augment(rows: dict[str, Array]) -> tuple[Array, Array]:
    """Images (rows, 8, 8, 1) with values from 0 to 1, and their labels."""
    rng = np.random.default_rng()
    images = [_changed(image, rng) for image in rows["image"]]
    return np.stack(images)[..., None], rows["label"]


def _changed(image: Array, rng: np.random.Generator) -> Array:
    moved = np.roll(image, rng.integers(-1, 2, size=2), axis=(0, 1))
    noisy = moved / 16 * rng.uniform(0.7, 1.0) + rng.normal(scale=0.05, size=image.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)
