"""Reads a payload back into a tree; what a value will take in memory is counted before it is made."""

from __future__ import annotations

import math
from typing import cast

from tasks.protocol.codec import format as wire
from tasks.protocol.codec import heads
from tasks.protocol.codec.arrays import DTYPES, MAX_DIMS, Array, array_of_raw, array_of_texts, is_possible
from tasks.protocol.codec.heads import Buffer, HeadReader
from worker_config.errors import PayloadError


class PayloadReader(HeadReader):
    """Reads one payload."""

    def __init__(self, payload: Buffer, limit_bytes: int, borrow: bool = False) -> None:
        super().__init__(payload)
        self._may_borrow = borrow or isinstance(payload, bytes)
        self._budget = wire.Budget(limit_bytes)

    def read(self) -> wire.Tree:
        """Read the whole payload."""
        if self.stop > self._budget.limit:
            raise PayloadError(
                f"the payload has {self.stop} bytes and the limit is {self._budget.limit}; {wire.FEWER_ROWS}"
            )
        self._check_version()
        tree = self._value(0)
        self.check_end()
        return tree

    def _check_version(self) -> None:
        length = self.length(heads.LIST, "a list that begins with a format version")
        version = self.length(heads.PLAIN, "a format version")
        if version != wire.FORMAT_VERSION:
            raise PayloadError(
                f"the payload has format version {version}, only {wire.FORMAT_VERSION} is understood here; "
                "run the same release of Celeriac on both sides"
            )
        if length != 2:
            self.refuse(f"{length} elements instead of format version and tree")

    def _value(self, depth: int) -> wire.Tree:
        kind, number = self.head()
        if kind == heads.STR:
            return self._str(number)
        if kind == heads.BIN:
            return self._bytes(number)
        if kind == heads.EXT:
            return self._extension(number, depth)
        if kind == heads.LIST:
            return self._list(number, depth)
        if kind == heads.DICT:
            return self._dict(number, depth)
        if kind == heads.NOTHING:
            self.refuse("a byte that begins no value")
        self._budget.spend(wire.VALUE_COST)
        return cast("wire.Tree", number)

    def _str(self, length: int) -> str:
        self._budget.spend(wire.VALUE_COST + wire.ASCII_COST * length)
        encoded = bytes(self.data[self.advance(length) : self.at])
        if not encoded.isascii():
            self._budget.spend((wire.UNICODE_COST - wire.ASCII_COST) * length)
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            self.refuse("a str that is not UTF-8")

    def _bytes(self, length: int) -> bytes:
        self._budget.spend(wire.VALUE_COST + length)
        return bytes(self.data[self.advance(length) : self.at])

    def _open_container(self, depth: int) -> None:
        if depth >= wire.MAX_DEPTH:
            self.refuse(f"more than {wire.MAX_DEPTH} levels")
        self._budget.spend(wire.CONTAINER_COST)

    def _list(self, length: int, depth: int) -> list[wire.Tree]:
        self._open_container(depth)
        self.check_room(length)
        self._budget.spend(wire.SLOT_COST * length)
        return [self._value(depth + 1) for _ in range(length)]

    def _dict(self, length: int, depth: int) -> dict[int | str, wire.Tree]:
        self._open_container(depth)
        self.check_room(2 * length)
        self._budget.spend(wire.ENTRY_COST * length)
        tree: dict[int | str, wire.Tree] = {}
        for _ in range(length):
            key = self._key()
            if key in tree:
                self.refuse("the same dict key twice")
            tree[key] = self._value(depth + 1)
        return tree

    def _key(self) -> int | str:
        kind, number = self.head()
        if kind == heads.STR:
            return self._str(number)
        if type(number) is not int or kind != heads.PLAIN:
            self.refuse("a dict key that is neither str nor int")
        self._budget.spend(wire.VALUE_COST)
        return number

    def _extension(self, length: int, depth: int) -> wire.Tree:
        code = self.data[self.advance(1)]
        start, outer_stop = self.advance(length), self.stop
        self.at, self.stop = start, self.at
        tree: wire.Tree
        if code == wire.ARRAY_CODE:
            tree = self._numbers()
        elif code == wire.TEXTS_CODE:
            tree = self._texts()
        elif code == wire.TUPLE_CODE:
            tree = tuple(self._list(self.length(heads.LIST, "the elements of a tuple"), depth))
        else:
            self.refuse(f"an unknown extension type {code}")
        self.check_end()
        self.stop = outer_stop
        return tree

    def _numbers(self) -> Array:
        self._check_length(self.length(heads.LIST, "an array"), 4, "the parts of an array")
        name_start = self.advance(self.length(heads.STR, "a dtype name"))
        name = bytes(self.data[name_start : min(self.at, name_start + 32)]).decode("ascii", "replace")
        if name not in DTYPES:
            self.refuse(f"an unknown dtype {name!r}")
        dtype = DTYPES[name]
        shape = self._shape(dtype.itemsize)
        self.advance(self.length(heads.BIN, "padding"))
        length = self.length(heads.BIN, "the elements of an array")
        self._check_length(length, math.prod(shape) * dtype.itemsize, f"the bytes of {name} in shape {shape}")
        self._budget.spend(wire.ARRAY_COST + length)
        array = array_of_raw(name, shape, self.data, self.advance(length))
        if name == "bool" and array.view("uint8").max(initial=0) > 1:
            self.refuse("a bool that is neither 0 nor 1")
        if not (self._may_borrow and array.flags.aligned):
            array = array.copy()
        array.flags.writeable = False
        return array

    def _texts(self) -> Array:
        self._check_length(self.length(heads.LIST, "an array of texts"), 2, "the parts of an array of texts")
        shape = self._shape(itemsize=8)
        length = self.length(heads.LIST, "the texts of an array")
        self._check_length(length, math.prod(shape), f"the texts in shape {shape}")
        self.check_room(length)
        self._budget.spend(wire.ARRAY_COST + wire.SLOT_COST * length)
        array = array_of_texts(shape, [self._str_or_bytes() for _ in range(length)])
        array.flags.writeable = False
        return array

    def _str_or_bytes(self) -> str | bytes:
        kind, length = self.head()
        if kind == heads.STR:
            return self._str(length)
        if kind == heads.BIN:
            return self._bytes(length)
        self.refuse("an element that is neither str nor bytes")

    def _shape(self, itemsize: int) -> tuple[int, ...]:
        axes = self.length(heads.LIST, "a shape")
        if axes > MAX_DIMS:
            self.refuse(f"an array with {axes} axes")
        shape = tuple(self.length(heads.PLAIN, "the length of an axis") for _ in range(axes))
        if not is_possible(shape, itemsize):
            self.refuse(f"an impossible shape {shape}")
        return shape

    def _check_length(self, length: int, expected: int, what: str) -> None:
        if length != expected:
            self.refuse(f"{length} instead of {expected} as {what}")
