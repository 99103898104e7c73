"""Models as older TensorFlow and Keras 2 left them: read as their own libraries read them, or told what to do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.models.formats import inspect_model, open_model
from tasks.models.model_version import entry_digest, model_digest
from tasks.models.program import concrete
from tasks.preparation.make_snapshot import make_snapshot
from tests.formats import control_flow_of_tensorflow_1
from tests.loaded import loaded, refused
from tests.models import keras_may_warn
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


# --- checkpoints and graphs of TensorFlow 1 ---------------------------------------------------------------------------


@control_flow_of_tensorflow_1()
def write_checkpoint(prefix: str, *, wrong_shapes: bool = False) -> np.ndarray[Any, Any]:
    """A model with flags, and what trained it; what it gives for `ROWS` with `FLAGS`."""
    import tensorflow as tf
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        rows = v1.placeholder(tf.float32, [None, 4], "rows")
        labels = v1.placeholder(tf.int64, [None], "labels")
        training = v1.placeholder(tf.bool, name="training")  # of no known shape
        rate = v1.placeholder(tf.float32, [], "rate")
        text = v1.placeholder_with_default("y", [], "odd/name-1")
        weights = v1.get_variable("weights", initializer=np.random.default_rng(5).random((4, 3), np.float32))
        dropped = v1.cond(training, lambda: v1.nn.dropout(rows, rate=rate), lambda: rows * (1 - rate))
        logits = tf.matmul(dropped, weights) + tf.cast(tf.equal(text, "x"), tf.float32)
        tf.nn.softmax(logits, name="scores")
        tf.argmax(logits, 1, name="label")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits), name="loss")
        v1.train.AdamOptimizer().minimize(loss, global_step=v1.train.get_or_create_global_step())
        v1.summary.scalar("told", loss)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, prefix)
        expected = session.run("scores:0", {"rows:0": ROWS, **FLAGS})
    if wrong_shapes:
        path = Path(f"{prefix}.meta")
        meta = MetaGraphDef.FromString(path.read_bytes())
        node = next(node for node in meta.graph_def.node if node.name.startswith("gradients") and node.op == "Reshape")
        del node.attr["_output_shapes"].list.shape[:]
        node.attr["_output_shapes"].list.shape.add().dim.add(size=977)
        node.attr["_output_shapes"].list.shape[0].dim.add(size=5)
        node.attr["_output_shapes"].list.shape[0].dim.add(size=5)
        path.write_bytes(meta.SerializeToString())
    return np.asarray(expected)


ENTRY: dict[str, Any] = {"outputs": ["scores:0"], "constants": FLAGS}


@pytest.mark.parametrize("wrong_shapes", [False, True])
def test_flags_are_given_in_the_manifest(tmp_path: Path, wrong_shapes: bool) -> None:
    import tensorflow as tf

    expected = write_checkpoint(f"{tmp_path}/model", wrong_shapes=wrong_shapes)
    if wrong_shapes:
        with tf.Graph().as_default(), pytest.raises(ValueError, match="_output_shapes"):
            tf.compat.v1.train.import_meta_graph(f"{tmp_path}/model.meta")
    entry = ModelEntry(f"{tmp_path}/model.meta", **ENTRY)
    program = open_model(entry)
    assert [spec.name for spec in program.inputs] == ["rows:0"]
    ran = {operation.type for operation in concrete(program).graph.get_operations()}
    assert not ran & {"RandomUniform", "Merge"}  # of the branch that is not taken
    np.testing.assert_allclose(loaded(entry).predict(ROWS), expected, rtol=1e-6)
    other = msgspec.structs.replace(entry, constants={**FLAGS, "rate:0": 0.5})
    assert entry_digest(other) != entry_digest(entry)
    assert not np.allclose(loaded(other).predict(ROWS), expected)
    with_inputs = msgspec.structs.replace(entry, inputs=["rows:0"])
    np.testing.assert_allclose(loaded(with_inputs).predict(ROWS), expected, rtol=1e-6)


WRONG = {
    "no such": (
        {"train:0": False},
        r"no placeholder 'train:0' for constants; the graph's are 'rows:0', 'labels:0', 'tr",
    ),
    "another number": ({"training:1": False}, "no placeholder 'training:1' for constants"),
    "a variable": ({"weights:0": 1}, "no placeholder 'weights:0' for constants"),
    "rows": ({"labels:0": 1}, "constants give 'labels:0', which has rows; it is an input"),
    "no flag": ({"training:0": 1}, "constants give 'training:0' the value 1, and it is of bool"),
    "a flag": ({"rate:0": True}, "constants give 'rate:0' the value True, and it is of float32"),
    "text": ({"rate:0": "0.5"}, "constants give 'rate:0' the value '0.5', and it is of float32"),
    "a number": ({"odd/name-1:0": 3}, "constants give 'odd/name-1:0' the value 3, and it is of string"),
    "none": ({}, r"'training:0' has no known shape; a flag .* constants = {\"training:0\" = false}"),
    "one too few": ({"training:0": False}, r"its input 'rate:0' is a single value.* constants = {\"rate:0\" = false}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_constants_that_cannot_be_are_told_before_a_snapshot_is_made(tmp_path: Path, case: str) -> None:
    constants, words = WRONG[case]
    write_checkpoint(f"{tmp_path}/model")
    entry = ModelEntry(f"{tmp_path}/model.meta", outputs=["scores:0"], constants=constants)
    refused(entry, words)
    with pytest.raises(ValueError, match=words):
        open_model(entry)


@keras_may_warn()
def test_constants_are_for_graphs(tmp_path: Path) -> None:
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "a.keras")
    saved_with_optimizer(tmp_path / "saved")
    for name in ("a.keras", "saved"):
        refused(ModelEntry(str(tmp_path / name), constants={"x:0": True}), "constants are for .pb and .meta files, and")


def test_a_checkpoint_without_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "nameless"
    folder.mkdir()
    expected = write_checkpoint(f"{folder}/")
    assert sorted(path.name for path in folder.glob(".*")) == [".data-00000-of-00001", ".index", ".meta"]
    entry = ModelEntry(f"{folder}/.meta", **ENTRY)
    np.testing.assert_allclose(loaded(entry).predict(ROWS), expected, rtol=1e-6)
    before = model_digest(folder / ".meta")
    (folder / ".meta.swp").touch()
    (folder / "other.index").touch()
    assert model_digest(folder / ".meta") == before
    (folder / ".index").unlink()
    refused(entry, "no checkpoint beside it: .index is missing")


def test_the_outputs_that_are_likely_come_first_in_a_hint(tmp_path: Path) -> None:
    write_checkpoint(f"{tmp_path}/model")
    with pytest.raises(ValueError, match="which outputs to take is not clear") as told:
        open_model(ModelEntry(f"{tmp_path}/model.meta"))
    assert str(told.value).endswith("; the graph ends in 'scores:0', 'label:0'")


def test_wrong_names_of_inputs_are_told_before_a_saved_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_with_optimizer(tmp_path / "saved")
    monkeypatch.setattr("tasks.models.formats.open_saved_model", lambda *_: pytest.fail("it is loaded"))
    refused(ModelEntry(str(tmp_path / "saved"), inputs=["row"]), "inputs in the manifest are 'row'.*model are 'rows'")
