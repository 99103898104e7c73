#!/usr/bin/env bash
# Keras and TFLite: the order of a model's inputs does not survive `model.export`.
#
# Versions: tensorflow 2.21.0, keras 3.15.1.
#
# A Keras model with `inputs=[user, item]` takes them in this order, and so does `serve` of what it exports. The TFLite
# file that is made of the export has the inputs sorted by name: fed by position, as most examples do, it takes one for
# the other where their forms are the same. The signature's map has the names; nothing in the file tells the order that
# was.
#
# Seen, user minus item, of 1 and 2:
#   Keras                      -1.0
#   exported, serve([...])     -1.0
#   TFLite, by position         1.0   (serving_default_item:0, serving_default_user:0)
#   TFLite, by name            -1.0
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

one, two = np.ones((1, 1), np.float32), np.full((1, 1), 2, np.float32)
user, item = keras.Input((1,), name="user"), keras.Input((1,), name="item")
model = keras.Model([user, item], keras.layers.Subtract()([user, item]))
model.export("exported", verbose=False)
served = tf.saved_model.load("exported").serve([one, two])

interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model("exported").convert())
interpreter.allocate_tensors()
details = interpreter.get_input_details()
for place, rows in zip(details, (one, two)):
    interpreter.set_tensor(place["index"], rows)
interpreter.invoke()
by_position = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
(by_name,) = interpreter.get_signature_runner()(user=one, item=two).values()

seen = [float(np.ravel(output)[0]) for output in (model([one, two]), served, by_position, by_name)]
print(f"Keras                     {seen[0]:>5}")
print(f"exported, serve([...])    {seen[1]:>5}")
print(f"TFLite, by position       {seen[2]:>5}   ({', '.join(place['name'] for place in details)})")
print(f"TFLite, by name           {seen[3]:>5}")
if seen != [-1.0, -1.0, 1.0, -1.0]:
    sys.exit(f"changed: only TFLite by position had the inputs the other way round; now {seen}")
PYTHON
