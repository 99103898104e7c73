"""Models in every format, each with what TensorFlow's own loader gives for rows of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import keras_may_warn
from worker_config.manifest import ModelEntry

Columns = dict[str, Any]
# More than 64 KiB of weights, and names as people give them.
WIDE = 5_000
NAMES = {"inputs": ["left:0", "odd/right.1-x:0", "words:0"], "outputs": ["wide:0", "split:1", "half:0", "text:0"]}

FUNCTIONS = """
import numpy as np


def double(rows):
    return rows * 2


def both(columns):
    return {"sum": columns["a"] + columns["b"].sum(axis=1), "name": [f"row {a}" for a in columns["a"]]}


def pair(columns):
    first, second = columns
    return first + second


def sizes(rows):
    return {"size": np.full(len(rows), rows.shape[1]), "rows": np.full(len(rows), len(rows))}


def lengthen(rows):
    return np.array(["x" * int(row) for row in rows])


def waver(rows):
    return {"a": rows} if rows[0] < 4 else {"b": rows}


def lose(rows):
    return rows[1:]


def fail(rows):
    raise LookupError(f"no image {rows[0]}")


NOT_ONE = 3
"""


@dataclass(frozen=True)
class Case:
    """A model, rows for it, and the outputs that they have by its own loader."""

    entry: ModelEntry
    rows: Any
    expected: Columns


def rows_of(count: int) -> Columns:
    """Distinct rows for the graphs below, by short names."""
    rng = np.random.default_rng(count)
    words = np.array([f"wörd {i}".encode() for i in range(count)], object)
    return {"left": rng.random((count, 4), np.float32), "right": rng.integers(0, 99, (count, 3)), "words": words}


def fed_rows(count: int) -> Columns:
    """The same by the names of tensors."""
    return dict(zip(NAMES["inputs"], rows_of(count).values(), strict=True))


def build_graph(tf: Any, weights: Any, *, factor: float = 2.0, straight: bool = False) -> None:
    """Into the default graph: three inputs and four outputs; unless it is straight, a loop, a branch and a function."""
    v1 = tf.compat.v1
    left = v1.placeholder(tf.float32, [None, 4], "left")
    right = v1.placeholder(tf.int64, [None, 3], "odd/right.1-x")
    words = v1.placeholder(tf.string, [None], "words")
    v1.placeholder(tf.float32, [None, 1], "unused")

    @tf.function(autograph=False)
    def scaled(values: Any) -> Any:
        return values * factor

    def large() -> Any:
        return tf.constant(weights_of(8))  # which must stay in the loop and in the branch

    scale = v1.placeholder_with_default(1.0, [], "scale")
    if straight:
        tf.multiply(tf.matmul(left, weights), scale, name="wide")
    else:
        _, looped = v1.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x + large()[0, 0]), [tf.constant(0), left])
        branch = v1.cond(tf.size(left) > 0, lambda: large()[0], lambda: tf.zeros(WIDE))
        tf.add(scaled(tf.matmul(looped, weights)) * scale, branch, name="wide")
    tf.split(right, [1, 2], axis=1, name="split")
    tf.cast(tf.reduce_sum(left, 1) / 3.0, tf.bfloat16, name="half")
    tf.strings.join([words, "!"], name="text")


def weights_of(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((4, WIDE), np.float32)


@contextmanager
def control_flow_of_tensorflow_1() -> Iterator[None]:
    import tensorflow as tf

    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        tf.compat.v1.enable_control_flow_v2()


@control_flow_of_tensorflow_1()
def graph_bytes(factor: float = 2.0, *, straight: bool = False) -> bytes:
    """A frozen graph; those with another factor have functions of the same names, but other ones."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        build_graph(tf, tf.constant(weights_of(3)), factor=factor, straight=straight)
    definition = graph.as_graph_def()
    for function in definition.library.function:  # as if each had been written by a process of its own
        if "scaled" in function.signature.name:
            _rename(definition, function.signature.name, "__inference_scaled_7")
    data: bytes = definition.SerializeToString()
    return data


