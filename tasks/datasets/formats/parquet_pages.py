"""The headers of a column's pages in a Parquet file --> what each page unpacks to, before any is unpacked.

The reader takes memory by these headers, and the footer need not say the same. They are Thrift structures in the
compact protocol, of which three fields count here; all others are stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_UNPACKED_SIZE, _PACKED_SIZE = 2, 3  # fields of a page header
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_MAX_DEPTH = 8
_MAX_ELEMENTS = 2**16


def page_sizes(file: BinaryIO, start: int, stop: int) -> Iterator[int]:
    """Bytes of each page in memory, for the pages whose headers begin in the bytes `[start, stop)` of the file.

    Raises:
        ValueError: what stands there is no header, or that of a page that the file has not.
    """
    file_bytes = file.seek(0, 2)
    while start < stop:
        file.seek(start)
        fields = _struct(file, 0)
        unpacked, packed = fields.get(_UNPACKED_SIZE, -1), fields.get(_PACKED_SIZE, -1)
        if unpacked < 0 or packed < 0:
            raise ValueError(f"no page header at byte {start}")
        start = file.tell() + packed
        if start > file_bytes:
            raise ValueError(f"a page of {packed} bytes, which the file has not")
        yield unpacked


def _struct(file: BinaryIO, depth: int) -> dict[int, int]:
    """The integers of a structure, by the number of the field."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"a page header of more than {_MAX_DEPTH} levels")
    found: dict[int, int] = {}
    field = 0
    while (head := _byte(file)) != _STOP:
        kind = head & 15
        field = field + (head >> 4) if head >> 4 else _integer(file)
        if kind in _INTEGERS:
            found[field] = _integer(file)
        elif kind not in (_TRUE, _FALSE):
            _skip(file, kind, depth)
    return found


def _skip(file: BinaryIO, kind: int, depth: int) -> None:
    if kind in (_TRUE, _FALSE, _BYTE):  # of a list each truth value is a byte
        file.seek(1, 1)
    elif kind in _INTEGERS:
        _integer(file)
    elif kind == _DOUBLE:
        file.seek(8, 1)
    elif kind == _BINARY:
        file.seek(_varint(file), 1)
    elif kind == _STRUCT:
        _struct(file, depth + 1)
    elif kind in (_LIST, _SET):
        head = _byte(file)
        _skip_elements(file, head >> 4 if head >> 4 < 15 else _varint(file), [head & 15], depth)
    elif kind == _MAP:
        if count := _varint(file):
            kinds = _byte(file)
            _skip_elements(file, count, [kinds >> 4, kinds & 15], depth)
    else:
        raise ValueError("a page header with a field of no known type")


def _skip_elements(file: BinaryIO, count: int, kinds: list[int], depth: int) -> None:
    if depth > _MAX_DEPTH or count > _MAX_ELEMENTS:
        raise ValueError(f"a page header with a list of {count} elements")
    for _ in range(count):
        for kind in kinds:
            _skip(file, kind, depth + 1)


def _byte(file: BinaryIO) -> int:
    read = file.read(1)
    if not read:
        raise ValueError("the file ends within a page header")
    return read[0]


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = _byte(file)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a page header with an integer of more than 64 bits")


def _integer(file: BinaryIO) -> int:
    """Small numbers of either sign are few bytes."""
    value = _varint(file)
    return value >> 1 ^ -(value & 1)
