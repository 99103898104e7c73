"""Every format of models: the outputs of TensorFlow's own loader, and one clear line for what is no model."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from producer.cli.manifest import check_names, model_digests
from tasks.models.formats import open_model
from tasks.models.model_version import entry_digest, source_text
from tasks.snapshots.cache import cache_key
from tests.formats import (
    CASES,
    FUNCTIONS,
    NAMES,
    Case,
    checkpoint_case,
    control_flow_of_tensorflow_1,
    frozen_case,
    graph_bytes,
    old_saved_case,
    run_session,
    tflite_case,
    weights_of,
)
from tests.loaded import BATCH_ROWS, check_equal, loaded, refused
from tests.models import keras_may_warn
from worker_config.errors import InputError, ModelError, ModelLoadError
from worker_config.manifest import ModelEntry, read_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module", autouse=True)
def functions(folder: Path) -> Any:
    """Functions are looked for in the folder in which a worker was started."""
    (folder / "format_functions.py").write_text(FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield


@pytest.mark.parametrize("case", CASES)
def test_every_format_gives_the_outputs_of_its_own_loader(folder: Path, case: str) -> None:
    known: Case = CASES[case](folder)
    model = loaded(known.entry)
    check_equal(model.predict(known.rows), known.expected)  # several batches and a padded tail
    for count in (1, BATCH_ROWS, BATCH_ROWS + 1):
        rows = {name: array[:count] for name, array in known.rows.items()}
        check_equal(model.predict(rows), {name: array[:count] for name, array in known.expected.items()})
    if not model.function:
        none = model.predict({name: array[:0] for name, array in known.rows.items()})
        assert {name: (array.shape, array.dtype) for name, array in none.items()} == {
            name: ((0, *array.shape[1:]), array.dtype) for name, array in known.expected.items()
        }
    assert entry_digest(known.entry) == entry_digest(known.entry)


def test_what_cannot_be_shared_says_why(tmp_path: Path) -> None:
    whys = {}
    for number, (case, make) in enumerate(CASES.items()):
        (tmp_path / str(number)).mkdir()
        whys[case] = open_model(make(tmp_path / str(number)).entry).why_plain
    said = {case for case, why in whys.items() if why}
    assert said == {"TF1 SavedModel with a table", "TFLite with a signature", "TFLite without", "function"}
    assert "lookup tables" in whys["TF1 SavedModel with a table"]
    assert "mapped by its interpreter" in whys["TFLite without"]


def test_large_constants_become_variables_and_graphs_with_functions_of_the_same_names_keep_apart(
    tmp_path: Path,
) -> None:
    cases = [frozen_case(tmp_path, factor=factor) for factor in (2.0, 5.0)]
    models = [loaded(case.entry) for case in cases]
    for case, model in zip(cases, models, strict=True):
        check_equal(model.predict(case.rows), case.expected)
        assert [variable.name for variable in open_model(case.entry).variables] == ["Const:0"]
    wide = [case.expected["wide:0"] for case in cases]
    assert not np.allclose(*wide)


def test_a_program_can_be_saved_again_with_its_variables(tmp_path: Path) -> None:
    import tensorflow as tf

    from tasks.models.program import concrete

    for make in (frozen_case, checkpoint_case, old_saved_case):
        case = make(tmp_path)
        program = open_model(case.entry)
        module = tf.Module()
        module.variables_, module.tracked = list(program.variables), program.tracked
        assert sum(variable.numpy().nbytes for variable in program.variables) > 2**16
        saved = tmp_path / f"{make.__name__}_again"
        tf.saved_model.save(module, saved, signatures=concrete(program))
        assert sum(file.stat().st_size for file in (saved / "variables").iterdir()) > 2**16
        signature = tf.saved_model.load(str(saved)).signatures["serving_default"]
        arrays = [case.rows[spec.name] for spec in program.inputs]
        again = signature(**{f"input_{number}": tf.constant(array) for number, array in enumerate(arrays)})
        for number, spec in enumerate(program.outputs):
            check_equal({spec.name: again[f"output_{number}"].numpy()}, {spec.name: case.expected[spec.name]})


def test_a_graph_that_leaves_no_choice_needs_no_names(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        rows = tf.compat.v1.placeholder(tf.float32, [None, 2], "rows")
        tf.identity(rows * 3.0, name="tripled")
    (tmp_path / "a.pb").write_bytes(graph.as_graph_def().SerializeToString())
    model = loaded(ModelEntry(str(tmp_path / "a.pb")))
    assert ([s.name for s in model.info.inputs], [s.name for s in model.info.outputs]) == (["rows:0"], ["tripled:0"])
    np.testing.assert_array_equal(model.predict(np.ones((7, 2), np.float32)), np.full((7, 2), 3.0))
    fed_inside = loaded(ModelEntry(str(tmp_path / "a.pb"), inputs=["mul:0"]))
    np.testing.assert_array_equal(fed_inside.predict(np.ones((7, 2), np.float32)), np.ones((7, 2)))


def test_arrays_of_loops_and_devices_that_are_not_here_are_no_hindrance(tmp_path: Path) -> None:
    import tensorflow as tf

    def graph(device: str) -> bytes:
        with control_flow_of_tensorflow_1(), tf.Graph().as_default() as graph, tf.device(device):
            rows = tf.compat.v1.placeholder(tf.float32, [None, 5, 4], "rows")
            weights = tf.constant(weights_of(1))

            def write(i: Any, written: Any) -> Any:
                return i + 1, written.write(i, rows[:, i] @ weights)

            array = tf.compat.v1.TensorArray(tf.float32, 5)
            _, written = tf.compat.v1.while_loop(lambda i, _: i < 5, write, [0, array])
            tf.transpose(written.stack(), [1, 0, 2], name="y")
        data: bytes = graph.as_graph_def().SerializeToString()
        return data

    rows = np.random.default_rng(1).random((7, 5, 4), np.float32)
    path = tmp_path / "a.pb"
    path.write_bytes(graph("/job:worker/device:GPU:3"))
    entry = ModelEntry(str(path), outputs=["y:0"])
    check_equal(loaded(entry).predict(rows), run_session(graph("/cpu:0"), {"rows:0": rows}, ["y:0"]))
    assert len(open_model(entry).variables) == 1


GRAPH_ERRORS = {
    "no outputs": ({"inputs": NAMES["inputs"]}, "which outputs to take is not clear.*'wide:0'.*'text:0'"),
    "no such output": ({**NAMES, "outputs": ["wid:0"]}, "no tensor 'wid:0' for outputs.*'wide:0'"),
    "no such number": ({**NAMES, "outputs": ["split:4"]}, "no tensor 'split:4'.*'split:0', 'split:1'"),
    "no such input": ({**NAMES, "inputs": ["x:0"]}, "no tensor 'x:0' for inputs.*'left:0', 'odd/right.1-x:0'"),
    "an input too few": ({**NAMES, "inputs": ["left:0"]}, "need 'odd/right.1-x:0', 'words:0' too"),
    "a single value": ({"inputs": [*NAMES["inputs"], "scale:0"], "outputs": ["wide:0"]}, "'scale:0' is a single value"),
}


@pytest.mark.parametrize("case", GRAPH_ERRORS)
def test_wrong_tensor_names_are_told_with_those_that_exist(tmp_path: Path, case: str) -> None:
    names, words = GRAPH_ERRORS[case]
    path = tmp_path / "a.pb"
    path.write_bytes(graph_bytes())
    refused(ModelEntry(str(path), **names), words)


def test_what_is_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    import tensorflow as tf

    def file(name: str, data: bytes = b"this is no model") -> ModelEntry:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return ModelEntry(str(path))

    refused(file("a.pb"), "not a frozen graph")
    refused(file("empty.pb", b""), "the graph is empty")
    refused(file("a.keras"), "not a .keras file: it is no zip archive")
    refused(file("a.h5"), "not a Keras model: it is no HDF5 file")
    refused(file("a.tflite"), "not a TFLite file")
    refused(file("a.meta"), "a.index is missing")
    file("b.index")
    refused(file("b.meta"), "not a .meta file")
    refused(file("a.onnx"), "not a .keras, .h5, .hdf5, .pb, .meta, .tflite file")
    refused(file("saved/saved_model.pb"), "part of a SavedModel; name its folder")
    refused(ModelEntry(str(tmp_path / "saved")), "not a SavedModel")
    refused(ModelEntry(str(tmp_path / "none")), "No such file or directory$")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("a", "b")
    refused(ModelEntry(str(tmp_path / "zip.keras")), "not a Keras model")
    with tf.Graph().as_default() as graph:
        tf.identity(tf.compat.v1.get_variable("w", [2]) + tf.compat.v1.placeholder(tf.float32, [None, 2]), name="y")
    unfrozen = file("unfrozen.pb", graph.as_graph_def().SerializeToString())
    refused(msgspec.structs.replace(unfrozen, outputs=["y:0"]), "not frozen: it has variables, such as 'w'.*[.]meta$")
    with tf.Graph().as_default() as graph:
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
        tf.identity(table.lookup(tf.compat.v1.placeholder(tf.string, [None])), name="y")
    tables = file("tables.pb", graph.as_graph_def().SerializeToString())
    refused(msgspec.structs.replace(tables, outputs=["y:0"]), "lookup tables, such as 'hash_table'")
    with tf.Graph().as_default() as graph:
        tf.identity(tf.compat.v1.placeholder(tf.float32, None, "x"), name="y")
    refused(file("shapeless.pb", graph.as_graph_def().SerializeToString()), "'x:0' has no known shape")
    definition = tf.compat.v1.GraphDef.FromString(graph_bytes())
    definition.node.add(name="odd", op="NobodyKnowsThisOp", input=["left"])
    unknown = file("unknown.pb", definition.SerializeToString())
    refused(msgspec.structs.replace(unknown, outputs=["odd:0"]), "NobodyKnowsThisOp")


def test_wrong_signatures_are_told_with_those_that_exist(tmp_path: Path) -> None:
    for make in (CASES["SavedModel"], CASES["TF1 SavedModel"]):
        refused(msgspec.structs.replace(make(tmp_path).entry, signature="other"), "'other'; it has: serving_default$")
    refused(msgspec.structs.replace(tflite_case(tmp_path).entry, signature="other"), "'other'; it has: only$")


def test_a_tflite_file_with_an_operation_that_is_not_there_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def betainc(rows: Any) -> Any:
        return tf.math.betainc(rows, rows, rows)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([betainc.get_concrete_function()])
    converter.allow_custom_ops = True
    (tmp_path / "a.tflite").write_bytes(converter.convert())
    refused(ModelEntry(str(tmp_path / "a.tflite")), "the operation 'Betainc', which LiteRT lacks")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def lengths(rows: Any) -> Any:
        return tf.strings.length(rows)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([lengths.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    (tmp_path / "a.tflite").write_bytes(converter.convert())
    refused(ModelEntry(str(tmp_path / "a.tflite")), "the operation 'FlexStringLength'.*serve the SavedModel")


def test_a_tflite_file_keeps_a_fixed_number_of_rows_and_follows_free_sizes_and_strings(tmp_path: Path) -> None:
    import tensorflow as tf

    def model_of(function: Any, *spec: Any) -> Any:
        traced = tf.function(function, input_signature=[tf.TensorSpec(*spec)], autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()])
        (tmp_path / "a.tflite").write_bytes(converter.convert())
        return loaded(ModelEntry(str(tmp_path / "a.tflite")))

    fixed = model_of(lambda rows: rows * 2.0, [3, 4])
    assert fixed.info.batch_rows == 3
    np.testing.assert_array_equal(fixed.predict(np.ones((7, 4), np.float32)), np.full((7, 4), 2.0))
    free = model_of(lambda rows: tf.reduce_mean(rows, 1), [None, None, 4])
    uneven = [np.full((size, 4), number, np.float32) for number, size in enumerate([3, 5, 3, 7, 3, 5])]
    np.testing.assert_allclose(free.predict(uneven)[:, 0], np.arange(6), rtol=1e-6)
    words = np.array([b"a", "b\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode(), b""], object)
    assert model_of(lambda rows: rows[::-1], [None], tf.string).info.outputs[0].dtype == "string"
    assert model_of(lambda rows: tf.identity(rows), [None], tf.string).predict(words).tolist() == words.tolist()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@keras_may_warn()
@pytest.mark.filterwarnings("ignore:You are saving your model")
def test_a_keras_file_brings_code_only_where_the_manifest_says_so(tmp_path: Path, suffix: str) -> None:
    import keras

    class Mine(keras.layers.Layer):  # type: ignore[misc]
        def call(self, rows: Any) -> Any:
            return rows

    entry = ModelEntry(str(tmp_path / f"a{suffix}"))
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda rows: rows * 3)]).save(entry.path)
    refused(entry, "Lambda layer, which is Python code.*lambdas = true")
    model = loaded(entry, lambdas=True)
    np.testing.assert_array_equal(model.predict(np.ones((7, 2), np.float32)), np.full((7, 2), 3.0))
    keras.Sequential([keras.Input((2,)), Mine()]).save(entry.path)
    for lambdas in (False, True):
        refused(
            msgspec.structs.replace(entry, lambdas=lambdas),
            "the class or function 'Mine'.*export the model as a SavedModel",
        )


def test_versions(tmp_path: Path) -> None:
    def tree(*numbers: str) -> ModelEntry:
        for number in numbers:
            (tmp_path / "tree" / number).mkdir(parents=True)
            (tmp_path / "tree" / number / "a.pb").write_bytes(graph_bytes(float(number)))
        return ModelEntry(str(tmp_path / "tree"), **NAMES)

    (tmp_path / "tree" / "notes").mkdir(parents=True)
    refused(tree(), "holds no saved_model.pb, nor versions of a model, such as tree/1")
    entry = tree("2", "10")
    first = msgspec.structs.replace(entry, version=2)
    refused(msgspec.structs.replace(entry, version=3), "no version 3; there are: 2, 10$")
    digests = [entry_digest(first), entry_digest(entry)]
    assert digests == [
        entry_digest(ModelEntry(str(tmp_path / "tree" / number / "a.pb"), **NAMES)) for number in ("2", "10")
    ]
    (tmp_path / "tree" / "11").mkdir()
    assert entry_digest(first) == digests[0]
    refused(entry, "version 11 holds no model; it must hold a SavedModel, or one model file")
    for name in ("a.pb", "b.keras"):
        (tmp_path / "tree" / "11" / name).touch()
    refused(entry, "version 11 holds a.pb and b.keras")
    refused(ModelEntry(str(tmp_path / "tree/2/a.pb"), version=2), "no version 2: it is no tree of versions")


def test_the_digest_is_of_all_that_changes_predictions(folder: Path, tmp_path: Path) -> None:
    entry = checkpoint_case(tmp_path).entry
    before = entry_digest(entry)
    (tmp_path / "unrelated").touch()
    assert entry_digest(entry) == before
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[::-1])
    assert entry_digest(entry) != before

    np.save(tmp_path / "rows.npy", np.ones(3))
    plain = ModelEntry(str(tmp_path / "rows.npy"))
    gate = {"precision": ["int8"], "calibration": str(tmp_path / "rows.npy"), "agreement": 0.9}
    changes: list[dict[str, Any]] = [
        {},
        {"signature": "other"},
        {"inputs": ["x:0"]},
        {"outputs": ["x:0"]},
        gate,
        {**gate, "agreement": 0.8},
        {**gate, "tolerance": 0.1},
        {**gate, "precision": ["bfloat16"]},
    ]
    digests = [entry_digest(msgspec.structs.replace(plain, **change)) for change in changes]
    assert len(set(digests)) == len(digests)
    assert entry_digest(msgspec.structs.replace(plain, batch_rows=7, preload=False, prefer="memory")) == digests[0]
    np.save(tmp_path / "other.npy", np.zeros(3))
    gate["calibration"] = str(tmp_path / "other.npy")
    assert entry_digest(msgspec.structs.replace(plain, **gate)) not in digests
    with pytest.raises(OSError) as lost:
        entry_digest(msgspec.structs.replace(plain, **gate | {"calibration": "/none.npy"}))
    assert str(lost.value.strerror).startswith("its calibration file /none.npy: No such file")


@pytest.mark.parametrize(
    "case", ["SavedModel", ".keras", ".h5", "TFLite with a signature", "TFLite without", "checkpoint"]
)
def test_outputs_of_every_format_can_be_chosen(tmp_path: Path, case: str) -> None:
    known = CASES[case](tmp_path)
    names = list(known.expected)[:0:-1]  # all but one, in another order
    model = loaded(known.entry, outputs=names)
    assert [spec.name for spec in model.info.outputs] == names
    check_equal(model.predict(known.rows), {name: known.expected[name] for name in names})
    inputs = list(known.rows)[::-1]
    both = loaded(known.entry, outputs=names, inputs=inputs)
    check_equal(
        both.predict(tuple(known.rows[name] for name in inputs)), {name: known.expected[name] for name in names}
    )
    refused(msgspec.structs.replace(known.entry, outputs=[*names, "none"]), "no (output|tensor) 'none' for outputs")


def test_outputs_that_are_no_row_s_are_left_out_and_told(tmp_path: Path) -> None:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            constants = {"class_names": tf.constant(["a", "b", "c"]), "version": tf.constant(7)}
            return {"scores": x[:, :3] * 2, **constants}

    module = Module()
    tf.saved_model.save(module, tmp_path / "saved", signatures=module.serve)
    rows = np.random.default_rng(1).random((23, 4), np.float32)
    model = loaded(ModelEntry(str(tmp_path / "saved")))
    assert [str(spec) for spec in model.info.outputs] == ["scores (?, 3) float32"]
    assert "no row for each of the inputs: class_names (3) string, version () int32" in model.info.note
    np.testing.assert_array_equal(model.predict(rows), rows[:, :3] * 2)
    np.testing.assert_array_equal(model.predict(rows[:0]), rows[:0, :3])
    named = loaded(ModelEntry(str(tmp_path / "saved"), outputs=["scores"]))
    assert named.info.note == ""
    for name in ("class_names", "version"):
        refused(ModelEntry(str(tmp_path / "saved"), outputs=[name]), f"its output {name} .* has no row for each")


def test_functions_count_by_their_code_and_by_the_files_that_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.keras", "vocab.json"):
        (tmp_path / name).write_bytes(b"any")
    (tmp_path / "beside").mkdir()
    source = tmp_path / "beside" / "counted_steps.py"
    source.write_text("def f(rows):\n    return rows  # as they are\n")
    entry = ModelEntry(
        str(tmp_path / "model.keras"),
        preprocess="counted_steps:f",
        files=[str(tmp_path / "vocab.json")],
        folder=str(source.parent),
    )
    before, key = entry_digest(entry), cache_key(entry_digest(entry), entry, "2")

    source.write_text("# A remark.\n\ndef f(rows):\n\n    return rows\n")
    assert entry_digest(entry) == before
    source.write_text('def f(rows):\n    """A text."""\n    return rows\n')
    changed = entry_digest(entry)
    (tmp_path / "vocab.json").write_bytes(b"other")
    assert len({before, changed, entry_digest(entry)}) == 3
    assert cache_key(entry_digest(entry), entry, "2") == key, "the snapshot is of the model alone"

    (tmp_path / "vocab.json").unlink()
    with pytest.raises(OSError) as lost:
        entry_digest(entry)
    assert str(lost.value.strerror) == f"its file {tmp_path}/vocab.json: No such file or directory"

    needing = ModelEntry(entry.path, imports=["counted_steps"], folder=entry.folder)
    digests = []
    for text in ("one = 1\n", "one = 1  # one\n", "one = 2\n"):
        source.write_text(text)
        digests.append((entry_digest(needing), cache_key(entry_digest(needing), needing, "2")))
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a = '#1'  # 1\n", "a = '#1'"),
        ('a = """\n# a text\n\n"""\n# none\n', 'a = """\n# a text\n\n"""'),
        ("def f(\n    a,  # first\n    # all\n):\n    pass\n", "def f(\n    a,\n):\n    pass"),
        ("a = 'x\u2028# y'\r\nb = 1 # z", "a = 'x\u2028# y'\nb = 1"),
        ("a = '# unclosed\n", "a = '# unclosed\n"),
        ("def f(:  # no Python\n", "def f(:  # no Python\n"),
        ("# coding: latin-1\na = 1\n", "a = 1"),
    ],
)
def test_of_a_python_file_all_counts_but_comments_and_empty_lines(tmp_path: Path, text: str, counts: str) -> None:
    (tmp_path / "a.py").write_bytes(text.encode())
    assert source_text(tmp_path / "a.py").decode() == counts
    (tmp_path / "a.so").write_bytes(text.encode())
    assert source_text(tmp_path / "a.so") == text.encode()


