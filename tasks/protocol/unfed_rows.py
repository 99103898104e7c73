"""Rows that no model can be given, such as one with a null: they keep their place in a chunk, and fail there.

rows, {position: why} --with_unfed--> payload --without_unfed--> rows, {position: why}

Something of the form of a row stands in their place, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker_config.errors import PayloadError

# Keys of the payload: those of a data set's columns are texts.
_ROWS, _WHY = 0, 1


def with_unfed(rows: Any, unfed: Mapping[int, str]) -> Any:
    """What is encoded."""
    return {_ROWS: rows, _WHY: dict(unfed)} if unfed else rows


def without_unfed(payload: Any) -> tuple[Any, dict[int, str]]:
    """The rows of a decoded payload, and which of them cannot be fed, by position, and why.

    Raises:
        PayloadError: it does not say so in our form.
    """
    if not isinstance(payload, dict) or _ROWS not in payload:
        return payload, {}
    unfed = payload.get(_WHY)
    if not isinstance(unfed, dict) or not all(type(at) is int and isinstance(why, str) for at, why in unfed.items()):
        raise PayloadError("the payload does not say which of its rows cannot be fed to a model")
    return payload[_ROWS], dict(sorted(unfed.items()))
