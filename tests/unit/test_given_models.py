"""Models in memory become what a worker can load, with the same outputs; what is no model is told in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from producer.embedded.given_models import write_models
from producer.embedded.keras_file import has_own_code
from tasks.child.load_model import load_model
from tasks.models.model_version import entry_digest
from tasks.preparation.serving_spec import ServingSpec
from tests.at_hand import ROWS, Doubled, Module, Own, Silent, plain, predicted, relu, tflite, two_inputs
from tests.models import keras_may_warn
from worker_config.errors import CeleriacError, ConfigError, ModelLoadError, UsageError
from worker_config.manifest import read_manifest

MODULE = Module()


def loaded(given: Any, folder: Path) -> Any:
    """What a worker makes of it."""
    folder.mkdir()
    manifest, _ = write_models({"m": given}, folder)
    entry = read_manifest(manifest)["m"]
    return load_model(ServingSpec("m", entry_digest(entry), entry, batch_rows=entry.batch_rows))


def outputs_of(given: Any, folder: Path, rows: Any = ROWS) -> Any:
    return loaded(given, folder).predict(rows)


def own() -> Any:
    model = Own()
    model(ROWS[:1])
    return model


def of_calls() -> Any:
    model = keras.Sequential([keras.layers.Dense(2, activation=lambda x: x * x)])
    model(ROWS[:3])
    return model


def with_layer(layer: Any) -> Any:
    return keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(2)])


KERAS = {
    "plain": plain,
    "subclass": own,
    "built by a call": of_calls,
    "Lambda": lambda: with_layer(keras.layers.Lambda(lambda x: x + 1)),
    "a layer": lambda: with_layer(Doubled()),
    "a layer that tells nothing": lambda: with_layer(Silent(lambda x: x * 5)),
    "a function called as one of Keras's": lambda: with_layer(keras.layers.Dense(2, activation=relu)),
}


@pytest.mark.parametrize("make", KERAS.values(), ids=list(KERAS))
def test_keras_models_give_what_they_give_here(tmp_path: Path, make: Any) -> None:
    with keras_may_warn():
        model = make()
        got = outputs_of(model, tmp_path / "m")
    np.testing.assert_allclose(got, predicted(model, ROWS), rtol=1e-5, atol=1e-6)


def test_a_list_of_inputs_keeps_its_order(tmp_path: Path) -> None:
    with keras_may_warn():
        model = loaded(two_inputs(), tmp_path / "m")
    assert [one.name for one in model.info.inputs] == ["right", "left"]
    assert model.info.ordered


def test_a_dict_of_inputs_has_no_order(tmp_path: Path) -> None:
    one, other = keras.Input((8,), name="one"), keras.Input((8,), name="other")
    with keras_may_warn():
        model = loaded(
            keras.Model({"one": one, "other": other}, keras.layers.Add()([Doubled()(one), other])), tmp_path / "m"
        )
    assert not model.info.ordered
    assert {one.name for one in model.info.inputs} == {"one", "other"}


def test_models_of_tf_keras_are_models(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(2)])
    np.testing.assert_allclose(outputs_of(model, tmp_path / "m"), model.predict(ROWS, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["module", "function", "concrete", "loaded"])
def test_what_tensorflow_can_save_is_a_model(tmp_path: Path, kind: str) -> None:
    given: Any = {"module": MODULE, "function": MODULE.__call__}.get(kind, MODULE.__call__.get_concrete_function())
    if kind == "loaded":
        tf.saved_model.save(MODULE, str(tmp_path / "saved"))
        given = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(outputs_of(given, tmp_path / "m"), ROWS * 3)


def test_bytes_of_a_tflite_file_are_a_model(tmp_path: Path) -> None:
    with keras_may_warn():
        model = plain()
        got = outputs_of(tflite(model), tmp_path / "m")
    np.testing.assert_allclose(got, predicted(model, ROWS), rtol=1e-5, atol=1e-6)


def test_own_code_is_found_wherever_it_is() -> None:
    layers = keras.layers
    wraps = [
        Doubled(),
        layers.TimeDistributed(Doubled()),
        layers.Dense(2, kernel_regularizer=lambda w: keras.ops.sum(w)),
    ]
    wraps += [keras.Sequential([Doubled()]), layers.Dense(2, relu), layers.Lambda(keras.ops.sin)]
    for layer in wraps:
        assert has_own_code(keras.Sequential([keras.Input((8, 3)), layer])), layer
    patched = plain()
    patched.call = lambda rows, **_: rows
    assert has_own_code(patched)
    texts = layers.TextVectorization(output_sequence_length=4)
    texts.adapt(["a b", "c"])
    known = [layers.Bidirectional(layers.LSTM(3)), layers.Dense(2, keras.activations.gelu, kernel_regularizer="l2")]
    for model in (
        *(keras.Sequential([keras.Input((8, 3)), layer]) for layer in known),
        plain(),
        keras.Sequential([keras.Input((1,), dtype="string"), texts]),
        keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=5),
    ):
        assert not has_own_code(model), model.name


DIGEST = """
import sys
from pathlib import Path
from producer.embedded.given_models import write_models
from producer.embedded.keras_file import has_own_code
from tasks.models.model_version import entry_digest
from tests.at_hand import plain
from worker_config.manifest import read_manifest

