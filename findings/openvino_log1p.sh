#!/usr/bin/env bash
# OpenVINO: log1p and expm1 of small numbers are 0, in float32 too.
#
# Versions: openvino 2026.4.1, tensorflow 2.21.0 (which writes the model), x86-64 with AVX-512.
#
# Both functions are there for small numbers, where log(1 + x) loses its digits. OpenVINO's CPU plugin loses them, too:
# with the precision set to float32, log1p(1e-8) and expm1(1e-8) are 0, and of 1e-4 they are off by 1e-4 of their size,
# a thousand times more than float32 rounds.
#
# Seen, off at 1e-4:
#   log1p  TensorFlow [1.000e-08 9.999e-05 4.055e-01]  OpenVINO [0.000e+00 1.000e-04 4.055e-01]  off by 1.7e-04
#   expm1  TensorFlow [1.000e-08 1.000e-04 6.487e-01]  OpenVINO [0.000e+00 1.000e-04 6.487e-01]  off by 1.2e-04
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile openvino==2026.4.1 tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6

export TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import openvino
import tensorflow as tf

rows = np.array([1e-8, 1e-4, 0.5], np.float32)
changed = []
for name, function in {"log1p": tf.math.log1p, "expm1": tf.math.expm1}.items():
    module = tf.Module()
    module.call = tf.function(function, input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
    tf.saved_model.save(module, name)
    compiled = openvino.Core().compile_model(
        openvino.convert_model(name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    expected = function(rows).numpy()
    (output,) = compiled([rows]).values()
    off = abs(output[1] / expected[1] - 1)
    with np.printoptions(formatter={"float": "{:.3e}".format}):
        print(f"{name}  TensorFlow {expected}  OpenVINO {output}  off by {off:.1e}")
    if output[0] != 0 or expected[0] == 0 or off < 1e-5:
        changed.append(name)
if changed:
    sys.exit(f"changed: of 1e-8 both were 0 in OpenVINO, and of 1e-4 off by 1e-4; not so: {', '.join(changed)}")
PYTHON
