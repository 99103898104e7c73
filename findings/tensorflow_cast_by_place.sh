#!/usr/bin/env bash
# TensorFlow: what 300.0 becomes as uint8 depends on where in the tensor it stands.
#
# Versions: tensorflow 2.21.0, x86-64 with AVX-512.
#
# `tf.cast` from float32 to uint8 of numbers outside 0 to 255 saturates in whole blocks of 64, which are vectorised,
# and wraps around in the rest. So a row's value depends on the rows beside it, and on how many they are: with a batch
# of 64 rows of one number each, the same row gives 255, and alone it gives 44.
#
# Seen:
#   70 times 256.0   64 x 255, 6 x 0
#   70 times -1.0    64 x 0, 6 x 255
#   70 times 300.0   64 x 255, 6 x 44
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

changed = []
for value in (256.0, -1.0, 300.0):
    whole = tf.cast(tf.fill([70], value), tf.uint8).numpy()
    (first, *_), (*_, last) = whole[:64], whole[64:]
    counts = [np.count_nonzero(whole == one) for one in (first, last)]
    print(f"70 times {value:<6}  {counts[0]} x {first}, {counts[1]} x {last}")
    saturated, wrapped = int(np.clip(value, 0, 255)), int(value) % 256
    if (whole[:64] != saturated).any() or (whole[64:] != wrapped).any():
        changed.append(value)
if changed:
    sys.exit(f"changed: the first 64 of 70 were saturated and the rest wrapped around; not so for {changed}")
PYTHON
