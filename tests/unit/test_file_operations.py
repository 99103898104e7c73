"""Operations that touch files, the network or Python: found without loading a model, and refused unless allowed."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tasks.models.formats import inspect_model, open_model
from tests.models import keras_may_warn
from worker_config.manifest import ModelEntry


def found(entry: ModelEntry) -> list[str]:
    """The operations of a model, each with what it touches."""
    return [f"{one.operation} {one.touches}" for one in inspect_model(entry)]


def save(folder: Path, serve: Callable[..., Any], **tracked: Any) -> ModelEntry:
    """A SavedModel of one function of strings, and whatever else is to be kept with it."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    tf.saved_model.save(module, str(folder / "saved"), signatures=module.serve)
    return ModelEntry(str(folder / "saved"))


def check_refused(entry: ModelEntry, operation: str) -> None:
    with pytest.raises(ValueError, match=rf"its operation {operation} .* allow_file_operations = true in the manifest"):
        open_model(entry)
    assert open_model(msgspec.structs.replace(entry, allow_file_operations=True)).inputs


class TestSavedModels:
    def test_one_that_reads_the_files_that_rows_name(self, tmp_path: Path) -> None:
        import tensorflow as tf

        def each(path: Any) -> Any:
            return tf.cond(tf.strings.length(path) == 0, lambda: "", lambda: tf.io.read_file(path))

        entry = save(tmp_path, lambda x: {"y": tf.map_fn(each, x)})
        assert found(entry) == ["ReadFile files"]
        check_refused(entry, "ReadFile")

    def test_one_that_writes_calls_python_and_prints_into_a_file(self, tmp_path: Path) -> None:
        import tensorflow as tf

        def serve(x: Any) -> dict[str, Any]:
            tf.print(x, output_stream=f"file://{tmp_path}/printed")
            tf.print("to people", output_stream=sys.stderr)
            with tf.control_dependencies([tf.io.write_file(str(tmp_path / "written"), x[0])]):
                return {"y": tf.numpy_function(lambda value: value, [x], tf.string)}

        entry = save(tmp_path, serve)
        assert found(entry) == ["PrintV2 files", "PyFunc Python", "WriteFile files"]
        check_refused(entry, "PrintV2")
        assert not (tmp_path / "written").exists()

    def test_what_writes_when_tables_are_filled_is_found_before_it_is_done(self, tmp_path: Path) -> None:
        import tensorflow as tf

        class Writes(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
            def _create_resource(self) -> Any:
                return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

            def _initialize(self) -> None:
                tf.io.write_file(str(tmp_path / "written"), "by the model")

        resource = Writes()
        _ = resource.resource_handle

        def serve(x: Any) -> dict[str, Any]:
            missing = tf.constant(-1, tf.int64)
            return {
                "y": tf.raw_ops.LookupTableFindV2(table_handle=resource.resource_handle, keys=x, default_value=missing)
            }

        entry = save(tmp_path, serve, resource=resource)
        (tmp_path / "written").unlink(missing_ok=True)
        assert found(entry) == ["WriteFile files"]
        with pytest.raises(ValueError, match="its operation WriteFile"):
            open_model(entry)
        assert not (tmp_path / "written").exists()

    def test_its_own_vocabulary_is_read_and_another_file_is_not(self, tmp_path: Path) -> None:
        import tensorflow as tf
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        (tmp_path / "words.txt").write_text("a\nb\n")
        keys = (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE)
        initializer = tf.lookup.TextFileInitializer(
            str(tmp_path / "words.txt"), *keys, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(initializer, -1)
        entry = save(tmp_path, lambda x: {"y": table.lookup(x)}, table=table)
        assert found(entry) == []
        assert open_model(entry).inputs

        path = tmp_path / "saved" / "saved_model.pb"
        form = SavedModel.FromString(path.read_bytes())
        (asset,) = form.meta_graphs[0].asset_file_def
        asset.filename = "../../secrets.txt"
        path.write_bytes(form.SerializeToString())
        assert found(entry) == ["InitializeTableFromTextFileV2 files"]

    def test_functions_that_nobody_calls_may_do_what_they_want(self, tmp_path: Path) -> None:
        import tensorflow as tf

        reads = tf.function(tf.io.read_file, input_signature=[tf.TensorSpec([], tf.string)])
        entry = save(tmp_path, lambda x: {"y": tf.strings.length(x)}, reads=reads, weights=tf.Variable([1.0]))
        assert found(entry) == []
        assert open_model(entry).inputs


def test_graphs_are_looked_at_as_far_as_their_outputs_need_them(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        rows = v1.placeholder(tf.string, [None], "x")
        tf.map_fn(tf.io.read_file, rows, name="read")
        weights = v1.get_variable("weights", initializer=[1.0, 2.0])
        scaled = tf.strings.to_number(rows)[:, None] * weights
        tf.identity(scaled, "y")
        with tf.control_dependencies([tf.io.write_file(str(tmp_path / "written"), "from the graph")]):
            tf.identity(scaled, "z")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"))
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["y", "z"])
    (tmp_path / "frozen.pb").write_bytes(frozen.SerializeToString())
    for name in ("frozen.pb", "model.meta"):
        entry = ModelEntry(str(tmp_path / name), inputs=["x:0"], outputs=["y:0"])
        assert found(entry) == [], "the checkpoint itself is a file of the model"
        assert open_model(entry).inputs
        check_refused(msgspec.structs.replace(entry, outputs=["z:0"]), "WriteFile")
    assert not (tmp_path / "written").exists()


def test_layers_with_python_or_files_of_their_own(tmp_path: Path) -> None:
    import keras

    words = keras.layers.StringLookup(vocabulary=["a", "b"], name="words")
    model = keras.Sequential([keras.Input((1,), dtype="string"), words])
    path, odd = tmp_path / "words.keras", tmp_path / "odd.keras"
    with keras_may_warn():
        model.save(path)
        keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1, name="plus")]).save(odd)
    assert found(ModelEntry(str(path))) == []
    assert found(ModelEntry(str(odd))) == ["Lambda Python"]

    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(odd, "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            if name == "config.json":
                config = json.loads(data)
                config["config"]["layers"][1]["config"]["vocabulary"] = "/etc/hostname"
                data = json.dumps(config).encode()
            archive.writestr(name, data)
    assert found(ModelEntry(str(odd))) == ["StringLookup files"]
    with pytest.raises(ValueError, match=r"its operation StringLookup \(words\) touches files; export the model"):
        open_model(ModelEntry(str(odd)))


def test_custom_operations_of_tflite(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([4], tf.string), tf.TensorSpec([4], tf.float32)])  # type: ignore[untyped-decorator]
    def serve(paths: Any, numbers: Any) -> Any:
        return tf.strings.length(tf.io.read_file(paths[0])), tf.math.betainc(numbers, numbers, numbers)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()])
    converter.allow_custom_ops = True
    (tmp_path / "odd.tflite").write_bytes(converter.convert())
    entry = ModelEntry(str(tmp_path / "odd.tflite"))
    assert {"Betainc unknown", "ReadFile files"} <= set(found(entry))
    with pytest.raises(ValueError, match=r"its operation ReadFile \(odd.tflite\) touches files"):
        open_model(entry)
