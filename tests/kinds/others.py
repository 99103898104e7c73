"""TFLite files, and those of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.formats import Case
from tests.kinds.values import IDS, IMAGES, PIXELS, WEIGHTS, WORDS, Make, quietly, refused
from worker_config.manifest import ModelEntry


def tflite_file(how: str) -> Make:
    """A converted network of images; `how` says which numbers it computes with."""

    def make(folder: Path) -> Case:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
        quietly(lambda: model.export(folder / "saved", verbose=False))
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
        images = IMAGES.astype(np.float32) / 255
        if how != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if how == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if how in ("int8", "int16x8"):
            typical = images
            converter.representative_dataset = lambda: ([image[None]] for image in typical)
        if how == "int8":
            converter.inference_input_type = converter.inference_output_type = tf.int8
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            images = (IMAGES.astype(np.int16) - 128).astype(np.int8)
        if how == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        path = folder / "model.tflite"
        path.write_bytes(quietly(converter.convert))
        runner = quietly(lambda: tf.lite.Interpreter(str(path)).get_signature_runner("serving_default"))
        (name,) = runner.get_input_details()
        return Case(ModelEntry(str(path)), images, {"": next(iter(runner(**{name: images}).values()))})

    return make


def flex(folder: Path) -> Case:
    import tensorflow as tf

    call = tf.function(lambda x: tf.strings.length(x), input_signature=[tf.TensorSpec([None], tf.string)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    (folder / "a.tflite").write_bytes(converter.convert())
    return refused(ModelEntry(str(folder / "a.tflite")))


def jax_case(folder: Path) -> Case:
    import jax
    import tensorflow as tf
    from jax.experimental import jax2tf

    def network(rows: Any) -> Any:
        return jax.nn.softmax(jax.numpy.tanh(rows @ WEIGHTS))

    module = tf.Module()
    converted = quietly(lambda: jax2tf.convert(network, polymorphic_shapes=["(b, 4)"], with_gradient=False))
    module.serve = tf.function(converted, input_signature=[tf.TensorSpec([None, 4], name="x")], autograph=False)
    quietly(lambda: tf.saved_model.save(module, folder / "saved", signatures=module.serve))
    return Case(ModelEntry(str(folder / "saved")), PIXELS, {"": np.asarray(network(PIXELS))})


def ydf_case(folder: Path, **entry: Any) -> Case:
    import ydf

    cities = np.array(["a", "b", "c"] * 8)[: len(PIXELS)]
    data = {"city": cities, "age": PIXELS[:, 0], "count": IDS[:, 0]}
    label = (PIXELS[:, 0] > 0.5) & (cities != "a")
    learner = ydf.GradientBoostedTreesLearner("label", num_trees=3, min_examples=2, min_vocab_frequency=1)
    model = learner.train(data | {"label": label}, verbose=0)
    quietly(lambda: model.to_tensorflow_saved_model(str(folder / "saved"), mode="tf"))
    rows = data | {"city": cities.astype(object)}
    return Case(ModelEntry(str(folder / "saved"), **entry), rows, {"": model.predict(data)})


def texts_case(folder: Path, *, frozen: bool = False, **entry: Any) -> Case:
    """A network over the words of texts, which operations of tensorflow_text find."""
    import tensorflow as tf
    import tensorflow_text

    def network(texts: Any) -> Any:
        folded = tensorflow_text.case_fold_utf8(texts)
        words = tensorflow_text.WhitespaceTokenizer().tokenize(folded).to_tensor("", shape=[None, 3])
        ids = tf.strings.to_hash_bucket_fast(words, 4)
        return tf.nn.softmax(tf.reduce_mean(tf.gather(WEIGHTS, ids), 1), name="scores")

    rows = np.array([f"{one.decode()} Straße {one.decode().upper()}".encode() for one in WORDS], object)
    expected = network(tf.constant(rows)).numpy()
    if frozen:
        with tf.Graph().as_default() as graph:
            network(tf.compat.v1.placeholder(tf.string, [None], "texts"))
        path = folder / "texts.pb"
        path.write_bytes(graph.as_graph_def().SerializeToString())
        return Case(ModelEntry(str(path), outputs=["scores:0"], **entry), {"texts:0": rows}, {"": expected})
    module = tf.Module()
    module.serve = tf.function(network, input_signature=[tf.TensorSpec([None], tf.string, "texts")], autograph=False)
    tf.saved_model.save(module, folder / "saved", signatures=module.serve)
    return Case(ModelEntry(str(folder / "saved"), **entry), {"texts": rows}, {"": expected})


def onnx(folder: Path) -> Case:
    (folder / "a.onnx").write_bytes(b"\x08\x07")
    return refused(ModelEntry(str(folder / "a.onnx")))