def test_an_operation_or_class_that_is_lacking_is_told_with_its_remedy(tmp_path: Path) -> None:
    import tensorflow as tf

    def graph(operation: str) -> ModelEntry:
        with tf.Graph().as_default() as graph:
            tf.identity(tf.compat.v1.placeholder(tf.float32, [None, 2], "rows"), name="y")
        definition = graph.as_graph_def()
        definition.node[1].op = operation
        (tmp_path / "a.pb").write_bytes(definition.SerializeToString())
        return ModelEntry(str(tmp_path / "a.pb"))

    for operation, module in [
        ("SimpleMLInferenceOpWithHandle", "ydf_tf"),
        ("WhitespaceTokenizeWithOffsetsV2", "tensorflow_text"),
        ("MyOwn", "package.module"),
    ]:
        refused(graph(operation), rf"needs the operation '{operation}', .* in the manifest, imports = \[\"{module}\"\]")
    lacking = msgspec.structs.replace(graph("MyOwn"), imports=["no_such_module"], folder=str(tmp_path))
    refused(lacking, f"the module no_such_module of imports .*, and in {tmp_path}, where the manifest is")


def test_functions_are_models(folder: Path) -> None:
    model = loaded(ModelEntry("format_functions:double"))
    assert (model.info.function, model.info.inputs, model.info.batch_seconds) == ("format_functions:double", [], 0.0)
    np.testing.assert_array_equal(model.predict(np.arange(23)), np.arange(23) * 2)
    np.testing.assert_array_equal(model.predict(np.arange(5)), np.arange(5) * 2)
    assert model.predict(np.empty((0, 3))).shape == (0,)
    assert model.predict({}).shape == (0,)
    pair = loaded(ModelEntry("format_functions:pair"))
    np.testing.assert_array_equal(pair.predict((np.arange(23), np.ones(23))), np.arange(23) + 1)
    with pytest.raises(InputError, match=r"model m: the columns have \[3, 4\] rows"):
        pair.predict((np.arange(3), np.ones(4)))
    words = loaded(ModelEntry("format_functions:lengthen")).predict(np.arange(23))
    assert [len(word) for word in words] == list(range(23))


