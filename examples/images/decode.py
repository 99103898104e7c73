"""What the workers do: image files of any size are read, decoded, resized and normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

SIZE = (32, 32)
KINDS = ("disc", "square")


def decode(paths: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images (rows, 32, 32, 3) with values from -1 to 1, and the kind of each, by the name of its folder."""
    images = [tf.image.resize(tf.io.decode_png(Path(path).read_bytes(), channels=3), SIZE) for path in paths]
    kinds = [KINDS.index(Path(path).parent.name) for path in paths]
    return np.stack(images) / 127.5 - 1, np.array(kinds)
