"""Imports TensorFlow as a worker needs it: without output, without what only serves training, and with Keras as its
makers ship it, whatever the user's environment and `keras.json` say.

    what is served --> imported before the fork, once, or not at all; by a child alone, where rows need it after all
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import msgspec

from tasks.models.model_version import python_sources
from tasks.models.stderr_filter import hushed
from worker_config.environment import settle_models
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry

# With the first, Keras defines estimators that train: `keras.wrappers`. With the second, it takes frames for `fit` and
# `predict`; and PyArrow comes along, whose allocator starts a thread, before processes are forked from this one.
_FOR_TRAINING = ("sklearn", "pandas")

_MENTIONED = re.compile(rb"\b(?:tensorflow|keras|tf_keras)\b")


def mentions_tensorflow(entry: ModelEntry, *, imports: bool = True) -> bool:
    """Whether the module of one of its functions mentions TensorFlow or Keras, or one of its `imports`."""
    entry = entry if imports else msgspec.structs.replace(entry, imports=[])
    return any(_MENTIONED.search(path.read_bytes()) for path in python_sources([entry]).values())


@cache  # functions of the user's may have told Keras otherwise since
def import_tensorflow() -> list[str]:
    """Import TensorFlow, and Keras with it; scikit-learn and pandas are left to who imports them later.

    Returns:
        The environment variables that were set, and are not any more, as they would change predictions.

    Raises:
        ConfigError: Keras cannot be imported, or was imported before, with another backend.
    """
    unheeded = settle_models(os.environ)
    try:
        with hushed(), without(*_FOR_TRAINING):
            import tensorflow  # noqa: F401
    except (ValueError, AssertionError) as error:  # by Keras, or by the older one inside TensorFlow
        path = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "keras.json"
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConfigError(f"TensorFlow cannot be imported ({said}); is {path} in order? It can do without") from None
    settle_keras()
    return unheeded


def settle_keras() -> None:
    """Keras's own defaults in place of those of `keras.json`."""
    import keras

    if keras.config.backend() != "tensorflow":
        raise ConfigError(
            f"Keras was imported with the backend {keras.config.backend()!r} before TensorFlow could be chosen; "
            "import it in functions that run later, or leave out KERAS_BACKEND"
        )
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


@contextmanager
def without(*libraries: str) -> Iterator[None]:
    """Have libraries look as if they were not installed, unless they are there already; None is Python's own sign."""
    hidden = [name for name in libraries if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
