"""The table by operation: what it promises is never more than what the sweep has seen, and models are read rightly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.operations.derive import merged
from benchmarks.operations.sweep_rows import sweep_rows
from tasks.executors import EXECUTORS, operation_table
from tasks.executors.graph_operations import operations_of
from tasks.executors.operation_table import LEVELS, NOT_BUILT, SWEPT_AS, Pattern, SweptLayer, Table, judge, table
from tasks.protocol.records import TensorSpec

NAMES = [name for name in EXECUTORS if name != "graph" and name not in SWEPT_AS]
NO = "no"


def levels(executor: str, *operations: str) -> str:
    known = table()
    return judge(executor, operations, tensorflow=known.tensorflow).level


def graph_of(function: Callable[..., Any], *specs: tuple[str, list[int | None]]) -> frozenset[str]:
    """The keys of what a function computes on its inputs."""
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, dtype) for dtype, shape in specs]
    concrete = tf.function(function, autograph=False).get_concrete_function(*signature)
    return operations_of(concrete.graph.as_graph_def(), outputs=[output.name for output in concrete.outputs])


def test_the_table_promises_no_more_than_was_seen() -> None:
    known = table()
    wrong = []
    for name, swept in known.layers.items():
        for executor, seen in swept.verdicts.items():
            if seen == NOT_BUILT:
                continue
            operators = swept.tflite_operators if executor in ("tflite", "int8") else ()
            found = judge(executor, swept.operations, operators, tensorflow=known.tensorflow)
            if LEVELS.index(found.level) < LEVELS.index(seen):  # type: ignore[arg-type]
                wrong.append((name, executor, found, seen))
    assert not wrong


def test_each_executor_was_swept_over_150_operations_and_layers() -> None:
    known = table()
    for executor in NAMES:
        swept = [name for name, one in known.layers.items() if one.verdicts.get(executor, NOT_BUILT) != NOT_BUILT]
        operations = [key for key, entry in known.operations.items() if entry.get(executor, NOT_BUILT) != NOT_BUILT]
        assert len(swept) >= 150, executor
        assert len(operations) >= 60, executor
    assert sum(name.startswith("layers.") for name in known.layers) >= 80


@pytest.mark.parametrize(
    ("executor", "operation", "level"),
    [
        ("tflite", "Softplus/float", "no"),
        ("tflite", "Sin/float", "no"),
        ("tflite", "Cos/float", "no"),
        ("tflite", "Softmax/float", "finite"),
        ("tflite", "ArgMax/float", "finite"),
        ("xla", "ArgMax/float", "finite"),
        ("tflite", "MaxPool/float", "finite"),
        ("xla", "Relu/float", "finite"),
        ("tflite", "Relu/float", "finite"),
        ("xla", "GatherV2/float", "no"),
        ("xla", "FloorDiv/int", "no"),
        ("xla", "Assert", "no"),
        ("tflite", "Assert", "no"),
        ("xla", "CheckNumerics/float", "no"),
        ("tflite", "CheckNumerics/float", "no"),
        ("tflite", "Cast/float>small", "no"),
        ("frozen", "Relu/float", "all"),
        ("frozen", "Assert", "all"),
        ("xla", "Tanh/float", "all"),
        ("tflite", "Tanh/float", "all"),
        ("tflite", "Rsqrt/float,positive", "all"),
        ("openvino", "Log1p/float", "no"),
        ("openvino", "Expm1/float", "no"),
        ("openvino", "GatherV2/float", "no"),
        ("openvino", "FloorDiv/int", "no"),
        ("openvino", "Cast/float>small", "no"),
        ("openvino", "Relu/float", "finite"),
        ("openvino", "Assert", "no"),
        ("openvino_bfloat16", "CheckNumerics/float", "no"),
        ("openvino", "Conv2D/float", "all"),
        ("openvino", "Erfc/float", "no"),
        ("openvino", "Erfc/float,gelu", "finite"),
    ],
)
def test_what_is_known(executor: str, operation: str, level: str) -> None:
    assert levels(executor, operation) == level


def test_8_bits_of_openvino_are_judged_as_bfloat16_and_trusted_with_finite_rows_alone() -> None:
    known = Table("1", {"A": {"openvino_bfloat16": "all"}, "B": {"openvino_bfloat16": "no"}, "C": {"openvino": "all"}})
    found = {name: judge("openvino_int8", [name], tensorflow="1", known=known) for name in "ABC"}
    assert [found[name].level for name in "AB"] == ["finite", "no"]
    assert found["C"].unknown == ("C",)


def test_unit_normalization_stays_off_tflite() -> None:
    known = table()
    swept = known.layers["layers.UnitNormalization, 2 axes"]
    found = judge("tflite", swept.operations, swept.tflite_operators, tensorflow=known.tensorflow)
    assert found.level == NO


def test_the_worst_counts_and_is_named() -> None:
    known = Table(
        "1",
        {
            "A": {"xla": "all", "tflite": "all"},
            "B": {"xla": "finite", "tflite": "no"},
            "C": {"xla": "finite", "tflite": "-"},
            "Log": {"xla": "all", "tflite": "all"},
        },
        makers=["Log"],
        by_size={"xla": ["C"]},
        tflite_operators={"ADD": "all", "L2": "no"},
        patterns=[Pattern("both", ["A", "C"], xla="no")],
    )

    def verdict(executor: str, operations: str, operators: tuple[str, ...] = (), version: str = "1") -> tuple[Any, ...]:
        found = judge(executor, operations.split(), operators, tensorflow=version, known=known)
        return found.level, found.because, found.unknown

    assert verdict("xla", "A") == ("all", (), ())
    assert verdict("xla", "A B") == ("finite", ("B",), ())
    assert verdict("tflite", "A B") == ("no", ("B",), ())
    assert verdict("tflite", "A", ("ADD",)) == ("all", (), ())
    assert verdict("tflite", "A", ("L2",)) == ("no", ("TFLite's L2",), ())
    assert verdict("xla", "A", ("L2",)) == ("all", (), ())  # no executor of TFLite
    assert verdict("tflite", "A C", ("NEW",)) == ("all", (), ("C", "TFLite's NEW"))
    assert verdict("xla", "A C") == ("no", ("pattern both",), ())
    # A logarithm gives what B gets, infinities; C minds the largest numbers alone.
    assert verdict("xla", "B Log") == ("no", ("B", "Log"), ())
    assert verdict("xla", "C Log") == ("finite", ("C",), ())
    assert verdict("xla", "A X", version="2") == ("all", (), ("A", "X"))
    assert verdict("graph", "B X", version="2") == ("all", (), ())


def test_another_version_of_a_runtime_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Table("1", {"A": dict.fromkeys(NAMES, "no")}, runtimes={"openvino": "3"})
    for have, level, unknown in (("3", "no", ()), ("4", "all", ("A",))):
        monkeypatch.setattr(operation_table, "installed", lambda package, have=have: have)
        for executor in ("openvino", "openvino_bfloat16"):
            found = judge(executor, ["A"], tensorflow="1", known=known)
            assert (found.level, found.unknown) == (level, unknown)
        assert judge("tflite", ["A"], tensorflow="1", known=known).level == "no"


def test_what_is_swept_apart_takes_the_place_of_what_was_known() -> None:
    old = Table(
        "1",
        {"A": {"xla": "all", "openvino": "all"}, "B": {"xla": "no", "openvino": "all"}},
        by_size={"xla": ["A"], "openvino": ["A", "B"]},
        layers={"a": SweptLayer(["A"], {"xla": "all", "openvino": "no"}, why={"xla": "x", "openvino": "o"})},
    )
    new = Table(
        "1",
        {"A": {"openvino": "finite"}, "C": {"openvino": "no"}},
        makers=["C"],
        by_size={"openvino": []},
        layers={"a": SweptLayer(["A"], {"openvino": "finite"}), "c": SweptLayer(["C"], {"openvino": "no"})},
        runtimes={"openvino": "3"},
    )
    found = merged(old, new, ["openvino"])
    assert found.operations == {
        "A": {"xla": "all", "openvino": "finite"},
        "B": {"xla": "no", "openvino": "all"},
        "C": {"openvino": "no"},
    }
    assert (found.makers, found.by_size) == (["C"], {"xla": ["A"], "openvino": ["B"]})
    assert found.layers["a"] == SweptLayer(["A"], {"xla": "all", "openvino": "finite"}, why={"xla": "x"})
    assert found.layers["c"].verdicts == {"openvino": "no"}
    assert found.runtimes == {"openvino": "3"}


def test_keys_name_the_type_and_what_is_fixed() -> None:
    import tensorflow as tf

    rows, numbers = ("float32", [None, 4]), ("int32", [None, 4])
    assert graph_of(lambda x: tf.nn.relu(x), rows) == {"Relu/float"}
    assert graph_of(lambda x: tf.cast(x, tf.uint8), rows) == {"Cast/float>small"}
    assert graph_of(lambda x: x // 3, numbers) == {"FloorDiv/int,constant"}
    assert graph_of(lambda x, y: x // y, numbers, numbers) == {"FloorDiv/int"}
    assert graph_of(lambda x: tf.gather(tf.ones([9]), x), numbers) == {"GatherV2/float"}
    assert graph_of(lambda x: tf.gather(x, [1, 2], axis=1), rows) == {"GatherV2/float,constant"}
    assert graph_of(lambda x: tf.math.rsqrt(tf.square(x) + 1e-3), rows) == {
        "Square/float",
        "AddV2/float",
        "Rsqrt/float,positive",
    }
    assert graph_of(lambda x: tf.math.rsqrt(x + 1e-3), rows) == {"AddV2/float", "Rsqrt/float"}
    assert graph_of(lambda x: x / (tf.abs(x) + 1.0), rows) == {"Abs/float", "AddV2/float", "RealDiv/float,positive"}
    assert "Const/infinite" in graph_of(lambda x: tf.where(x > 0, x, -np.inf), rows)


def test_an_erfc_that_only_weighs_its_own_argument_is_told_from_others() -> None:
    import tensorflow as tf

    rows = ("float32", [None, 4])
    of_gelu = {"Erfc/float,gelu", "Mul/float", "Neg/float"}
    assert graph_of(tf.nn.gelu, rows) == of_gelu
    assert graph_of(lambda x: tf.nn.gelu(x) * tf.math.erfc(x), rows) == of_gelu | {"Erfc/float"}
    for kept in (
        lambda x: tf.math.erfc(x),
        lambda x: tf.math.erfc(x) * 2.0,
        lambda x: tf.math.erfc(x) * tf.math.erfc(x),
        lambda x: tf.math.erfc(x) * tf.sin(x),
        lambda x: tf.math.erfc(x) * x + tf.math.erfc(x),
        lambda x: [tf.math.erfc(x), (lambda y: y * x)(tf.math.erfc(x))],
    ):
        assert "Erfc/float" in graph_of(kept, rows)
    same = tf.function(lambda x: (lambda y: [y, y * x])(tf.math.erfc(x)), autograph=False)
    assert "Erfc/float" in graph_of(same, rows), "the output of a function, too"


def test_what_is_the_same_for_all_rows_is_left_out() -> None:
    import tensorflow as tf

    matrix = tf.Variable(tf.ones([4, 2]))
    rows = ("float32", [None, 4])
    assert graph_of(lambda x: tf.matmul(x, tf.sin(matrix) + tf.cast(tf.shape(x)[1], tf.float32)), rows) == {
        "MatMul/float"
    }
    # The rows say how many there are of `where`: shapes behind it are no constants.
    found = graph_of(lambda x: tf.cast(tf.shape(tf.where(x > 0))[0], tf.float32) * x, rows)
    assert {"Where/bool", "StridedSlice/int,constant", "Cast/int>float"} <= found


def test_bodies_of_functions_loops_and_branches_count() -> None:
    import tensorflow as tf

    rows, numbers = ("float32", [None, 4]), ("int32", [None, 4])
    inner = tf.function(lambda x: tf.sin(x), autograph=False)
    assert graph_of(lambda x: inner(x) + 1.0, rows) == {"Sin/float", "AddV2/float"}
    steps = graph_of(lambda x: tf.while_loop(lambda n, _: n < 3, lambda n, y: (n + 1, tf.cos(y)), [0, x])[1], rows)
    assert steps == {"Cos/float"}  # as often for all rows
    by_rows = graph_of(lambda x: tf.while_loop(lambda y: tf.reduce_any(y > 0), lambda y: y // 2, [x])[0], numbers)
    assert {"While", "FloorDiv/int,constant"} <= by_rows
    branches = graph_of(lambda x: tf.cond(tf.reduce_any(x > 0), lambda: tf.sin(x), lambda: tf.exp(x)), rows)
    assert {"If", "Sin/float", "Exp/float"} <= branches
    checked = graph_of(lambda x: _checked(tf.debugging.assert_less(x, 9.0), x), rows)
    assert "Assert" in checked


def _checked(check: Any, x: Any) -> Any:
    import tensorflow as tf

    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(x)


def test_the_signature_of_a_saved_model(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.matrix = tf.Variable(tf.ones([4, 2]))
    one = tf.function(
        lambda x: {"y": tf.nn.softmax(tf.matmul(x, module.matrix))},
        input_signature=[tf.TensorSpec([None, 4])],
        autograph=False,
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": one})
    expected = {"MatMul/float", "Softmax/float"}
    assert operations_of(tmp_path) == operations_of(tmp_path / "saved_model.pb") == expected
    with pytest.raises(ValueError, match="no signature 'other'"):
        operations_of(tmp_path, "other")


def test_types_that_saving_leaves_out_are_those_that_operations_have_by_default(tmp_path: Path) -> None:
    import tensorflow as tf

    half = tf.float16  # which is not left out
    one = tf.function(
        lambda x: {"y": tf.nn.max_pool2d(x, 2, 2, "VALID"), "z": tf.nn.max_pool2d(tf.cast(x, half), 2, 2, "VALID")},
        input_signature=[tf.TensorSpec([None, 4, 4, 1])],
        autograph=False,
    )
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serving_default": one})
    graph = one.get_concrete_function()
    unsaved = operations_of(graph.graph.as_graph_def(), outputs=[output.name for output in graph.outputs])
    assert operations_of(tmp_path) == unsaved == {"MaxPool/float", "MaxPool/half", "Cast/float>half"}


def test_the_rows_that_hurt() -> None:
    specs = [TensorSpec("x", "float32", (None, 3, 5)), TensorSpec("i", "uint8", (None,))]
    groups = sweep_rows(specs, 7)
    again = sweep_rows(specs, 7)
    for group, same in zip(groups, again, strict=True):
        assert [array.shape for array in group.rows] == [(7, 3, 5), (7,)]
        assert [array.dtype for array in group.rows] == [np.float32, np.uint8]
        assert all(map(np.array_equal, map(np.ndarray.tobytes, group.rows), map(np.ndarray.tobytes, same.rows)))
        assert np.isfinite(group.rows[0]).all() == (group.kind != "nonfinite")
    assert {group.kind for group in groups} == {"finite", "extreme", "nonfinite"}
    assert not sweep_rows([TensorSpec("s", "string", (None,))], 3)
    (limits,) = (group for group in sweep_rows([TensorSpec("i", "int32", (None, 9))], 3) if group.kind == "extreme")
    assert {-(2**31), 2**31 - 1} == set(limits.rows[0].flat)


def test_every_layer_of_keras_is_swept_or_left_out_with_a_reason() -> None:
    import keras

    from benchmarks.operations.layers import LAYERS, LEFT_OUT

    known = {word for names in LEFT_OUT for word in names.split()}
    known |= {word.strip() for name in LAYERS for word in name.replace("Cell", "Cell,").split(",")}
    classes = {getattr(keras.layers, name) for name in known if hasattr(keras.layers, name)}
    names = [name for name in dir(keras.layers) if isinstance(getattr(keras.layers, name), type)]
    assert not [name for name in names if getattr(keras.layers, name) not in classes]
