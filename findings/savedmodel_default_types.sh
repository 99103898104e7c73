#!/usr/bin/env bash
# TensorFlow: a node of a SavedModel has no type attribute where its type is the one that its operation has by default.
#
# Versions: tensorflow 2.21.0.
#
# Who reads the graph of a `saved_model.pb`, to see what a model computes in which type, finds `T` on `Conv2D` and
# `Softmax`, and none on `MaxPool` of float32: `tf.saved_model.save` leaves out each attribute that has its default, and
# `T` of `MaxPool` has one. The same node of float16 has it, and so has the float32 one in the graph that was saved. No
# option of `SaveOptions` keeps it. The default stands in the file, in `meta_info_def.stripped_op_list`.
#
# Seen:
#   in the traced graph  Conv2D float32, MaxPool float32, Softmax float32
#   in the SavedModel    Conv2D float32, MaxPool (no T),  Softmax float32
#   default of T in the file's own list of operations: MaxPool float32
#   of float16           MaxPool float16
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile tensorflow==2.21.0

export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
venv/bin/python - 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" >&2; exit 1; }
import sys

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

OPERATIONS = ("Conv2D", "MaxPool", "Softmax")


def types(nodes):
    return {
        node.op: tf.dtypes.as_dtype(node.attr["T"].type).name if "T" in node.attr else "(no T)"
        for node in nodes
        if node.op in OPERATIONS
    }


def saved(dtype):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], dtype)], autograph=False)
    def function(x):
        x = tf.nn.conv2d(x, tf.ones([2, 2, 1, 1], dtype), 1, "VALID")
        return {"y": tf.nn.softmax(tf.nn.max_pool2d(x, 2, 2, "VALID"))}

    traced = types(function.get_concrete_function().graph.as_graph_def().node)
    name = f"saved-{tf.dtypes.as_dtype(dtype).name}"
    tf.saved_model.save(tf.Module(), name, signatures={"serving_default": function})
    with open(f"{name}/saved_model.pb", "rb") as file:
        meta = SavedModel.FromString(file.read()).meta_graphs[0]
    library = meta.graph_def.library.function
    found = types([*meta.graph_def.node, *(node for one in library for node in one.node_def)])
    defaults = {
        one.name: tf.dtypes.as_dtype(attribute.default_value.type).name
        for one in meta.meta_info_def.stripped_op_list.op
        for attribute in one.attr
        if one.name in OPERATIONS and attribute.name == "T" and attribute.default_value.type
    }
    return traced, found, defaults


def line(found):
    return ", ".join(f"{name} {found[name]}" for name in OPERATIONS)


traced, found, defaults = saved(tf.float32)
half = saved(tf.float16)[1]
print("in the traced graph ", line(traced))
print("in the SavedModel   ", line(found))
print("default of T in the file's own list of operations:", *(f"{name} {one}" for name, one in defaults.items()))
print("of float16           MaxPool", half["MaxPool"])
expected = dict.fromkeys(OPERATIONS, "float32")
if (traced, found, defaults, half["MaxPool"]) != (
    expected,
    {**expected, "MaxPool": "(no T)"},
    {"MaxPool": "float32"},
    "float16",
):
    sys.exit("changed: the type of MaxPool was left out of a SavedModel where it is float32, and there alone")
PYTHON
