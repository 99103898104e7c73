"""The rows that executors are compared on where there is no calibration file: made up, by a generator of a fixed seed.

Which made-up rows a model understands is not known beforehand: an index above a vocabulary is an error, pixels of 0 to
1 may leave a network for 0 to 255 asleep. So there are several; the caller takes the first that tells outputs apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.models.program import FlatArrays
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import numpy_dtype

GENERATED = "generated"
LEAST_ROWS, MOST_ROWS, MOST_BYTES = 8, 512, 64 * 2**20
FREE_SIZE = 16  # of a dimension that the model leaves free
_SEED = 20240229
# By round: floats standard normal, then of [0, 1); integers below these limits.
_INTEGER_LIMITS = (256, 10, 2)


def generated_rows(inputs: Sequence[TensorSpec], batch_rows: int) -> Iterator[FlatArrays]:
    """Candidates of rows, each an array per input in their order; two batches, but 8 to 512 rows, about 64 MiB.

    Yields:
        Arrays that the model's own inputs take, so after any `preprocess`. None at all where no rows can be made up:
        strings.
    """
    row_bytes = sum(math.prod(shape_of(spec, 1)) * numpy_dtype(spec.dtype).itemsize for spec in inputs)
    count = min(max(2 * batch_rows, LEAST_ROWS), MOST_ROWS, max(LEAST_ROWS, MOST_BYTES // max(1, row_bytes)))
    if not inputs or any(numpy_dtype(spec.dtype).kind not in "fiubcV" for spec in inputs):
        return
    rounds = len(_INTEGER_LIMITS) if any(numpy_dtype(spec.dtype).kind in "iu" for spec in inputs) else 2
    for number in range(rounds):
        random = np.random.default_rng(_SEED + number)
        yield [_generated(spec, count, number, random) for spec in inputs]


def shape_of(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """The shape of so many rows, with `FREE_SIZE` where the model leaves a size free."""
    return (rows, *(size or FREE_SIZE for size in spec.shape[1:])) if spec.shape else ()


def _generated(spec: TensorSpec, count: int, number: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    dtype, shape = numpy_dtype(spec.dtype), shape_of(spec, count)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        limit = min(_INTEGER_LIMITS[number], int(np.iinfo(dtype).max) + 1)
        return np.asarray(random.integers(0, limit, shape)).astype(dtype)
    values = random.standard_normal(shape, np.float32) if number == 0 else random.random(shape, np.float32)
    return np.asarray(values).astype(dtype)