def test_uneven_rows_reach_a_function_with_those_of_their_shape(folder: Path) -> None:
    rows = [np.zeros(1 + number % 3) for number in range(23)]
    outputs = loaded(ModelEntry("format_functions:sizes")).predict(rows)
    assert outputs["size"].tolist() == [len(row) for row in rows]
    assert set(outputs["rows"].tolist()) == {BATCH_ROWS, 3, 2}  # functions are given no padding
    assert loaded(ModelEntry("format_functions:sizes")).predict([]).shape == (0,)


def test_errors_of_functions_name_function_and_model(folder: Path) -> None:
    refused(ModelEntry("format_functions:none"), "the function format_functions:none")
    refused(ModelEntry("no_such_module:f"), "the function no_such_module:f")
    refused(ModelEntry("format_functions:NOT_ONE"), "is a int, not a function")
    with pytest.raises(ModelError, match="model m: function format_functions:fail raised LookupError: no image 0"):
        loaded(ModelEntry("format_functions:fail")).predict(np.arange(7))
    with pytest.raises(ModelError, match="model m: function format_functions:lose returned 4 rows for 5"):
        loaded(ModelEntry("format_functions:lose")).predict(np.arange(7))
    with pytest.raises(ModelError, match="model m: outputs 'a' for some rows and 'b' for others"):
        loaded(ModelEntry("format_functions:waver")).predict(np.arange(7))


