"""The rows of a calibration file: all of them up to a bound, else spread evenly over the file, which may be sorted.

.npy, or .npz with an array by the name of each input --> an array per input, in their order
--model--> how large its outputs are, how long it takes --> fewer, where all would be too many
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.models.batches import in_batches
from tasks.models.program import FlatArrays, FlatCall
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import fit, numpy_dtype
from worker_config.errors import ConfigError, InputError

MOST_ROWS, LEAST_ROWS = 4096, 8
# Of all inputs, and again of all outputs; comparing takes some times as much.
MOST_BYTES = 128 * 2**20
# Of the model's own graph: an executor's whole trial has 300 seconds, and may be slower.
MOST_SECONDS = 60.0


def calibration_rows(path: Path, inputs: Sequence[TensorSpec], most: int = MOST_ROWS) -> tuple[FlatArrays, int]:
    """An array per input, of equally many rows, at most so many and about 128 MiB; and how many the file has.

    Raises:
        ConfigError: the file cannot be read, or holds what the model does not take.
    """
    wanted = "; ".join(map(str, inputs))
    wanted = f"it should hold rows of {wanted}: .npy for one input, .npz with an array by the name of each"
    value_bytes = max(numpy_dtype(spec.dtype).itemsize for spec in inputs)
    try:
        rows, count = _read(path, value_bytes, most)
        fitted = fit(rows, inputs, "of the calibration", ordered=False)
    except OSError as error:
        raise ConfigError(f"the calibration file {path} cannot be read ({error.strerror or error}); {wanted}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, InputError) as error:
        raise ConfigError(f"the calibration file {path}: {error}; {wanted}") from None
    if count < 2:
        raise ConfigError(f"the calibration file {path} has {count} rows; {wanted}, two rows or more")
    return [np.ascontiguousarray(fitted[spec.name]) for spec in inputs], count


def bearable(call: FlatCall, rows: FlatArrays, batch_rows: int) -> FlatArrays:
    """As many of the rows as can be held against others in good time and memory, spread evenly."""
    batch = [array[:batch_rows] for array in rows]
    in_batches(call, batch, batch_rows)  # the first call takes longer than any other
    started = time.perf_counter()
    outputs = in_batches(call, batch, batch_rows)
    seconds = time.perf_counter() - started
    batches = int(MOST_SECONDS / max(seconds, 1e-9))
    row_bytes = sum(array.nbytes for array in outputs) / len(batch[0])
    most = max(LEAST_ROWS, min(batches * batch_rows, int(MOST_BYTES / max(row_bytes, 1))))
    places = spread(len(rows[0]), most)
    return rows if len(places) == len(rows[0]) else [array[places] for array in rows]


def spread(rows: int, most: int) -> np.ndarray[Any, Any]:
    """At most that many row numbers, ascending and evenly spread."""
    return np.linspace(0, max(0, rows - 1), min(most, rows)).astype(np.int64)


def _read(path: Path, value_bytes: int, most: int) -> tuple[Any, int]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            # Each is read twice, so that no two are in memory as a whole.
            count, places = _places({name: arrays[name].shape for name in arrays.files}, value_bytes, most)
            return {name: arrays[name][places] for name in arrays.files}, count
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise ValueError("no .npy file")
    count, places = _places({"": loaded.shape}, value_bytes, most)
    return np.array(loaded[places]), count


def _places(shapes: dict[str, tuple[int, ...]], value_bytes: int, most: int) -> tuple[int, np.ndarray[Any, Any]]:
    """The rows to take of all arrays, and how many there are."""
    if () in shapes.values():
        raise ValueError("it holds a single value")
    counts = sorted({shape[0] for shape in shapes.values()})
    if len(counts) != 1:
        raise ValueError(f"its arrays have {' and '.join(map(str, counts)) or 'no'} rows")
    [count] = counts
    row_bytes = sum(math.prod(shape[1:]) for shape in shapes.values()) * value_bytes
    return count, spread(count, max(LEAST_ROWS, min(most, MOST_BYTES // max(1, row_bytes))))
