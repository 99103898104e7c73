"""This module makes the rows that executors are compared on: from the calibration file, or made up.

    calibration file, or a generator of a fixed seed --> candidates (label, arrays)

Which made-up rows a model understands is not known beforehand: an index above a vocabulary is an error, pixels of 0 to
1 may leave a network for 0 to 255 asleep. So there are several; the caller takes the first that tells outputs apart.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.records import TensorSpec
from tasks.signature import fit, numpy_dtype
from worker_config.errors import ConfigError, InputError
from worker_config.manifest import ModelEntry

GENERATED = "generated"
LEAST_ROWS, MOST_ROWS, MOST_BYTES = 8, 512, 64 * 2**20
FREE_SIZE = 16  # of a dimension that the model leaves free
_SEED = 20240229
# By round: floats standard normal, then of [0, 1); integers below these limits.
_INTEGER_LIMITS = (256, 10, 2)

Arrays = list[np.ndarray[Any, Any]]


def gate_rows(inputs: Sequence[TensorSpec], entry: ModelEntry, batch_rows: int) -> Iterator[tuple[str, Arrays]]:
    """Candidates of rows, each an array per input in their order; two batches, but 8 to 512 rows, about 64 MiB.

    Yields:
        ("generated", arrays), or (the calibration file's name, arrays): then only this one. Its rows are what the
        model's own inputs take, so after any `preprocess`. None at all where no rows can be made up: strings.

    Raises:
        ConfigError: the calibration file cannot be read, or holds what the model does not take.
    """
    row_bytes = sum(_row_bytes(spec) for spec in inputs)
    count = min(max(2 * batch_rows, LEAST_ROWS), MOST_ROWS, max(LEAST_ROWS, MOST_BYTES // max(1, row_bytes)))
    if entry.calibration:
        yield Path(entry.calibration).name, _calibration(Path(entry.calibration), inputs, count)
        return
    if not inputs or any(numpy_dtype(spec.dtype).kind not in "fiubcV" for spec in inputs):
        return
    rounds = len(_INTEGER_LIMITS) if any(numpy_dtype(spec.dtype).kind in "iu" for spec in inputs) else 2
    for number in range(rounds):
        random = np.random.default_rng(_SEED + number)
        yield GENERATED, [_generated(spec, count, number, random) for spec in inputs]


def _row_bytes(spec: TensorSpec) -> int:
    return (
        int(np.prod([size or FREE_SIZE for size in spec.shape[1:]], dtype=np.int64)) * numpy_dtype(spec.dtype).itemsize
    )


def _generated(spec: TensorSpec, count: int, number: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    dtype = numpy_dtype(spec.dtype)
    shape = (count, *(size or FREE_SIZE for size in spec.shape[1:])) if spec.shape else ()
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        limit = min(_INTEGER_LIMITS[number], int(np.iinfo(dtype).max) + 1)
        return np.asarray(random.integers(0, limit, shape)).astype(dtype)
    values = random.standard_normal(shape, np.float32) if number == 0 else random.random(shape, np.float32)
    return np.asarray(values).astype(dtype)


def _calibration(path: Path, inputs: Sequence[TensorSpec], count: int) -> Arrays:
    wanted = "; ".join(map(str, inputs))
    wanted = f"it should hold rows of {wanted}: .npy for one input, .npz with an array by the name of each"
    try:
        rows = _read(path, count)
        fitted = fit(rows, inputs, "of the calibration")
    except OSError as error:
        raise ConfigError(f"the calibration file {path} cannot be read ({error.strerror or error}); {wanted}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, InputError) as error:
        raise ConfigError(f"the calibration file {path}: {error}; {wanted}") from None
    lengths = {len(array) for array in fitted.values()}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ConfigError(f"the calibration file {path} has {sorted(lengths)} rows; {wanted}, two rows or more")
    return [np.ascontiguousarray(fitted[spec.name]) for spec in inputs]


def _read(path: Path, count: int) -> Any:
    """At most `count` rows of each array, spread evenly: a file may be sorted by class."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _spread(arrays[name], count) for name in arrays.files}
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise ValueError("no .npy file")
    return _spread(loaded, count)


def _spread(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    if not array.ndim:
        raise ValueError("it holds a single value")
    places = np.linspace(0, max(0, len(array) - 1), min(count, len(array))).astype(np.int64)
    return np.array(array[places])
