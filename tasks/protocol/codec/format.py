"""Holds what the writer and the reader of payloads must agree on: the numbers, and the memory count.

Both count the memory that a decoded tree takes, value by value and before the value is made or written. So a limit
that lets a payload out lets it in again, and bytes from outside cannot make the reader take more than the limit.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from tasks.protocol.codec.arrays import Array
from worker_config.errors import PayloadError

FORMAT_VERSION: Final = 1
DEFAULT_LIMIT_BYTES: Final = 512 * 2**20  # Redis holds no larger value
MAX_DEPTH: Final = 64  # of dicts, lists and tuples in each other

ARRAY_CODE: Final = 1
TEXTS_CODE: Final = 2
TUPLE_CODE: Final = 3

# Bytes of memory, rounded up so that they hold for every CPython.
VALUE_COST: Final = 64  # an int, a float, the head of a str or bytes
CONTAINER_COST: Final = 192
ASCII_COST: Final = 2  # of each byte of a str, which is there as bytes and as characters for a moment
UNICODE_COST: Final = 8  # the same beyond ASCII: one character can widen all others to four bytes
SLOT_COST: Final = 32  # of a list, a tuple or an object array, without its value
ENTRY_COST: Final = 128  # of a dict, without key and value
ARRAY_COST: Final = 1024  # without its elements; more than the longest head on the wire

Tree: TypeAlias = dict[Any, Any] | list[Any] | tuple[Any, ...] | Array | np.generic | int | float | str | bytes | None


FEWER_ROWS: Final = "send fewer rows per chunk; one row has to fit as well"
SMALLER_ROW: Final = (
    "this is a single row, which has to fit: make it smaller, or give the path of its file to a preprocess function"
)


class Budget:
    """The memory that the rest of a tree may take; `remedy` says what to do where that is too much."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = min(limit_bytes, 2**32 - 1)  # msgpack has no longer lengths
        self.spent = 0
        self.remedy = FEWER_ROWS

    def spend(self, cost: int) -> None:
        """Count `cost` bytes, or raise PayloadError if they are more than what is left."""
        self.spent += cost
        if self.spent > self.limit:
            raise PayloadError(
                f"the payload needs at least {self.spent} bytes of memory and the limit is {self.limit}; {self.remedy}"
            )