for folder in map(Path, sys.argv[1:]):
    folder.mkdir()
    manifest, _ = write_models({"plain": plain()}, folder)
    print(entry_digest(read_manifest(manifest)["plain"]), (folder / "model0.keras").stat().st_size)
"""


def test_the_same_model_is_the_same_version_in_every_process(tmp_path: Path) -> None:
    told = []
    for number, seed in enumerate(("1", "2")):
        environ = {**os.environ, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", DIGEST, str(tmp_path / f"a{number}"), str(tmp_path / f"b{number}")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines()[0])  # the second model has other names of layers
    assert told[0] == told[1]


def test_what_is_wrong_is_told_before_anything_starts(tmp_path: Path) -> None:
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    without = tf.function(lambda rows: rows)
    wrong: dict[str, tuple[Any, type[CeleriacError], str]] = {
        "is a dict": ({}, ConfigError, r"local\(\): models.m has neither a path nor a chain"),
        "is a list": ([1], UsageError, r"models\['m'\] is a list; a model is one of Keras"),
        "has no weights": (unbuilt, UsageError, r"models\['m'\] has no weights yet: call it once"),
        "no signature": (without, UsageError, r"models\['m'\] is a tf.function without an input_signature"),
        "no module signature": (tf.Module(), UsageError, r"models\['m'\] is a Module without a signature"),
        "nothing": ("", ConfigError, r"local\(\): models.m has neither a path"),
        "objects": (
            {"path": "m.keras", "calibration": [object()]},
            UsageError,
            "calibration is no array of numbers",
        ),
        "bytes": (b"no model", UsageError, r"models\['m'\] is 8 bytes that are no .tflite file"),
        "two": ({"model": b"", "path": "m.keras"}, UsageError, r"models\['m'\] has a model and a path"),
        "key": ({"model": plain(), "batch": 1}, ConfigError, r"local\(\): models.m: .*unknown field `batch`"),
        "value": ({"path": "m.keras", "batch_rows": 0}, ConfigError, r"models.m.batch_rows is 0; the least is 1"),
        "number": ({"path": "m.keras", "batch_rows": np.int64(1)}, UsageError, r"models\['m'\]: .*int64"),
        "lambda": ({"path": "m.keras", "preprocess": lambda rows: rows}, UsageError, r"models\['m'\].preprocess is a"),
        "method": ({"model": "".join}, UsageError, r"models\['m'\] is a builtin_function_or_method; a model is"),
    }
    for name, (given, kind, text) in wrong.items():
        (tmp_path / name).mkdir()
        with keras_may_warn(), pytest.raises(kind, match=text):
            write_models({"m": given}, tmp_path / name)
    with pytest.raises(UsageError, match=r"models\['../m'\]: a name has letters"):
        write_models({"../m": plain}, tmp_path)
    with pytest.raises(UsageError, match="models is empty; name at least one"):
        write_models({}, tmp_path)


def test_a_library_that_cannot_save_a_model_is_told(tmp_path: Path) -> None:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)
    found = tf.function(lambda keys: table.lookup(keys), input_signature=[tf.TensorSpec([None], tf.string)])
    with pytest.raises(ModelLoadError, match=r"models\['m'\] cannot be saved: .*untracked' resource"):
        write_models({"m": found}, tmp_path)


def test_paths_count_from_the_current_folder_and_arrays_are_calibration_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    entry = {"precision": ["bfloat16"], "agreement": 0.9, "calibration": ROWS, "files": ["words.txt"]}
    given = {
        "a": {"path": Path("a.keras"), **entry, "preprocess": plain_step},
        "b": {"model": "b", "calibration": {"x": ROWS}},
        "c": {"chain": ["a", "b"]},
        "d": "tests.models:in_one_process",
        "e": "s3://models/e/",
    }
    manifest, folders = write_models(given, tmp_path / "here")
    entries = read_manifest(manifest)
    assert folders == []
    assert [entries[name].path for name in "abde"] == [
        str(tmp_path / "a.keras"), str(tmp_path / "b"), "tests.models:in_one_process", "s3://models/e/"
    ]  # fmt: skip
    np.testing.assert_array_equal(np.load(entries["a"].calibration), ROWS)
    np.testing.assert_array_equal(np.load(entries["b"].calibration)["x"], ROWS)
    assert entries["a"].files == [str(tmp_path / "words.txt")]
    assert entries["a"].preprocess == f"{__name__}:plain_step"


def plain_step(rows: Any) -> Any:
    return rows
