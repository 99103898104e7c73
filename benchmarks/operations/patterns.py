"""Operations that become something else together: each pattern is the least that a case of the sweep needed."""

from __future__ import annotations

from tasks.executors.operations import Pattern

PATTERNS: list[Pattern] = [
    # TensorFlow makes LogSoftmax of them, which is finite where a softmax is 0.
    Pattern("log of a softmax", ["Log/float", "Softmax/float"], xla="no", bfloat16="no"),
]
