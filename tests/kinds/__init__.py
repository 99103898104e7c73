"""Model files of many kinds, each with what its own library gives for rows of it, or with why it is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.formats import (
    NAMES,
    Case,
    checkpoint_case,
    frozen_case,
    old_saved_case,
    saved_case,
    tflite_case,
    version_case,
)
from tests.kinds.graphs import (
    decoded,
    estimator,
    examples,
    free_sizes,
    module,
    not_frozen,
    objects,
    of_type,
    parsed,
    png,
    training,
    with_changes,
    with_flag,
    without_signature,
)
from tests.kinds.keras_files import (
    convolution,
    dense,
    half,
    keras_2_file,
    keras_file,
    recurrent,
    two_inputs,
    vocabulary,
    weights_alone,
    with_lambda,
    with_own_layer,
)
from tests.kinds.others import flex, jax_case, onnx, texts_case, tflite_file, ydf_case
from tests.kinds.values import IDS, IMAGES, PIXELS, STEPS, WORDS, Kind

ROOT = Path(__file__).parents[2]
_EXPORT = "export the model as a SavedModel"
_KERAS_2 = "it is a Keras 2 file .*; export it as a SavedModel where tf_keras is installed"
_TEXT = "tensorflow_text"


def _lacking(operation: str, module: str) -> str:
    return rf"it needs the operation '{operation}', .* install the package .* imports = \[\"{module}\"\]"


KINDS = [
    Kind("Keras 3, Sequential", "`.keras`", keras_file(dense, PIXELS)),
    Kind("Keras 3, a dict of inputs", "`.keras`", keras_file(two_inputs, {"pixels": PIXELS, "ids": IDS})),
    Kind("Keras 3, convolutions of bytes", "`.keras`", keras_file(convolution, IMAGES)),
    Kind("Keras 3, texts and their vocabulary", "`.keras`", keras_file(vocabulary, WORDS[:, None])),
    Kind("Keras 3, GRU over any number of steps", "`.keras`", keras_file(recurrent, STEPS)),
    Kind("Keras 3, bfloat16", "`.keras`", keras_file(half, PIXELS)),
    Kind("Keras 3", "`.h5`", keras_file(convolution, IMAGES, ".h5")),
    Kind("Keras 3, Lambda layer, `lambdas = true`", "`.keras`", keras_file(with_lambda, PIXELS, lambdas=True)),
    Kind("Keras 3, Lambda layer", "`.keras`", keras_file(with_lambda, PIXELS), "say lambdas = true in the manifest"),
    Kind("Keras 3, a layer of one's own", "`.keras`", keras_file(with_own_layer, PIXELS), _EXPORT),
    Kind("Keras 3, weights alone", "`.h5`", weights_alone, "save the whole model"),
    Kind("Keras 3, `model.export`", "folder", keras_file(vocabulary, WORDS[:, None], "")),
    Kind("Keras 3, a layer of one's own, `model.export`", "folder", keras_file(with_own_layer, PIXELS, "")),
    # Before tf_keras is imported here, with which TensorFlow could load it.
    Kind("tf_keras, with its optimizer", "folder", keras_2_file(dense, PIXELS, "", fitted=True), "", "tf_keras"),
    *[
        kind
        for end in (".keras", ".h5")
        for kind in (
            Kind("tf_keras, Sequential", f"`{end}`", keras_2_file(dense, PIXELS, end), "", "tf_keras"),
            Kind("tf_keras, GRU", f"`{end}`", keras_2_file(recurrent, STEPS, end), _KERAS_2, "tf_keras"),
            Kind(
                "tf_keras, GRU, `lambdas = true`",
                f"`{end}`",
                keras_2_file(recurrent, STEPS, end, lambdas=True),
                "",
                "tf_keras",
            ),
        )
    ],
    Kind("tf_keras, `model.export`", "folder", keras_2_file(recurrent, STEPS, ""), "", "tf_keras"),
    Kind("`tf.Module`, several inputs and outputs", "folder", saved_case),
    Kind("`tf.Module`, another signature", "folder", module(lambda tf, x: x * 2, signature="twice", x=PIXELS)),
    Kind(
        "`tf.Module` without a signature", "folder", without_signature, "no signature 'serving_default'; it has: none"
    ),
    Kind("`tf.Module`, a flag", "folder", with_flag, r'single value.* constants = \{"training" = false\}'),
    Kind("`tf.Module`, a flag, `constants`", "folder", partial(with_flag, constants={"training": False})),
    Kind("`tf.Module`, rows of any size", "folder", free_sizes),
    Kind("`tf.Module`, files of images", "folder", module(decoded, data=objects([png(one) for one in IMAGES]))),
    Kind("`tf.Module`, `tf.train.Example`", "folder", lambda folder: module(parsed, examples=examples())(folder)),
    *[
        Kind(f"`tf.Module`, {np.dtype(dtype).name}", "folder", of_type(dtype))
        for dtype in ("float16", ml_dtypes.bfloat16, "float64", "int8", "uint8", "int32", "int64", "bool", "complex64")
    ],
    Kind("TensorFlow 1", "folder", old_saved_case),
    Kind("TensorFlow 1, a lookup table", "folder", lambda folder: old_saved_case(folder, table=True)),
    Kind("Estimator, `tf.train.Example`", "folder", estimator),
    Kind("tree of versions", "folder", version_case),
    Kind("frozen graph with loops", "`.pb`", frozen_case),
    Kind("graph that is not frozen", "`.pb`", not_frozen, "name its checkpoint's .meta"),
    Kind("frozen graph, no `outputs`", "`.pb`", with_changes(frozen_case), "name some in outputs; .* 'wide:0'"),
    Kind(
        "frozen graph, wrong `inputs`", "`.pb`", with_changes(frozen_case, **{**NAMES, "inputs": ["a:0"]}), "'left:0'"
    ),
    Kind("checkpoint", "`.meta`", checkpoint_case),
    Kind("checkpoint of training, `constants`", "`.meta`", training),
    Kind("checkpoint without a name", "`.meta`", lambda folder: training(folder, named=False)),
    Kind("TFLite with signatures", "`.tflite`", tflite_case),
    Kind("TFLite without", "`.tflite`", lambda folder: tflite_case(folder, signature=False)),
    *[Kind(f"TFLite, {how}", "`.tflite`", tflite_file(how)) for how in ("float16", "dynamic range", "int8", "int16x8")],
    Kind("TFLite with operations of TensorFlow", "`.tflite`", flex, "serve the SavedModel"),
    Kind("jax2tf", "folder", jax_case, "", "jax"),
    # Refused as long as nothing in this process has imported the operations, so before those that name them.
    Kind("ydf", "folder", ydf_case, _lacking("SimpleMLInferenceOpWithHandle", "ydf_tf"), "ydf_tf"),
    Kind("ydf, `imports`", "folder", partial(ydf_case, imports=["ydf_tf"]), "", "ydf_tf"),
    Kind("tensorflow_text", "folder", texts_case, _lacking("CaseFoldUTF8", _TEXT), _TEXT),
    Kind("tensorflow_text", "`.pb`", partial(texts_case, frozen=True), _lacking("CaseFoldUTF8", _TEXT), _TEXT),
    Kind("tensorflow_text, `imports`", "folder", partial(texts_case, imports=[_TEXT]), "", _TEXT),
    Kind("tensorflow_text, `imports`", "`.pb`", partial(texts_case, frozen=True, imports=[_TEXT]), "", _TEXT),
    Kind("ONNX", "`.onnx`", onnx, "not a .keras, .h5, .hdf5, .pb, .meta, .tflite file, nor a SavedModel folder"),
]


def can_be_made(kind: Kind) -> bool:
    """Whether the library that writes it is installed."""
    return not kind.needs or find_spec(kind.needs) is not None


def written(numbers: Iterable[int], folder: Path) -> dict[int, Case]:
    """Kinds by their number, made in a process of their own: a worker does not have imported what writes them."""
    command = [sys.executable, "-m", "tests.kinds", folder, *map(str, numbers)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return {int(file.stem): pickle.loads(file.read_bytes()) for file in folder.glob("*.pickle")}  # noqa: S301


def table() -> str:
    """The kinds as `docs/models.md` has them."""
    rows = [f"| {kind.name} | {kind.form} | {'refused' if kind.refused else 'predicted'} |" for kind in KINDS]
    return "\n".join(["| model | `path` | |", "|---|---|---|", *rows])
