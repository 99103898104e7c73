"""Classes and operations that Keras and TensorFlow do not have: imported before a model is loaded, wherever it is."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import System, serving
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
needs_ydf = pytest.mark.skipif(
    not (importlib.util.find_spec("ydf") and importlib.util.find_spec("ydf_tf")), reason="needs the extra 'kinds'"
)


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
def system(folder: Path, beside: Path, expected: np.ndarray) -> Iterator[System]:
    own = {"path": "own.keras", "imports": ["own_layers"]}
    models = {
        "own": own,
        "worded": {**own, "postprocess": "own_steps:words", "files": ["vocab.json"]},
    }
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
        system.celery("control", "reload_models")
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


@needs_ydf
def test_a_forest_of_ydf_is_served_by_its_own_operations(tmp_path_factory: pytest.TempPathFactory) -> None:
    import pandas as pd
    import tensorflow as tf
    import ydf
    import ydf_tf  # noqa: F401

    folder = tmp_path_factory.mktemp("s")
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"age": random.uniform(18, 90, 300), "city": random.choice(["a", "b", "c"], 300)})
    frame["label"] = (frame["age"] > 50) & (frame["city"] != "a")
    forest = ydf.GradientBoostedTreesLearner(label="label", num_trees=5).train(frame, verbose=0)
    forest.to_tensorflow_saved_model(str(folder / "forest"), mode="tf")
    rows = {"age": frame["age"].to_numpy(np.float32), "city": frame["city"].to_numpy(object)}
    signature = tf.saved_model.load(str(folder / "forest")).signatures["serving_default"]
    tensors = {name: tf.constant(array) for name, array in rows.items()}
    (expected,) = (tensor.numpy() for tensor in signature(**tensors).values())
    manifest = write_manifest(folder, {"forest": {"path": "forest", "imports": ["ydf_tf"]}})
    with serving(folder, manifest, children=1) as system, Client(system.url) as client:
        outputs = client.predict("forest", rows, chunk_rows=70)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5)
