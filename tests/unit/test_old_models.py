"""Models as older TensorFlow and Keras 2 left them: read as their own libraries read them, or told what to do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.models.formats import inspect_model
from tasks.models.model_version import entry_digest
from tasks.preparation.make_snapshot import make_snapshot
from tests.models import keras_may_warn
from tests.unit.test_formats import loaded, refused
from worker_config.manifest import ModelEntry

ROWS = np.random.default_rng(3).random((23, 4), np.float32)
FLAGS = {"training:0": False, "rate:0": 0.25, "odd/name-1:0": "x"}


# --- Keras 2 ----------------------------------------------------------------------------------------------------------


def write_as_keras_2(path: Path) -> None:
    """What Keras 3 says of a layer that only Keras 2 has; files of tf_keras itself are in `test_model_kinds.py`."""
    config = {"class_name": "Functional", "module": "tf_keras.src.engine.functional", "config": {"name": "old"}}
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
            archive.writestr("config.json", json.dumps(config))
        return
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["model_config"] = json.dumps(config | {"class_name": "Gone"})
        file.create_group("model_weights")


@pytest.mark.parametrize("name", ["old.keras", "old.h5"])
@keras_may_warn()
def test_a_keras_2_file_says_so(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_as_keras_2(tmp_path / name)
    words = r"a Keras 2 file \(2.15.0\), which Keras 3 cannot read; export it as a SavedModel .*export\(folder\)"
    monkeypatch.setattr("tasks.models.formats.keras.find_spec", lambda _: None)
    for lambdas in (False, True):
        refused(
            ModelEntry(str(tmp_path / name), lambdas=lambdas), f"{words}.*install tf_keras here and say lambdas = true"
        )
    monkeypatch.setattr("tasks.models.formats.keras.find_spec", lambda _: "there")
    refused(ModelEntry(str(tmp_path / name)), f"{words}; or, if you trust the file, say lambdas = true")


# --- SavedModels with an optimizer that nobody knows any more ---------------------------------------------------------


def saved_with_optimizer(folder: Path, function: Any = None) -> Any:
    """A SavedModel whose object graph tells of the slots of an optimizer, as Keras 2 wrote them."""
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    module = tf.Module()
    module.weights = tf.Variable(np.random.default_rng(4).random((4, 3), np.float32))
    module.slot = tf.Variable(tf.zeros((4, 3)))
    module.optimizer = tf.Module()
    call = function or (lambda module, rows: {"wide": tf.tanh(rows @ module.weights)})
    module.serve = tf.function(
        lambda rows: call(module, rows), input_signature=[tf.TensorSpec([None, 4], name="rows")], autograph=False
    )
    tf.saved_model.save(module, folder, signatures=module.serve)
    path = folder / "saved_model.pb"
    form = SavedModel.FromString(path.read_bytes())
    nodes = form.meta_graphs[0].object_graph_def.nodes
    children = {child.local_name: child.node_id for child in nodes[0].children}
    nodes[children["optimizer"]].user_object.identifier = "an optimizer"
    nodes[children["optimizer"]].slot_variables.add(
        original_variable_node_id=children["weights"], slot_name="m", slot_variable_node_id=children["slot"]
    )
    path.write_bytes(form.SerializeToString())
    return module


def test_a_saved_model_with_an_optimizer_of_keras_2_is_loaded_without_it(tmp_path: Path) -> None:
    import tensorflow as tf

    module = saved_with_optimizer(tmp_path / "saved")
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(tmp_path / "saved"))
    entry = ModelEntry(str(tmp_path / "saved"))
    assert inspect_model(entry) == []
    expected = np.tanh(ROWS @ module.weights.numpy())
    np.testing.assert_allclose(loaded(entry).predict(ROWS), expected, rtol=1e-6)
    (tmp_path / "snapshot").mkdir()
    snapshot = make_snapshot(entry, entry_digest(entry), tmp_path / "snapshot")
    assert (snapshot.kind, [spec.name for spec in snapshot.outputs]) == ("mapped", ["wide"])


def test_one_that_cannot_be_frozen_says_what_to_do(tmp_path: Path) -> None:
    def counting(module: Any, rows: Any) -> Any:
        return {"wide": rows @ module.weights.assign_add(module.weights)}

    saved_with_optimizer(tmp_path / "saved", counting)
    words = (
        r"its Keras 2 optimizer.*writes to a variable.*AssignAddVariableOp.*save it anew with include_optimizer=False"
    )
    refused(ModelEntry(str(tmp_path / "saved")), words)
