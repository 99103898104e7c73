"""This module imports TensorFlow as a worker needs it: without a word, and without what only serves training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.quiet import hushed

# With it, Keras defines estimators that train: `keras.wrappers`. Without, those say that it is missing.
_FOR_TRAINING = "sklearn"


def import_tensorflow() -> None:
    """Import TensorFlow, and Keras with it; scikit-learn, where it is installed, is left to who imports it later."""
    if "tensorflow" not in sys.modules:
        with hushed(), _missing(_FOR_TRAINING):
            import tensorflow  # noqa: F401


@contextmanager
def _missing(library: str) -> Iterator[None]:
    """Have the library look as if it were not installed, unless it is there already; None is Python's own sign."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[library]
