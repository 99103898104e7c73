#!/usr/bin/env bash
# OpenVINO: a small network of 8 bits gives other outputs in a batch of 8 rows than in one of 16, in silence.
#
# Versions: openvino 2026.4.1, x86-64 with AVX-512 VNNI.
#
# Two products with a ReLU between them, weights and activations quantised (FakeQuantize) as NNCF writes it. For few rows
# the CPU plugin makes one fused kernel of both products, whose outputs have nothing to do with the network's; a batch of
# 16 goes another way, and is right. With the plugin's SNIPPETS_MODE on DISABLE
# there is no such kernel, and 8 rows are right, too.
#
# Seen, the first row's first three outputs:
#   float32             [-0.830 -0.145 -0.282]
#   8 bits,     16 rows [-0.843 -0.175 -0.233]
#   8 bits,      8 rows [ 2.473  3.239 -5.325]
#   8 bits,  8 rows, no fused kernel [-0.843 -0.175 -0.233]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile openvino==2026.4.1 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import openvino
from openvino import opset13 as op

random = np.random.default_rng(3)
first, second = (random.standard_normal(shape).astype(np.float32) / 8 for shape in ((64, 256), (256, 10)))
rows = random.standard_normal((16, 64)).astype(np.float32)


def quantised(values, low, high, levels=256):
    ends = [op.constant(np.float32(end)) for end in (low, high, low, high)]
    return op.fake_quantize(values, *ends, levels)


def weights(matrix):
    most = abs(matrix).max()
    return quantised(op.constant(matrix), -most, most, 255)


def outputs(count, **config):
    given = op.parameter([count, 64], np.float32)
    hidden = op.relu(op.matmul(quantised(given, -4, 4), weights(first), False, False))
    result = op.matmul(quantised(hidden, 0, 8), weights(second), False, False)
    config |= {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(openvino.Model([result], [given]), "CPU", config)(rows[:count])[0]


exact = np.maximum(rows @ first, 0) @ second
found = {
    "float32            ": exact,
    "8 bits,     16 rows": outputs(16),
    "8 bits,      8 rows": outputs(8),
    "8 bits,  8 rows, no fused kernel": outputs(8, SNIPPETS_MODE="DISABLE"),
}
off = []
for name, values in found.items():
    with np.printoptions(precision=3, suppress=True, floatmode="fixed"):
        print(f"{name} {values[0, :3]}")
    off.append(bool(abs(values - exact[: len(values)]).max() > 0.5))
if off != [False, False, True, False]:
    sys.exit(f"changed: 8 rows alone were off, and not without the fused kernel; off now: {off}")
PYTHON
