"""Writes arrays into one file, and gives tensors that alias it: one copy of them for all processes.

    write_arrays   arrays --> file, each at a multiple of 64 bytes, on the disk
    map_arrays     file --copy-on-write map--> arrays --dlpack--> tensors
    map_weights    the same, assigned to variables, which keep the alias

The kernel keeps one copy of pages that nobody writes to. TensorFlow aliases memory that is aligned to 64 bytes; any
other it would copy, or abort. Strings have no such form; variables of them stop a snapshot.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.protocol.signature import numpy_dtype
from tasks.snapshots.record import Weight

ALIGNMENT = 64


def write_arrays(path: Path, arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> list[Weight]:
    """Write arrays, each with a name, in their order; return where each stands.

    Raises:
        ValueError: the values of one have no fixed size.
    """
    weights = []
    with path.open("wb") as file:
        for name, array in arrays:
            if array.dtype == object:
                raise ValueError(f"the variable {name} holds strings")
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            weights.append(Weight(name, array.dtype.name, array.shape, file.tell()))
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        # Pages that are not on the disk yet count as each process's own.
        os.fsync(file.fileno())
    return weights


def map_arrays(path: Path, weights: Sequence[Weight]) -> list[Any]:
    """The arrays as tensors, without a copy.

    Raises:
        OSError: the file cannot be mapped.
        ValueError: it is too short.
    """
    if not weights:
        return []
    if path.stat().st_size == 0:
        return [_tensor(np.empty(0, np.uint8), weight) for weight in weights]
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = []
    for weight in weights:
        size = int(np.prod(weight.shape, dtype=np.int64)) * numpy_dtype(weight.dtype).itemsize
        tensors.append(_tensor(np.frombuffer(mapped, np.uint8, size, weight.offset if size else 0), weight))
    return tensors


def map_weights(path: Path, weights: Sequence[Weight], variables: Sequence[Any]) -> None:
    """Give each variable its values, without a copy.

    Raises:
        ValueError: the variables are not those of the file.
        OSError: the file cannot be mapped.
    """
    for weight, variable in zip(weights, variables, strict=True):
        if (weight.dtype, weight.shape) != (variable.dtype.name, tuple(variable.shape)):
            raise ValueError(f"the variable {variable.name} is not {weight.name} of {path}")
    for tensor, variable in zip(map_arrays(path, weights), variables, strict=True):
        variable.assign(tensor)


def _tensor(data: np.ndarray[Any, Any], weight: Weight) -> Any:
    import tensorflow as tf

    dtype = numpy_dtype(weight.dtype)
    if not data.size:
        return tf.zeros(weight.shape, weight.dtype)
    if data.ctypes.data % ALIGNMENT:
        raise ValueError(f"{weight.name} stands at an odd place")
    if weight.dtype == "bfloat16":  # numpy's dlpack has no word for it
        return tf.bitcast(_alias(data.view(np.uint16).reshape(weight.shape)), tf.bfloat16)
    if dtype.isbuiltin != 1 or dtype.kind == "b":
        return tf.convert_to_tensor(data.view(dtype).reshape(weight.shape))
    return _alias(data.view(dtype).reshape(weight.shape))


def _alias(array: np.ndarray[Any, Any]) -> Any:
    import tensorflow as tf

    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
