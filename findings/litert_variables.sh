#!/usr/bin/env bash
# LiteRT: `reset_all_variables` does not reset a model's variables.
#
# Versions: ai-edge-litert 2.3.0, tensorflow 2.21.0 (which converts).
#
# A SavedModel that counts its calls, converted with `experimental_enable_resource_variables`, goes on counting after
# `Interpreter.reset_all_variables()`, and so does a new signature runner: the method resets tensors that are marked as
# variables, as of an LSTM of TensorFlow 1, and a `tf.Variable` becomes a resource, which is none of them. What begins
# anew is a new interpreter.
#
# Seen:
#   three calls            [1.0, 2.0, 3.0]
#   after the reset        4.0
#   by a new runner        5.0
#   by a new interpreter   1.0
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
from ai_edge_litert.interpreter import Interpreter


class Counter(tf.Module):
    def __init__(self):
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([1], tf.float32)], autograph=False)
    def count(self, x):
        self.calls.assign_add(1.0)
        return {"calls": x + self.calls}


counter = Counter()
tf.saved_model.save(counter, "counter", signatures=counter.count)
converter = tf.lite.TFLiteConverter.from_saved_model("counter")
converter.experimental_enable_resource_variables = True
model = converter.convert()


def call(runner):
    return float(runner(x=np.zeros(1, np.float32))["calls"][0])


interpreter = Interpreter(model_content=model)
runner = interpreter.get_signature_runner()
three = [call(runner) for _ in range(3)]
interpreter.reset_all_variables()
seen = [three, call(runner), call(interpreter.get_signature_runner())]
seen.append(call(Interpreter(model_content=model).get_signature_runner()))
for what, count in zip(["three calls", "after the reset", "by a new runner", "by a new interpreter"], seen):
    print(f"{what:<22} {count}")
if seen != [[1.0, 2.0, 3.0], 4.0, 5.0, 1.0]:
    sys.exit("changed: the counter went on after reset_all_variables, and began anew in a new interpreter")
PYTHON
