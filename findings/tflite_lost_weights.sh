#!/usr/bin/env bash
# TensorFlow's TFLite converter: a Keras 3 model that is held by a `tf.Module` loses its weights, without a word.
#
# Versions: tensorflow 2.21.0, keras 3.15.1.
#
# `from_concrete_functions([function], module)` is the form that TensorFlow asks for ("please consider providing the
# trackable_obj"); so is `tf.saved_model.save(module)` with `from_saved_model`. Of a module that holds a Keras 3 model
# both convert without an error, to files whose weights are whatever the memory held: a `tf.Module` does not count the
# model's variables as its own (`module.variables` is empty), though the SavedModel, loaded by TensorFlow, is right.
# Without the second argument, which is warned of, or by `model.export`, the weights are there.
#
# Seen (the second and third line differ from run to run):
#   Keras                    [-1.686 -2.453]
#   function and module      [nan nan]
#   module, by a SavedModel  [nan nan]
#   function alone           [-1.686 -2.453]
#   model.export             [-1.686 -2.453]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6

export TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow
venv/bin/python - <<'PYTHON'
import sys

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(1)
rows = np.array([[1, 2, 3]], np.float32)
pixels = keras.Input((3,))
model = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.BatchNormalization()(pixels)))
expected = model(rows).numpy()

module = tf.Module()
module.model = model
module.call = tf.function(
    lambda x: model(x, training=False), input_signature=[tf.TensorSpec([1, 3], tf.float32)], autograph=False
)
function = module.call.get_concrete_function()
tf.saved_model.save(module, "module")
model.export("exported", verbose=False)

Converter = tf.lite.TFLiteConverter
converters = {
    "function and module": Converter.from_concrete_functions([function], module),
    "module, by a SavedModel": Converter.from_saved_model("module"),
    "function alone": Converter.from_concrete_functions([function]),
    "model.export": Converter.from_saved_model("exported"),
}
print(f"{'Keras':<24} {expected[0].round(3)}")
right = []
for what, converter in converters.items():
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], rows)
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    print(f"{what:<24} {outputs[0].round(3)}")
    right.append(bool(np.allclose(outputs, expected, atol=1e-4)))
if right != [False, False, True, True]:
    sys.exit(f"changed: which ways keep the weights was [False, False, True, True], and is {right}")
PYTHON