def _rename(definition: Any, old: str, new: str) -> None:
    for function in definition.library.function:
        if function.signature.name == old:
            function.signature.name = new
    for node in definition.node:
        for value in node.attr.values():
            if value.func.name == old:
                value.func.name = new


def run_session(graph_bytes_: bytes, fed: Columns, fetched: list[str]) -> Columns:
    """What `Session.run` gives."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(tf.compat.v1.GraphDef.FromString(graph_bytes_), name="")
        return dict(zip(fetched, session.run(fetched, fed), strict=True))


def frozen_case(folder: Path, *, factor: float = 2.0, straight: bool = False) -> Case:
    path = folder / f"frozen{factor}.pb"
    path.write_bytes(data := graph_bytes(factor, straight=straight))
    rows = fed_rows(23)
    return Case(ModelEntry(str(path), **NAMES), rows, run_session(data, rows, NAMES["outputs"]))


def checkpoint_case(folder: Path) -> Case:
    import tensorflow as tf

    rows = fed_rows(23)
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        weights = v1.get_variable("weights", initializer=weights_of(4), use_resource=False)
        build_graph(tf, weights + v1.get_variable("bias", initializer=np.float32(0.25), use_resource=True))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=7)
        expected = dict(zip(NAMES["outputs"], session.run(NAMES["outputs"], rows), strict=True))
    return Case(ModelEntry(str(folder / "model.ckpt-7.meta"), **NAMES), rows, expected)


@control_flow_of_tensorflow_1()
def old_saved_case(folder: Path, *, table: bool = False) -> Case:
    """A SavedModel of TensorFlow 1; with a lookup table it cannot be frozen."""
    import tensorflow as tf

    v1 = tf.compat.v1
    path = folder / f"old_saved{'_table' * table}"
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        build_graph(tf, v1.get_variable("weights", initializer=weights_of(5), use_resource=table))
        tensors = [graph.get_tensor_by_name(name) for name in NAMES["outputs"]]
        outputs = dict(zip(["wide", "rest", "half", "text"], tensors, strict=True))
        init = None
        if table:
            keys = tf.lookup.KeyValueTensorInitializer([b"w\xc3\xb6rd 1"], tf.constant([5], tf.int64))
            static = tf.lookup.StaticHashTable(keys, -1)
            outputs["known"] = static.lookup(graph.get_tensor_by_name("words:0"))
            init = v1.tables_initializer()
        session.run(v1.global_variables_initializer())
        inputs = {
            short: v1.saved_model.build_tensor_info(graph.get_tensor_by_name(name))
            for short, name in zip(["left", "right", "words"], NAMES["inputs"], strict=True)
        }
        signature = v1.saved_model.build_signature_def(
            inputs, {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in outputs.items()}, "predict"
        )
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=init)
        builder.save()
    return Case(ModelEntry(str(path)), rows_of(23), loaded_by_tensorflow(path, rows_of(23)))


def loaded_by_tensorflow(path: Path, rows: Columns) -> Columns:
    """What `tf.saved_model.load` gives."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return {name: tensor.numpy() for name, tensor in signature(**{k: tf.constant(v) for k, v in rows.items()}).items()}


def saved_case(folder: Path) -> Case:
    """A SavedModel of TensorFlow 2."""
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(weights_of(6))

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec([None, 4], name="left"), tf.TensorSpec([None], tf.string, name="words")]
        )
        def serve(self, left: Any, words: Any) -> Columns:
            return {"wide": left @ self.weights, "text": words + "!", "half": tf.cast(left, tf.bfloat16)}

    module = Module()
    tf.saved_model.save(module, folder / "saved", signatures=module.serve)
    rows = {name: array for name, array in rows_of(23).items() if name != "right"}
    return Case(ModelEntry(str(folder / "saved")), rows, loaded_by_tensorflow(folder / "saved", rows))


