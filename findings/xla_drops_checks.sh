#!/usr/bin/env bash
# XLA on the CPU: `tf.debugging.assert_less` and `check_numerics` do nothing in a compiled function.
#
# Versions: tensorflow 2.21.0.
#
# A model that checks its input fails on a bad row. The same function with `jit_compile=True` runs on, and gives
# numbers for the row: compiling leaves both checks out, without a warning.
#
# Seen:
#   assert_less      plain: InvalidArgumentError   compiled: [100.]
#   check_numerics   plain: InvalidArgumentError   compiled: [nan]
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6

export TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import tensorflow as tf


def less(x):
    tf.debugging.assert_less(x, 10.0)
    return x * 2


def finite(x):
    return tf.debugging.check_numerics(x, "not finite") * 2


def outcome(check, row, compiled):
    try:
        return str(tf.function(check, jit_compile=compiled, autograph=False)(tf.constant([row])).numpy())
    except tf.errors.InvalidArgumentError as error:
        return type(error).__name__


seen = []
for name, check, row in ("assert_less", less, 50.0), ("check_numerics", finite, np.nan):
    seen += [outcome(check, row, False), outcome(check, row, True)]
    print(f"{name:<16} plain: {seen[-2]:<22} compiled: {seen[-1]}")
if seen != ["InvalidArgumentError", "[100.]", "InvalidArgumentError", "[nan]"]:
    sys.exit(f"changed: both checks failed plainly and were left out when compiled; now {seen}")
PYTHON
