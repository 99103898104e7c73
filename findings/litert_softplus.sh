#!/usr/bin/env bash
# LiteRT: softplus of numbers above 88.7 is infinite, but only with the delegate that is used by default.
#
# Versions: ai-edge-litert 2.3.0, tensorflow 2.21.0 (which converts), x86-64 with AVX-512.
#
# One model, one file, three answers for softplus(89), which is 89: TensorFlow's graph is right, XNNPACK, which LiteRT
# takes unless told otherwise, gives infinity (exp(89) is no float32), and LiteRT's own kernel stops at 88.72. Below
# they agree, so a comparison on rows of ordinary size shows nothing.
#
# Seen:
#   TensorFlow        [ 0.     1.313 88.    89.   ]
#   LiteRT            [ 0.     1.313 88.       inf]
#   without delegate  [ 0.     1.313 88.    88.723]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile ai-edge-litert==2.3.0 tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6

export TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

rows = np.array([-100, 1, 88, 89], np.float32)
softplus = tf.function(tf.math.softplus, autograph=False).get_concrete_function(tf.TensorSpec([4], tf.float32))
model = tf.lite.TFLiteConverter.from_concrete_functions([softplus]).convert()


def lite(**options):
    interpreter = Interpreter(model_content=model, **options)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], rows)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


graph = softplus(tf.constant(rows)).numpy()
default = lite()
plain = lite(experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
print("TensorFlow       ", graph.round(3))
print("LiteRT           ", default.round(3))
print("without delegate ", plain.round(3))
if graph[3] != 89 or not np.isinf(default[3]) or not 88.7 < plain[3] < 88.8:
    sys.exit("changed: softplus(89) was 89 in TensorFlow, inf in LiteRT, and 88.723 without its delegate")
PYTHON
