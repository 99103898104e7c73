"""SavedModels and graphs of TensorFlow 2 and 1, with what TensorFlow's own loader or session gives."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats import Case, loaded_by_tensorflow
from tests.kinds.values import PIXELS, STEPS, WEIGHTS, Make, refused
from worker_config.manifest import ModelEntry


def module(function: Callable[..., Any], *, signature: str = "serving_default", **rows: Any) -> Make:
    """A `tf.Module` with one signature; rows by the names of its inputs, their sizes those of the signature."""

    def make(folder: Path) -> Case:
        import tensorflow as tf

        module = tf.Module()
        module.weights = tf.Variable(WEIGHTS)
        specs = [
            tf.TensorSpec([None, *array.shape[1:]], tf.string if array.dtype == object else array.dtype, name)
            for name, array in rows.items()
        ]
        call = tf.function(lambda *tensors: {"y": function(tf, *tensors)}, input_signature=specs, autograph=False)
        module.serve, path = call, folder / "saved"
        tf.saved_model.save(module, path, signatures={signature: call.get_concrete_function()})
        given = tf.saved_model.load(str(path)).signatures[signature](**{k: tf.constant(v) for k, v in rows.items()})
        return Case(ModelEntry(str(path), signature=signature), rows, {"y": given["y"].numpy()})

    return make


def of_type(dtype: Any) -> Make:
    rows = PIXELS * 9 + 1j * PIXELS[::-1] if dtype == "complex64" else PIXELS * 9
    return module(lambda tf, x: tf.concat([x, x[:, ::-1]], 1), x=rows.astype(dtype))


def free_sizes(folder: Path) -> Case:
    import tensorflow as tf

    call = tf.function(
        lambda x: {"y": tf.reduce_mean(x, 1)}, input_signature=[tf.TensorSpec([None, None, 4], name="x")]
    )
    module = tf.Module()
    module.serve = call
    tf.saved_model.save(module, folder / "saved", signatures=call)
    return Case(ModelEntry(str(folder / "saved")), {"x": STEPS}, loaded_by_tensorflow(folder / "saved", {"x": STEPS}))


def with_flag(folder: Path, **entry: Any) -> Case:
    """One of whose inputs is no row."""
    import tensorflow as tf

    specs = [tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], tf.bool, "training")]
    call = tf.function(
        lambda x, training: {"y": tf.cond(training, lambda: x + tf.random.normal(tf.shape(x)), lambda: x * 2)},
        input_signature=specs,
    )
    module = tf.Module()
    module.serve, path = call, folder / "saved"
    tf.saved_model.save(module, path, signatures=call)
    return Case(ModelEntry(str(path), **entry), {"x": PIXELS}, {"y": PIXELS * 2})


def without_signature(folder: Path) -> Case:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), folder / "saved")
    return refused(ModelEntry(str(folder / "saved")))


def png(image: Any) -> bytes:
    """An image as a file, so that no library need be there to write it."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    data = part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def objects(values: list[bytes]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def decoded(tf: Any, images: Any) -> Any:
    def one(data: Any) -> Any:
        return tf.ensure_shape(tf.io.decode_png(data, 3), (8, 8, 3))

    return tf.reduce_mean(tf.cast(tf.map_fn(one, images, tf.uint8), tf.float32), (1, 2))


def examples() -> Any:
    import tensorflow as tf

    def one(row: Any) -> bytes:
        features = {"pixels": tf.train.Feature(float_list=tf.train.FloatList(value=row))}
        data: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
        return data

    return objects([one(row) for row in PIXELS])


def parsed(tf: Any, examples: Any) -> Any:
    found = tf.io.parse_example(examples, {"pixels": tf.io.FixedLenFeature([4], tf.float32)})
    return tf.tanh(found["pixels"] @ WEIGHTS)


def estimator(folder: Path) -> Case:
    """As an Estimator exports: a session of TensorFlow 1, serialised examples, scores and the names of classes."""
    import tensorflow as tf

    v1, path = tf.compat.v1, folder / "exported"
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        received = v1.placeholder(tf.string, [None], "input_example_tensor")
        pixels = v1.parse_example(received, {"pixels": tf.io.FixedLenFeature([4], tf.float32)})["pixels"]
        scores = tf.nn.softmax(tf.matmul(pixels, v1.get_variable("w", initializer=WEIGHTS)))
        classes = tf.tile(tf.constant([["a", "b", "c"]]), [tf.shape(scores)[0], 1])
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.classification_signature_def(received, classes, scores)
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    rows = {"inputs": examples()}
    return Case(ModelEntry(str(path)), rows, loaded_by_tensorflow(path, rows))


def training(folder: Path, *, named: bool = True) -> Case:
    from tests.unit.test_old_models import ENTRY, ROWS, write_checkpoint

    prefix = f"{folder}/{'model' if named else ''}"
    return Case(ModelEntry(f"{prefix}.meta", **ENTRY), ROWS, {"": write_checkpoint(prefix)})


def with_changes(make: Make, **changes: Any) -> Make:
    """The same file with another entry, which is refused."""

    def changed(folder: Path) -> Case:
        entry = make(folder).entry
        return refused(ModelEntry(entry.path, **changes))

    return changed


def not_frozen(folder: Path) -> Case:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        tf.matmul(v1.placeholder(tf.float32, [None, 4]), v1.get_variable("w", [4, 3]), name="y")
    (folder / "a.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return refused(ModelEntry(str(folder / "a.pb"), outputs=["y:0"]))
