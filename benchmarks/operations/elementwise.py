"""Cases of operations on each number: functions of one, of two, comparisons, casts, bits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from benchmarks.operations.case import COLUMNS, Case, plain, spec

ONE = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BesselI0e BesselI1e Ceil Cos Cosh Digamma Elu Erf Erfc Erfinv Exp Expm1 Floor"
    " Inv IsFinite IsInf IsNan LeakyRelu Lgamma Log Log1p Ndtri Neg Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid"
    " Sign Sin Sinh Softplus Softsign Sqrt Square Tan Tanh Softmax LogSoftmax OnesLike ZerosLike"
).split()
TWO = (
    "Add AddV2 Sub Mul RealDiv Div DivNoNan MulNoNan FloorDiv FloorMod TruncateMod Pow Atan2 Maximum Minimum"
    " SquaredDifference Xlogy Xlog1py Xdivy NextAfter Igamma Igammac Zeta Polygamma Equal NotEqual Less LessEqual"
    " Greater GreaterEqual ApproximateEqual"
).split()
TWO_INTEGERS = (
    "Add AddV2 Sub Mul Div FloorDiv FloorMod TruncateDiv TruncateMod Pow Maximum Minimum SquaredDifference Equal"
    " NotEqual Less LessEqual Greater GreaterEqual LeftShift RightShift BitwiseAnd BitwiseOr BitwiseXor"
).split()
ONE_INTEGER = "Abs Neg Sign Square Invert PopulationCount OnesLike ZerosLike Relu".split()
BY_CONSTANT = "RealDiv FloorDiv FloorMod TruncateMod Pow Mul AddV2 Sub Maximum Minimum".split()
INTEGERS_BY_CONSTANT = "FloorDiv FloorMod TruncateDiv TruncateMod Div Pow LeftShift RightShift Mul AddV2".split()
FROM_FLOAT = "int32 int64 uint8 int8 int16 bool float16 float64 bfloat16".split()
FROM_OTHERS = (
    "int32>float32 int64>float32 uint8>float32 int8>float32 int16>float32 bool>float32 float16>float32 float64>float32"
    " bfloat16>float32 int32>int64 int64>int32 bool>int32 int32>bool int32>uint8 uint8>int32 float64>int32"
    " int32>float64 int8>int32 uint8>bool bool>int64 int64>bool uint8>float16"
).split()
WIDE = (
    "AddV2 Sub Mul RealDiv Maximum Minimum Sqrt Rsqrt Exp Log Tanh Sigmoid Relu Square Neg Abs Floor Round Softmax"
).split()


def cases() -> Iterator[Case]:
    """All of them."""
    for name in ONE:
        yield Case(name, plain(_raw(name)))
    for name in TWO:
        yield Case(name, plain(_raw(name)), [spec(COLUMNS)] * 2)
    for dtype in ("int32", "int64"):
        for name in TWO_INTEGERS:
            yield Case(f"{name} of {dtype}", plain(_raw(name)), [spec(COLUMNS, dtype=dtype)] * 2)
    for name in ONE_INTEGER:
        yield Case(f"{name} of int32", plain(_raw(name)), [spec(COLUMNS, dtype="int32")])
    for name in BY_CONSTANT:
        yield Case(f"{name} by constants", plain(_by_constants(name, tf.float32)))
    for name in INTEGERS_BY_CONSTANT:
        for dtype in (tf.int32, tf.int64):
            inputs = [spec(COLUMNS, dtype=dtype.name)]
            yield Case(f"{name} by constants of {dtype.name}", plain(_by_constants(name, dtype)), inputs)
    yield Case("Betainc", plain(lambda a, b, x: tf.raw_ops.Betainc(a=a, b=b, x=x)), [spec(COLUMNS)] * 3)
    yield Case("ClipByValue", plain(lambda x: tf.raw_ops.ClipByValue(t=x, clip_value_min=-2.0, clip_value_max=3.0)))
    yield Case("clip by Minimum, Maximum", plain(lambda x: tf.maximum(tf.minimum(x, 6.0), 0.0)))
    yield Case("LeakyRelu of 0.3", plain(lambda x: tf.nn.leaky_relu(x, 0.3)))
    yield Case("CheckNumerics", plain(lambda x: tf.debugging.check_numerics(x, "bad")))
    yield Case("AddN", plain(lambda x, y: tf.add_n([x, y, x])), [spec(COLUMNS)] * 2)
    for name in ("LogicalAnd", "LogicalOr"):
        yield Case(name, plain(_raw(name)), [spec(COLUMNS, dtype="bool")] * 2)
    yield Case("LogicalNot", plain(_raw("LogicalNot")), [spec(COLUMNS, dtype="bool")])
    for name in ("Equal", "NotEqual"):
        yield Case(f"{name} of bool", plain(_raw(name)), [spec(COLUMNS, dtype="bool")] * 2)
    yield from _casts()
    for dtype in ("float16", "float64"):
        for name in WIDE:
            inputs = [spec(COLUMNS, dtype=dtype)] * (2 if name in TWO else 1)
            yield Case(f"{name} of {dtype}", plain(_raw(name)), inputs)
    yield Case("Bitcast", plain(lambda x: tf.bitcast(x, tf.int32)))
    yield Case("Bitcast of int32", plain(lambda x: tf.bitcast(x, tf.float32)), [spec(COLUMNS, dtype="int32")])
    yield Case("Bucketize", plain(lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 0.5, 100.0])))
    yield Case(
        "Bucketize of int32",
        plain(lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 7.0])),
        [spec(COLUMNS, dtype="int32")],
    )
    yield Case(
        "SelectV2", plain(tf.where), [spec(COLUMNS, dtype="bool"), spec(COLUMNS), spec(COLUMNS)], has_places=False
    )
    yield Case("SelectV2 of int32", plain(tf.where), [spec(COLUMNS, dtype="bool"), *[spec(COLUMNS, dtype="int32")] * 2])
    yield Case(
        "Select",
        plain(lambda c, x, y: tf.raw_ops.Select(condition=c, x=x, y=y)),
        [spec(COLUMNS, dtype="bool"), spec(COLUMNS), spec(COLUMNS)],
    )
    yield Case("Complex", plain(lambda x, y: tf.complex(x, y)), [spec(COLUMNS)] * 2, has_places=False)
    for name in ("ComplexAbs", "Real", "Imag", "Angle", "Conj"):
        shown = (f"{name}/complex",)
        yield Case(f"Complex, {name}", plain(_of_complex(name)), [spec(COLUMNS)] * 2, has_places=False, shows=shown)


def _raw(name: str) -> Callable[..., Any]:
    """A raw operation as a function of its first inputs."""
    operation = getattr(tf.raw_ops, name)
    names = list(inspect.signature(operation).parameters)
    return lambda *tensors: operation(**dict(zip(names, tensors, strict=False)))


def _by_constants(name: str, dtype: Any) -> Callable[..., Any]:
    constants = [2, 3, 1, 7] if dtype.is_integer else [2.0, -3.0, 0.5, 0.3, 7.0]
    raw = _raw(name)
    return lambda x: [raw(x, tf.constant(constant, dtype)) for constant in constants]


def _of_complex(name: str) -> Callable[..., Any]:
    raw = _raw(name)
    return lambda x, y: raw(tf.complex(x, y))


def _casts() -> Iterator[Case]:
    for dtype in FROM_FLOAT:
        yield Case(f"Cast float32>{dtype}", plain(_cast(dtype)))
    for pair in FROM_OTHERS:
        source, target = pair.split(">")
        yield Case(f"Cast {pair}", plain(_cast(target)), [spec(COLUMNS, dtype=source)])


def _cast(dtype: str) -> Callable[..., Any]:
    return lambda x: tf.cast(x, dtype)