def test_a_manifest_s_files_are_looked_for_before_a_worker_starts(tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text('[models.a]\npath = "a.b:c"\n')
    check_names(["a"], manifest)
    assert model_digests(["a"], manifest)[0]["a"] == entry_digest(ModelEntry("a.b:c"))
    manifest.write_text('[models.a]\npath = "tree"\n')
    with pytest.raises(ModelLoadError, match="no such file or folder; mend the path in"):
        check_names(["a"], manifest)
    (tmp_path / "tree" / "3").mkdir(parents=True)
    with pytest.raises(ModelLoadError, match=r"model a cannot be loaded from .*/tree: version 3 holds no model"):
        check_names(["a"], manifest)


def test_a_path_in_a_manifest_is_a_function_unless_there_is_such_a_file(tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text('[models.a]\npath = "a.b:c"\n[models.b]\npath = "b:c"\n')
    (tmp_path / "b:c").touch()
    assert [entry.path for entry in read_manifest(manifest).values()] == ["a.b:c", str(tmp_path / "b:c")]


@pytest.mark.parametrize("case", ["frozen graph", "straight frozen graph", "TFLite with a signature", ".keras"])
def test_a_thousand_batches_cost_no_trace_and_no_memory(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = CASES[case](tmp_path)
    program, traces = open_model(known.entry), []

    def run(tensors: Any) -> Any:
        traces.append(len(tensors))
        assert program.run is not None
        return program.run(tensors)

    counted = dataclasses.replace(program, run=run) if program.run else program
    monkeypatch.setattr("tasks.child.load_model.open_model", lambda _: counted)
    model = loaded(known.entry)
    rng, batches, early = np.random.default_rng(2), 0, 0
    while batches < 1_000:
        count = int(rng.integers(1, 23))
        model.predict({name: array[:count] for name, array in known.rows.items()})
        batches += -(-count // BATCH_ROWS)
        early = early or (own_bytes() if batches >= 100 else 0)
    assert own_bytes() - early < 5 * 2**20
    assert len(traces) == (program.run is not None)


def own_bytes() -> int:
    """Memory that is no file's: libraries count as our own as soon as other processes that use them are gone."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 2**10