@keras_may_warn()
def keras_case(folder: Path, suffix: str = ".keras") -> Case:
    """Inputs in a dict of which one is a list; outputs in a list, of which two come from one layer."""
    import keras

    a, b, c = (keras.Input((size,), name=name) for name, size in (("zeta", 2), ("alpha", 3), ("mid", 2)))
    wide = keras.layers.Dense(4, name="wide")(keras.layers.Concatenate()([a, b, c]))
    shared = keras.layers.Dense(1, name="shared")
    model = keras.Model([a, b, c], [wide, shared(a), shared(c)])
    path = folder / f"nested{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    rng = np.random.default_rng(1)
    rows = {"zeta": rng.random((23, 2)), "alpha": rng.random((23, 3)), "mid": rng.random((23, 2))}
    outputs = keras.models.load_model(path, compile=False).predict(list(rows.values()), verbose=0)
    return Case(ModelEntry(str(path)), rows, dict(zip(["wide", "shared", "shared_1"], outputs, strict=True)))


def tflite_case(folder: Path, *, signature: bool = True) -> Case:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(weights_of(6))

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec([None, 4], name="left"), tf.TensorSpec([None, 3], tf.int32, name="right")]
        )
        def serve(self, left: Any, right: Any) -> Columns:
            return {"wide": left @ self.weights, "rest": right[:, 1:] * 2}

    module = Module()
    if signature:
        tf.saved_model.save(module, folder / "for_tflite", signatures={"only": module.serve})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "for_tflite"), signature_keys=["only"])
        data = converter.convert()
    else:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            left = tf.compat.v1.placeholder(tf.float32, [None, 4], "left")
            right = tf.compat.v1.placeholder(tf.int32, [None, 3], "right")
            outputs = [tf.matmul(left, weights_of(6), name="wide"), tf.multiply(right[:, 1:], 2, name="rest")]
            converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [left, right], outputs)
            data = converter.convert()
    path = folder / f"model{signature}.tflite"
    path.write_bytes(data)
    rows = {"left": rows_of(23)["left"], "right": rows_of(23)["right"].astype(np.int32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(str(path))
    if signature:
        return Case(ModelEntry(str(path)), rows, interpreter.get_signature_runner("only")(**rows))
    fed = {}
    for details in interpreter.get_input_details():
        fed[details["name"]] = next(array for array in rows.values() if array.dtype == details["dtype"])
        interpreter.resize_tensor_input(details["index"], fed[details["name"]].shape)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], fed[details["name"]])
    interpreter.invoke()
    given = interpreter.get_output_details()
    outputs = {details["name"]: interpreter.get_tensor(details["index"]) for details in given}
    return Case(ModelEntry(str(path)), fed, outputs)


def version_case(folder: Path) -> Case:
    """A tree in which the highest version is a frozen graph, and 9 is less than 10."""
    tree = folder / "tree"
    for number, factor in ((9, 7.0), (10, 3.0)):
        (tree / str(number)).mkdir(parents=True)
        (tree / str(number) / "any.pb").write_bytes(graph_bytes(factor))
    (tree / "notes").mkdir()
    rows = fed_rows(23)
    return Case(ModelEntry(str(tree), **NAMES), rows, run_session(graph_bytes(3.0), rows, NAMES["outputs"]))


def function_case(folder: Path) -> Case:
    rows = {"a": np.arange(23), "b": np.arange(46.0).reshape(23, 2)}
    expected = {"sum": rows["a"] + rows["b"].sum(axis=1), "name": np.array([f"row {a}" for a in rows["a"]])}
    return Case(ModelEntry("format_functions:both"), rows, expected)


CASES: dict[str, Callable[[Path], Case]] = {
    "frozen graph": frozen_case,
    "straight frozen graph": lambda folder: frozen_case(folder, straight=True),
    "checkpoint": checkpoint_case,
    "TF1 SavedModel": old_saved_case,
    "TF1 SavedModel with a table": lambda folder: old_saved_case(folder, table=True),
    "SavedModel": saved_case,
    ".keras": keras_case,
    ".h5": lambda folder: keras_case(folder, ".h5"),
    "TFLite with a signature": tflite_case,
    "TFLite without": lambda folder: tflite_case(folder, signature=False),
    "version tree": version_case,
    "function": function_case,
}
