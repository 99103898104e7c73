"""Classes and operations that Keras and TensorFlow do not have: imported before a model is loaded, wherever it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import REPOSITORY, System, serving
from tests.waiting import wait_until

ROWS = np.random.default_rng(2).random((50, 4), np.float32)
VOCABULARY = ["none", "a few", "many"]
LAYERS = """
import keras


@keras.saving.register_keras_serializable("ours")
class Tripled(keras.layers.Layer):
    def call(self, rows):
        return rows * 3
"""
STEPS = """
import json
from pathlib import Path

import numpy as np

WORDS = json.loads((Path(__file__).parent / "vocab.json").read_text())


def words(scores):
    return np.array([WORDS[int(row.sum() * 7) % len(WORDS)] for row in scores])
"""
OPERATION = """
from pathlib import Path

import tensorflow as tf

tripled = tf.load_op_library(str(Path(__file__).with_name("libtripled.so"))).our_tripled
"""
OWN: dict[str, object] = {"path": "own.keras", "imports": ["own_layers"]}
COMPILER = shutil.which("gcc")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs gcc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def beside(folder: Path) -> Path:
    """The folder of the manifest, in which no worker is started."""
    beside = folder / "models"
    beside.mkdir()
    (beside / "own_layers.py").write_text(LAYERS)
    (beside / "own_steps.py").write_text(STEPS)
    (beside / "vocab.json").write_text(json.dumps(VOCABULARY))
    return beside


@pytest.fixture(scope="module")
def expected(beside: Path) -> np.ndarray:
    """What Keras gives; and its file."""
    import keras

    sys.path.append(str(beside))
    try:
        from own_layers import Tripled  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(beside))
    keras.utils.set_random_seed(1)
    with keras_may_warn():
        keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3), Tripled()]).save(beside / "own.keras")
    outputs = in_one_process(beside / "own.keras", ROWS)
    assert isinstance(outputs, np.ndarray)
    return outputs


@pytest.fixture(scope="module")
def operation(beside: Path) -> np.ndarray:
    """What TensorFlow gives for a SavedModel with an operation that it does not have; and its folder."""
    import tensorflow as tf

    (beside / "own_operation.py").write_text(OPERATION)
    flags = [*tf.sysconfig.get_compile_flags()[:1], *tf.sysconfig.get_link_flags()]
    source, library = REPOSITORY / "tests" / "own_operation.c", beside / "libtripled.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", source, "-o", library, *flags], check=True)
    tripled = tf.load_op_library(str(library)).our_tripled
    module = tf.Module()
    module.weights = tf.Variable(ROWS[:4])
    spec = tf.TensorSpec([None, 4], name="rows")
    module.serve = tf.function(lambda rows: {"y": tripled(rows) @ module.weights}, input_signature=[spec])
    tf.saved_model.save(module, beside / "operation", signatures=module.serve)
    expected: np.ndarray = module.serve(tf.constant(ROWS))["y"].numpy()
    return expected


@pytest.fixture(scope="module")
def system(folder: Path, beside: Path, expected: np.ndarray, request: pytest.FixtureRequest) -> Iterator[System]:
    models = {"own": OWN, "worded": {**OWN, "postprocess": "own_steps:words", "files": ["vocab.json"]}}
    if COMPILER:
        request.getfixturevalue("operation")
        models["operation"] = {"path": "operation", "imports": ["own_operation"], "files": ["libtripled.so"]}
    with serving(folder, write_manifest(beside, models)) as system:
        yield system


def test_a_registered_class_beside_the_manifest_is_found(client: Client, expected: np.ndarray) -> None:
    np.testing.assert_allclose(client.predict("own", ROWS), expected, rtol=1e-4, atol=1e-5)
    assert client.describe("own")[0].executor != "plain"


def test_so_are_functions_and_the_files_that_they_read(client: Client, expected: np.ndarray) -> None:
    words = client.predict("worded", ROWS)
    assert isinstance(words, np.ndarray)
    assert set(words.tolist()) <= set(VOCABULARY)
    assert len(set(words.tolist())) > 1


def test_what_children_have_read_is_not_reloaded(system: System, beside: Path, client: Client) -> None:
    before = client.digests("worded")

    def reload(told: str) -> None:
        said = system.workers[0].output().count(told)
        # A worker that has its children may not listen to commands yet.
        wait_until(lambda: not system.celery("control", "reload_models").returncode, "the worker is reached")
        wait_until(lambda: system.workers[0].output().count(told) > said, told)

    (beside / "own_steps.py").write_text("# A remark.\n" + STEPS)
    reload("models reloaded: nothing has changed")
    (beside / "vocab.json").write_text(json.dumps(VOCABULARY[::-1]))
    reload(f"models are not reloaded: ConfigError: {beside}/vocab.json has changed, which running children have")
    assert client.digests("worded") == before
    (beside / "vocab.json").write_text(json.dumps(VOCABULARY))


def test_a_changed_function_makes_no_snapshot_anew(system: System, beside: Path, folder: Path) -> None:
    other = folder / "other"
    shutil.copytree(beside, other)
    with (other / "own_steps.py").open("a") as file:
        file.write("\nMORE = 1\n")
    shown = system.celeriac("models", "--models", other / "models.toml", "--json", CELERIAC_BROKER_URL="")
    assert shown.returncode == 0, shown.stderr
    with Client(system.url) as client:
        held = client.digests(["own", "worded"])
    told = {model["name"]: model["digest"] for model in json.loads(shown.stdout)["models"]}
    assert told["own"] == held["own"]
    assert told["worded"] != held["worded"]
    assert "making a snapshot" not in shown.stderr


@needs_compiler
def test_an_operation_of_ones_own_is_there_in_every_process(
    system: System, beside: Path, client: Client, operation: np.ndarray
) -> None:
    def check() -> None:
        np.testing.assert_allclose(client.predict("operation", ROWS, chunk_rows=10), operation, rtol=1e-5)

    check()
    assert client.describe("operation")[0].executor != "plain"
    before = {slot.pid for slot in system.slots()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len({slot.pid for slot in system.slots()} - before) == len(before), "other children are ready")
    check()
    np.save(system.folder / "rows.npy", ROWS)
    command = ["predict", "operation", "rows.npy", "-o", "tripled.npy", "--models", beside / "models.toml"]
    embedded = system.celeriac(*command, CELERIAC_BROKER_URL="")
    assert embedded.returncode == 0, embedded.stderr
    np.testing.assert_allclose(np.load(system.folder / "tripled.npy"), operation, rtol=1e-5)


@needs_compiler
def test_what_is_lacking_is_told_with_what_to_do(system: System, beside: Path, operation: np.ndarray) -> None:
    (beside / "raising.py").write_text("raise OSError('libown.so: no such file')")
    imports = {"bare": [], "absent": ["absent_operations"], "raising": ["raising"]}
    models = {name: {"path": "operation", "imports": modules} for name, modules in imports.items()}
    manifest = write_manifest(beside, {"own": OWN, **models}, "lacking.toml")
    shown = system.celeriac("models", "--models", manifest, "--json", CELERIAC_BROKER_URL="")
    told = json.loads(shown.stdout)["broken"]
    assert "it needs the operation 'OurTripled', which TensorFlow itself does not have" in told["bare"]
    assert 'name its module in the manifest, imports = ["package.module"]' in told["bare"]
    assert "the module absent_operations of imports (ModuleNotFoundError: No module named" in told["absent"]
    assert "the module raising of imports (OSError: libown.so: no such file)" in told["raising"]
    assert not any("\n" in error for error in told.values())
