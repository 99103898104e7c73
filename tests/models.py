"""Small models with known weights, made once for a test run; their expected outputs come from `model.predict`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.manifests import write_manifest

MANIFEST = "models.toml"


@contextmanager
def keras_may_warn() -> Iterator[None]:
    """Keras makes numpy complain of TensorFlow's variables; that is not ours to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        yield


def in_one_process(path: Path, rows: Any, batch_rows: int = 32) -> Any:
    """What the model in this file gives for the rows, by `model.predict` and nothing of ours."""
    import keras

    with keras_may_warn():
        return keras.models.load_model(path, compile=False).predict(rows, batch_size=batch_rows, verbose=0)


@keras_may_warn()
def write_models(folder: Path) -> None:
    """Write every model that tests use, and one manifest that lists the well-behaved ones."""
    import keras

    keras.utils.set_random_seed(11)
    digits = _digits(keras)
    digits.save(folder / "digits.keras")
    digits.save(folder / "digits.h5")
    digits.export(folder / "digits_saved", verbose=False)
    pair = _pair(keras)
    pair.save(folder / "pair.keras")
    pair.export(folder / "pair_saved", verbose=False)
    names = ["digits.keras", "digits.h5", "digits_saved", "pair.keras", "pair_saved"]
    write_manifest(folder, {Path(name).stem + _SUFFIXES.get(name, ""): name for name in names}, MANIFEST)


@keras_may_warn()
def write_special_models(folder: Path) -> None:
    """Write models that misbehave, each with a manifest of its own: NAME.toml."""
    import keras
    import tensorflow as tf

    words = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(10, 4), keras.layers.Flatten()])
    words.save(folder / "words.keras")  # a number above 9 is an error of TensorFlow's, on a CPU
    _manifest(folder, "words", "words.keras")

    sequence = keras.Input((None, 4), name="sequence")  # any length
    mean = keras.Model(sequence, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(sequence)))
    mean.save(folder / "mean.keras")
    _manifest(folder, "mean", "mean.keras")

    class Shorter(tf.Module):
        """Loses a row."""

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
        def __call__(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"rest": rows[1:]}

    shorter = Shorter()
    tf.saved_model.save(shorter, folder / "shorter", signatures={"serving_default": shorter.__call__})
    _manifest(folder, "shorter", "shorter")

    class Greedy(tf.Module):
        """Asks for as many values as a row says; some rows say more than any machine has."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def __call__(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
            lengths = tf.strings.length(tf.strings.as_string(values))  # which TensorFlow alone computes
            values += 0 * tf.cast(lengths, tf.int64)
            return {"values": values + tf.reduce_min(tf.concat([[0], tf.range(tf.reduce_max(values))], 0))}

    greedy = Greedy()
    tf.saved_model.save(greedy, folder / "greedy", signatures={"serving_default": greedy.__call__})
    # TensorFlow waits ten seconds for memory, for each size of a batch that is tried.
    write_manifest(folder, {"greedy": {"path": "greedy", "batch_rows": 2}}, "greedy.toml")

    class Reads(tf.Module):
        """Takes paths of files that hold a number each; one that is not there is an error."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, paths: tf.Tensor) -> dict[str, tf.Tensor]:
            def text(path: tf.Tensor) -> tf.Tensor:
                return tf.cond(tf.strings.length(path) == 0, lambda: tf.constant("0"), lambda: tf.io.read_file(path))

            numbers = tf.strings.to_number(tf.map_fn(text, paths))
            return {"powers": tf.stack([numbers, numbers**2, numbers**3], axis=1)}

    reads = Reads()
    tf.saved_model.save(reads, folder / "reads", signatures={"serving_default": reads.__call__})
    write_manifest(folder, {"reads": {"path": "reads", "allow_file_operations": True}}, "reads.toml")

    (folder / "broken.keras").write_bytes(b"this is not a model")
    _manifest(folder, "broken", "broken.keras")


_SUFFIXES = {"digits.h5": "_h5"}


def _manifest(folder: Path, name: str, path: str) -> None:
    write_manifest(folder, {name: path}, f"{name}.toml")


def _digits(keras):  # type: ignore[no-untyped-def]
    pixels = keras.Input((64,), name="pixels")
    hidden = keras.layers.Dense(32, activation="relu")(pixels)
    return keras.Model(pixels, keras.layers.Dense(10, activation="softmax", name="scores")(hidden))


def _pair(keras):  # type: ignore[no-untyped-def]
    """Two inputs of different dtypes, two outputs of different shapes."""
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(10, 2)(right))
    both = keras.layers.Concatenate()([keras.layers.Dense(5)(left), embedded])
    wide, narrow = keras.layers.Dense(6, name="wide")(both), keras.layers.Dense(1, name="narrow")(embedded)
    return keras.Model({"left": left, "right": right}, {"wide": wide, "narrow": narrow})
