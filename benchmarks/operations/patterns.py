"""Operations that become something else together: each pattern is the least that a case of the sweep needed."""

from __future__ import annotations

from tasks.executors.operation_table import Pattern

PATTERNS: list[Pattern] = [
    # Fused with their bias, products overflow in another order.
    Pattern("a product with bias", ["BiasAdd/float", "MatMul/float"], frozen="finite"),
    Pattern("a convolution with bias", ["BiasAdd/float", "Conv2D/float"], tflite="finite"),
    Pattern("products of matrices with bias", ["BatchMatMulV2/float", "BiasAdd/float"], tflite="finite"),
    Pattern("a spectrum", ["ComplexAbs/complex", "RFFT"], xla="finite"),
    # XLA simplifies them to what TensorFlow does not: x, log1p, |x|.
    Pattern("log of exp", ["Exp/float", "Log/float"], xla="no"),
    Pattern("log of 1 + exp", ["AddV2/float", "Exp/float", "Log/float,positive"], xla="no"),
    Pattern("root of a square", ["Sqrt/float", "Square/float"], xla="finite"),
    Pattern("a count", ["Cast/bool>int", "NotEqual/float", "Sum/int"], tflite="finite", int8="finite"),
    Pattern("equal to an infinity", ["Const/infinite", "Equal/float"], tflite="finite", int8="finite"),
    # TFLite makes one operator of them.
    Pattern("floor of a quotient", ["Floor/float", "RealDiv/float,constant"], tflite="finite", openvino="no"),
    # TensorFlow makes LogSoftmax of them, which is finite where a softmax is 0.
    Pattern(
        "log of a softmax",
        ["Log/float", "Softmax/float"],
        xla="no",
        openvino="no",
        bfloat16="no",
        openvino_bfloat16="no",
    ),
    # OpenVINO makes one operation of them (MVN), fuses them with a convolution, or divides by multiplying.
    Pattern(
        "layer norm by hand",
        ["AddV2/float", "Mean/float", "Mul/float", "Rsqrt/float,positive", "Square/float", "Sub/float"],
        openvino="no",
        openvino_bfloat16="no",
    ),
    Pattern("log_softmax of a convolution", ["BiasAdd/float", "Conv2D/float", "LogSoftmax/float"], openvino="no"),
    # OpenVINO computes them with exp and log: off by 4e-7 where they are 1e-11, and by more than they are below 1e-7.
    Pattern("softplus", ["Softplus/float"], openvino="no"),
    Pattern("elu", ["Elu/float"], openvino="no"),
    Pattern("selu", ["Selu/float"], openvino="no"),
    Pattern("normalization", ["RealDiv/float,constant", "Sub/float"], openvino="finite"),
]
