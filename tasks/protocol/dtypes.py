"""How rows become the dtype of a model's input, and what stands in the place of a row without a prediction.

    array, dtype --within its limits?--> array of that dtype        a value beyond them --> OutOfRangeError

NaN and infinities of floats stay what they are. A filler is no ordinary value, where the dtype has such:

    floats, complex numbers      NaN
    signed integers              -1
    unsigned integers            the largest value
    dates, durations             NaT
    booleans                     False
    texts, bytes                 empty
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from worker_config.errors import OutOfRangeError

Array = np.ndarray[Any, Any]


def can_cast(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Whether values convert that are within the limits: integers to integers, numbers to floats, texts to texts."""
    if want == np.dtype(object):
        return have.kind in "OSUT"
    if have.kind in "OSUTMm":
        return False
    if is_integer(want):
        return is_integer(have) or have.kind == "b"  # never floats to integers
    # float64 to float32 and integers to floats, as Keras does.
    return np.can_cast(have, want, casting="same_kind")


def cast(array: Array, dtype: np.dtype[Any], what: str) -> Array:
    """The array in another dtype, to which `can_cast` lets it be cast.

    Args:
        array: numbers or texts, rows on the first axis.
        dtype: what the input takes.
        what: the input, for the error.

    Raises:
        OutOfRangeError: a finite value is beyond what the dtype holds; the text has the first one, and the limit.
    """
    if array.size and dtype.kind not in "Ob" and array.dtype.kind != "b":
        _check(array, dtype, what)
    with np.errstate(all="ignore"):  # underflow is rounding, too
        return array.astype(dtype)


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether it holds whole numbers; int4 and its like are of a kind that NumPy does not know."""
    if dtype.kind in "iu":
        return True
    return dtype.kind == "V" and dtype.names is None and dtype.name.lstrip("u").startswith("int")


def limits_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest value of a dtype of numbers: integers as they are, floats as float64."""
    if is_integer(dtype):
        whole = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        return int(whole.min), int(whole.max)
    floats = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(floats.min), float(floats.max)


def filler(dtype: np.dtype[Any], like: object = None) -> Any:
    """The value for a dtype; for an object array, text or bytes like a value that it has, bytes by default."""
    if dtype.kind == "O":
        return "" if isinstance(like, str) else b""
    if dtype.kind in "fc":
        return np.nan
    if dtype.kind in "Mm":
        return np.array("NaT", dtype)
    if dtype.kind == "T":
        return ""
    if is_integer(dtype):
        least, largest = limits_of(dtype)
        return np.array(-1 if least < 0 else largest).astype(dtype)[()]
    if dtype.kind == "V" and not dtype.names:  # such as bfloat16, which numpy does not know for a float
        try:
            ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
            return np.array(np.nan, np.float32).astype(dtype)
        except ValueError:
            pass
    return np.zeros((), dtype)[()]


def json_filler(dtype: np.dtype[Any]) -> int | bool | str:
    """The same as JSON can tell it: a number, false, "", "NaN" or "NaT"."""
    if dtype.kind in "OTSU":
        return ""
    if dtype.kind in "Mm":
        return "NaT"
    if is_integer(dtype):
        return int(filler(dtype))
    return bool(filler(dtype)) if dtype.kind == "b" else "NaN"


def filler_rows(dtype: np.dtype[Any], shape: tuple[int, ...], like: object = None) -> Array:
    """An array of it."""
    rows = np.empty(shape, dtype)
    rows[...] = filler(dtype, like)
    return rows


def _check(array: Array, dtype: np.dtype[Any], what: str) -> None:
    parts = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
    for part in parts:
        if part.dtype.kind == "V":  # which NumPy does not know: all of them are in float32
            part = part.astype(np.float32)
        (least, largest), own = limits_of(dtype), limits_of(part.dtype)
        if own[0] >= least and own[1] <= largest:
            continue
        # A NaN compares false: then each value is looked at.
        if part.min() >= least and part.max() <= largest:
            continue
        beyond = (part < least) | (part > largest)
        if not is_integer(dtype):
            # What is rounded to the limit is not beyond it; infinities are what they were.
            slack = float(ml_dtypes.finfo(dtype).eps) / 2  # type: ignore[no-untyped-call]
            wide = np.abs(part.astype(np.float64))
            beyond &= np.isfinite(wide) & (wide / 2 > largest / 2 * (1 + slack / 2))
        if beyond.any():
            value = part[beyond].flat[0]
            raise OutOfRangeError(
                f"{what} holds {value}, which {dtype} cannot hold: its {'largest' if value > 0 else 'least'} value is "
                f"{largest if value > 0 else least}"
            )
