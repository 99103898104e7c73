"""Reads the heads of msgpack values, and lets none of them reach beyond the bytes that are there.

msgpack's own unpacker is not used: it makes lists as long as a head announces, at each level anew.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn, TypeAlias

from worker_config.errors import PayloadError

Buffer: TypeAlias = bytes | bytearray | memoryview

# What a head announces: a value that ends with it, or that many bytes or elements to come.
PLAIN, STR, BIN, LIST, DICT, EXT, NOTHING = range(7)
# For each first byte: the kind, the value or length in the byte itself, and the form of the one that follows instead.
_HEADS: Final[list[tuple[int, Any, struct.Struct | None]]] = [
    *((PLAIN, value, None) for value in range(0x80)),
    *((DICT, length, None) for length in range(16)),
    *((LIST, length, None) for length in range(16)),
    *((STR, length, None) for length in range(32)),
    *((PLAIN, None, None), (NOTHING, 0, None), (PLAIN, False, None), (PLAIN, True, None)),
    *((BIN, 0, struct.Struct(form)) for form in (">B", ">H", ">I")),
    *((EXT, 0, struct.Struct(form)) for form in (">B", ">H", ">I")),
    *((PLAIN, 0, struct.Struct(form)) for form in (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q")),
    *((EXT, length, None) for length in (1, 2, 4, 8, 16)),
    *((STR, 0, struct.Struct(form)) for form in (">B", ">H", ">I")),
    *((LIST, 0, struct.Struct(form)) for form in (">H", ">I")),
    *((DICT, 0, struct.Struct(form)) for form in (">H", ">I")),
    *((PLAIN, value, None) for value in range(-32, 0)),
]


class HeadReader:
    """Steps through the heads in `data`, from `at` up to `stop`."""

    def __init__(self, buffer: Buffer) -> None:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise PayloadError("not a payload: a memoryview with gaps; pass bytes(view)")
        self.data = view.cast("B")
        self.at = 0
        self.stop = len(self.data)  # of the payload, or of the extension at hand

    def head(self) -> tuple[int, Any]:
        """Read one head: its kind, and its value or length."""
        kind, number, form = _HEADS[self.data[self.advance(1)]]
        if form is not None:
            (number,) = form.unpack_from(self.data, self.advance(form.size))
        return kind, number

    def length(self, expected_kind: int, what: str) -> int:
        """Read a head of that kind and return its length; of a plain value, the value itself."""
        kind, number = self.head()
        if kind != expected_kind or type(number) is not int or number < 0:
            self.refuse(f"something else than {what}")
        return number

    def advance(self, length: int) -> int:
        """Step over `length` bytes and return where they begin."""
        start = self.at
        self.check_room(length)
        self.at = start + length
        return start

    def check_room(self, length: int) -> None:
        """Refuse more bytes, or elements of a byte or more, than are left."""
        if length > self.stop - self.at:
            self.refuse(f"a length of {length} with {self.stop - self.at} bytes left")

    def check_end(self) -> None:
        """Refuse bytes that nothing announced."""
        if self.at != self.stop:
            self.refuse(f"{self.stop - self.at} bytes too many")

    def refuse(self, what: str) -> NoReturn:
        """Raise PayloadError."""
        raise PayloadError(
            f"not a payload: {what}, at byte {self.at}; "
            "the bytes were cut, changed or never a payload: encode and send them again"
        )
