#!/usr/bin/env bash
# LiteRT: CompiledModel leaves outputs unwritten where two of them are one tensor, or one is the input; the older
# Interpreter gives them. Nothing is raised.
#
# Versions: ai-edge-litert 2.3.0, tensorflow 2.21.0 (which converts), x86-64, on the processor.
#
# The converter folds equal outputs into one tensor, so such a model comes of ordinary code. Buffers are filled with -7
# before the run: what comes back is either the model's, or -7. Where an output is the input, the other output is wrong
# as well: it is computed from the output's unwritten buffer, twice -7. Two outputs that differ are right.
#
# Seen, of the row 1 2 3 4:
#   equal outputs     Interpreter [2. 4. 6. 8.] [2. 4. 6. 8.]   CompiledModel [-7. -7. -7. -7.] [2. 4. 6. 8.]
#   input and double  Interpreter [1. 2. 3. 4.] [2. 4. 6. 8.]   CompiledModel [-7. -7. -7. -7.] [-14. -14. -14. -14.]
#   others            Interpreter [2. 3. 4. 5.] [2. 4. 6. 8.]   CompiledModel [2. 3. 4. 5.] [2. 4. 6. 8.]
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
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.options import Options

row = np.array([1, 2, 3, 4], np.float32)
spec = tf.TensorSpec([4], tf.float32)
models = {
    "equal outputs": lambda x: (x * 2, x * 2 + 0.0),
    "input and double": lambda x: (x, x * 2),
    "others": lambda x: (x + 1, x * 2),
}


def interpreted(path):
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def compiled(path):
    model = CompiledModel.from_file(path, options=Options(hardware_accelerators=HardwareAccelerator.CPU))
    (taken,), given = model.create_input_buffers(0), model.create_output_buffers(0)
    for buffer in given:
        buffer.write(np.full(4, -7, np.float32))
    taken.write(row)
    model.run_by_index(0, [taken], given)
    return [buffer.read(4, np.float32) for buffer in given]


seen = {}
for what, outputs in models.items():
    function = tf.function(outputs, autograph=False).get_concrete_function(spec)
    with open("model.tflite", "wb") as file:
        file.write(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    right, got = interpreted("model.tflite"), compiled("model.tflite")
    print(f"{what:17} Interpreter {right[0]} {right[1]}   CompiledModel {got[0]} {got[1]}")
    seen[what] = [np.array_equal(*pair) for pair in zip(right, got)]
if seen != {"equal outputs": [False, True], "input and double": [False, False], "others": [True, True]}:
    sys.exit(f"changed: which outputs CompiledModel gives as Interpreter does is now {seen}")
PYTHON
