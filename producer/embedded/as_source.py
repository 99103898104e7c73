"""Plain values --> Python source of them: of numbers, texts, lists and dicts of these, and of arrays by a file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from producer.embedded.current_source import NoSourceError

MOST_CHARACTERS = 2**20


def as_source(value: object, of_array: Callable[[bytes], str]) -> str:
    """An expression; `of_array` gives that of an array, from the bytes of its `.npy` file.

    Raises:
        NoSourceError: it is, or holds, something else, or is too long for a source; the text says what.
    """
    try:
        text = _text(value, of_array)
    except (RecursionError, ValueError):
        raise NoSourceError(f"a {type(value).__name__} that holds itself, or numbers too long to be written") from None
    if len(text) > MOST_CHARACTERS:
        raise NoSourceError(f"a {type(value).__name__} of {len(text) / 2**20:,.0f} MiB as text; make it an array")
    return text


def _text(value: Any, of_array: Callable[[bytes], str]) -> str:
    kind = type(value)  # one that is derived has more than its value
    if value is None or kind in (bool, int, str, bytes):
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if kind in (list, tuple):
        items = "".join(f"{_text(one, of_array)}, " for one in value)
        return f"[{items}]" if kind is list else f"({items})"
    if kind is dict:
        return "{" + "".join(f"{_text(key, of_array)}: {_text(one, of_array)}, " for key, one in value.items()) + "}"
    if kind in (set, frozenset):
        return f"{kind.__name__}([{', '.join(sorted(_text(one, of_array) for one in value))}])"
    if kind is np.ndarray:
        return of_array(_npy(value))
    if isinstance(value, np.generic):
        return f"{of_array(_npy(np.asarray(value)))}[()]"
    raise NoSourceError(f"a {kind.__name__}")


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    try:
        np.save(file, array, allow_pickle=False)
    except ValueError:
        raise NoSourceError("an array of Python objects") from None
    file.seek(0)
    if np.load(file, allow_pickle=False).dtype != array.dtype:
        raise NoSourceError(f"an array of {array.dtype}, which no .npy file keeps")
    return file.getvalue()
