"""This module writes a model's variables into one file, and lets variables alias it: one copy for all processes.

    write_weights   variables --> file, each at a multiple of 64 bytes, on the disk
    map_weights     file --copy-on-write map--> arrays --dlpack--> tensors --assign--> variables that alias the map

The kernel keeps one copy of pages that nobody writes to. TensorFlow aliases memory that is aligned to 64 bytes; any
other it would copy, or abort. Strings have no such form; variables of them stop a snapshot.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.signature import numpy_dtype
from tasks.snapshots.record import Weight

ALIGNMENT = 64


def write_weights(path: Path, variables: Sequence[Any]) -> tuple[list[Weight], str]:
    """Write the variables in their order; return where each stands, and the file's SHA-256.

    Raises:
        ValueError: a variable's values have no fixed size.
    """
    weights = []
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for variable in variables:
            array = variable.numpy()
            if array.dtype == object:
                raise ValueError(f"the variable {variable.name} holds strings")
            padding = b"\0" * (-file.tell() % ALIGNMENT)
            weights.append(Weight(variable.name, variable.dtype.name, array.shape, file.tell() + len(padding)))
            for data in (padding, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data):
                digest.update(data)
                file.write(data)
        file.flush()
        # Pages that are not on the disk yet count as each process's own.
        os.fsync(file.fileno())
    return weights, digest.hexdigest()


def map_weights(path: Path, weights: Sequence[Weight], variables: Sequence[Any]) -> None:
    """Give each variable its values, without a copy.

    Raises:
        ValueError: the variables are not those of the file.
        OSError: the file cannot be mapped.
    """
    import tensorflow as tf

    if not weights:
        return
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for weight, variable in zip(weights, variables, strict=True):
        if (weight.dtype, weight.shape) != (variable.dtype.name, tuple(variable.shape)):
            raise ValueError(f"the variable {variable.name} is not {weight.name} of {path}")
        dtype = numpy_dtype(weight.dtype)
        count = int(np.prod(weight.shape, dtype=np.int64))
        if not count:
            variable.assign(tf.zeros(weight.shape, weight.dtype))
            continue
        array = np.frombuffer(mapped, np.uint8, count * dtype.itemsize, weight.offset)
        variable.assign(_alias(array, weight))


def _alias(array: np.ndarray[Any, Any], weight: Weight) -> Any:
    import tensorflow as tf

    if array.ctypes.data % ALIGNMENT:
        raise ValueError(f"{weight.name} stands at an odd place")
    dtype = numpy_dtype(weight.dtype)
    if dtype.isbuiltin != 1 or dtype.kind == "b":  # dlpack has no word for these
        return tf.convert_to_tensor(array.view(dtype).reshape(weight.shape))
    return tf.experimental.dlpack.from_dlpack(array.view(dtype).reshape(weight.shape).__dlpack__())
