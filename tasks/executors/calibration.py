"""The rows of a calibration file: of the right form, and spread evenly over the file.

.npy, or .npz with an array by the name of each input --> an array per input, in their order
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.records import TensorSpec
from tasks.signature import fit
from worker_config.errors import ConfigError, InputError


def calibration_rows(path: Path, inputs: Sequence[TensorSpec], count: int) -> list[np.ndarray[Any, Any]]:
    """At most `count` rows of the file, an array per input.

    Raises:
        ConfigError: the file cannot be read, or holds what the model does not take.
    """
    wanted = "; ".join(map(str, inputs))
    wanted = f"it should hold rows of {wanted}: .npy for one input, .npz with an array by the name of each"
    try:
        rows = _read(path, count)
        fitted = fit(rows, inputs, "of the calibration", ordered=False)
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
