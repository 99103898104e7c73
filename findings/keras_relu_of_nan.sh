#!/usr/bin/env bash
# Keras: `model(x)` gives NaN for a row with NaN, and `model.predict(x)` gives 0.
#
# Versions: tensorflow 2.21.0, keras 3.15.1, x86-64.
#
# In the graph that `predict` runs, TensorFlow joins matmul, bias and ReLU of a Dense layer into one operation of
# oneDNN, whose ReLU makes 0 of NaN. Called eagerly, or where the ReLU stands alone, NaN stays NaN. So a missing value
# comes out as an ordinary prediction, by `predict` alone. It is not XLA, which is switched off here.
#
# Seen:
#   ReLU alone: model(x)        [nan  1.]
#   ReLU alone: model.predict   [nan  1.]
#   Dense: model(x)             [nan nan]
#   Dense: model.predict        [0. 0.]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6

unset TF_ENABLE_ONEDNN_OPTS
export TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow
venv/bin/python - <<'PYTHON'
import sys

import keras
import numpy as np

rows = np.array([[np.nan, 1]], np.float32)
alone = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu", kernel_initializer="ones")])
for model in (alone, dense):
    model.compile(jit_compile=False)
outputs = {
    "ReLU alone: model(x)": alone(rows).numpy(),
    "ReLU alone: model.predict": alone.predict(rows, verbose=0),
    "Dense: model(x)": dense(rows).numpy(),
    "Dense: model.predict": dense.predict(rows, verbose=0),
}
for what, output in outputs.items():
    print(f"{what:<27} {output[0]}")
seen = [[np.nan, 1], [np.nan, 1], [np.nan, np.nan], [0, 0]]
if not all(np.array_equal(output[0], row, equal_nan=True) for output, row in zip(outputs.values(), seen)):
    sys.exit("changed: NaN stayed NaN in all cases but Dense with model.predict, where it became 0")
PYTHON
