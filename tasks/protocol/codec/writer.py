"""Writes a tree as the parts of a payload; those of a well laid out array are its own memory."""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn

import msgpack
import numpy as np

from tasks.protocol.codec import format as wire
from tasks.protocol.codec.arrays import ALIGNMENT, MAX_DIMS, Array, dtype_name, holds_texts, is_possible, raw_bytes
from tasks.protocol.codec.trees import columns_of
from worker_config.errors import PayloadError

_EXT_HEAD: Final = struct.Struct(">BIb")
_BIN_HEAD: Final = struct.Struct(">BI")
_ACCEPTED: Final = "give dict, list, tuple, numpy array, int, float, bool, str, bytes or None"
_ACCEPTED_IN_ARRAYS: Final = "give numbers of a TensorFlow dtype, or str and bytes"


class PayloadWriter:
    """Writes one tree.

    Attributes:
        parts: all that was written.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._budget = wire.Budget(limit_bytes)
        self._packer = msgpack.Packer(buf_size=4096)  # it holds heads and short values; it grows
        self.parts: list[bytes | memoryview] = []
        self._size = 0
        self._path: list[object] = []  # keys and indices that lead to the value at hand

    def write(self, tree: wire.Tree) -> None:
        """Write the format version and the tree."""
        if _is_one_row(tree):
            self._budget.remedy = wire.SMALLER_ROW
        self._add(self._packer.pack_array_header(2))
        self._add(self._packer.pack(wire.FORMAT_VERSION))
        self._value(tree)

    def _add(self, part: bytes | memoryview) -> None:
        self.parts.append(part)
        self._size += len(part)

    def _value(self, value: wire.Tree) -> None:
        if isinstance(value, str | bytes):
            self._text(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._array(value)
        elif value is None or isinstance(value, int | float):
            self._plain(value)
        elif isinstance(value, dict | list | tuple):
            self._container(value)
        else:
            self._refuse(f"a value of type {_full_name(type(value))}", _ACCEPTED)

    def _plain(self, value: float | None) -> None:
        self._budget.spend(wire.VALUE_COST)
        try:
            self._add(self._packer.pack(value))
        except OverflowError:
            self._refuse("an int of more than 64 bits", "give a float or a str")

    def _text(self, text: str | bytes) -> None:
        self._spend_on_text(text)
        if isinstance(text, str):
            self._add(self._packer.pack(text))
        else:
            self._bytes(text)

    def _bytes(self, content: bytes | memoryview) -> None:
        self._add(_BIN_HEAD.pack(0xC6, len(content)))
        self._add(content)

    def _spend_on_text(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            self._budget.spend(wire.VALUE_COST + len(text))
        elif text.isascii():
            self._budget.spend(wire.VALUE_COST + wire.ASCII_COST * len(text))
        else:
            try:
                self._budget.spend(wire.VALUE_COST + wire.UNICODE_COST * len(text.encode()))
            except UnicodeEncodeError:
                self._refuse("a str with a lone surrogate", "give bytes")

    def _container(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> None:
        if len(self._path) >= wire.MAX_DEPTH:
            self._refuse(f"more than {wire.MAX_DEPTH} levels", "give a flatter tree, that does not hold itself")
        self._budget.spend(wire.CONTAINER_COST)
        if isinstance(value, dict):
            self._dict(value)
        elif isinstance(value, tuple):
            opened = self._open_extension()
            self._elements(value)
            self._close_extension(opened, wire.TUPLE_CODE)
        else:
            self._elements(value)

    def _dict(self, value: dict[Any, Any]) -> None:
        self._budget.spend(wire.ENTRY_COST * len(value))
        self._add(self._packer.pack_map_header(len(value)))
        for key, element in value.items():
            self._path.append(key)
            if isinstance(key, str):
                self._text(key)
            elif isinstance(key, int) and not isinstance(key, bool):
                self._plain(key)
            else:
                self._refuse(f"a dict key of type {_full_name(type(key))}", "give str or int keys")
            self._value(element)
            self._path.pop()

    def _elements(self, value: list[Any] | tuple[Any, ...]) -> None:
        self._budget.spend(wire.SLOT_COST * len(value))
        self._add(self._packer.pack_array_header(len(value)))
        for index, element in enumerate(value):
            self._path.append(index)
            self._value(element)
            self._path.pop()

    def _array(self, value: Array | np.generic) -> None:
        if isinstance(value, np.ma.MaskedArray):
            self._refuse("a masked array", "fill it first: its mask would be lost")
        array = np.asarray(value)
        name = dtype_name(array.dtype)
        if array.ndim > MAX_DIMS:
            self._refuse(f"an array with {array.ndim} axes", f"give at most {MAX_DIMS}")
        opened = self._open_extension()
        if name is not None:
            self._numbers(array, name)
            self._close_extension(opened, wire.ARRAY_CODE)
        elif holds_texts(array):
            self._texts(array)
            self._close_extension(opened, wire.TEXTS_CODE)
        else:
            self._refuse(f"an array of dtype {array.dtype}", _ACCEPTED_IN_ARRAYS)

    def _numbers(self, array: Array, name: str) -> None:
        self._budget.spend(wire.ARRAY_COST + array.nbytes)
        self._add(self._packer.pack_array_header(4))
        self._add(self._packer.pack(name))
        self._add(self._packer.pack(array.shape))
        self._bytes(bytes(-(self._size + 2 * _BIN_HEAD.size) % ALIGNMENT))
        self._bytes(raw_bytes(array, name))

    def _texts(self, array: Array) -> None:
        if not is_possible(array.shape, itemsize=8):
            self._refuse(f"an array of shape {array.shape}", "give a smaller shape")
        self._budget.spend(wire.ARRAY_COST + wire.SLOT_COST * array.size)
        items = array.reshape(-1).tolist()
        for index, item in enumerate(items):
            if not isinstance(item, str | bytes):
                self._path.append(tuple(int(i) for i in np.unravel_index(index, array.shape)))
                self._refuse(f"an array element of type {_full_name(type(item))}", _ACCEPTED_IN_ARRAYS)
            self._spend_on_text(item)
        self._add(self._packer.pack([array.shape, items]))

    def _open_extension(self) -> tuple[int, int]:
        self._add(bytes(_EXT_HEAD.size))  # the length is known when it is closed
        return len(self.parts) - 1, self._size

    def _close_extension(self, opened: tuple[int, int], code: int) -> None:
        index, start = opened
        self.parts[index] = _EXT_HEAD.pack(0xC9, self._size - start, code)

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise PayloadError(f"cannot encode {what} {_where(self._path)}; {remedy}")


def _is_one_row(tree: wire.Tree) -> bool:
    """Whether this is a data set's rows, or a model's outputs, and one row alone."""
    columns = columns_of(tree).values()
    arrays = [one for one in columns if isinstance(one, list) or (isinstance(one, np.ndarray) and one.ndim)]
    return 0 < len(columns) == len(arrays) and all(len(array) == 1 for array in arrays)


def _full_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _where(path: list[object]) -> str:
    """Such as `at .image[2]`, cut to one short line."""
    text = " ".join("".join(_step(key) for key in path).split()) or "the top"
    return f"at {text}" if len(text) <= 80 else f"at {text[:60]}..."


def _step(key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    if isinstance(key, tuple):  # the place in an array
        return f"[{', '.join(map(repr, key))}]"
    return f"[{key!r}]"
