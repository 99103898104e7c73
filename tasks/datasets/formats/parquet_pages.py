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
# Of a header; those that have the least and the largest of long texts are longer. The reader takes no more either.
_MOSTLY_BYTES, _MOST_BYTES = 2**8, 2**24


def page_sizes(file: BinaryIO, start: int, stop: int) -> Iterator[int]:
    """Bytes of each page in memory, for the pages whose headers begin in the bytes `[start, stop)` of the file.

    Raises:
        ValueError: what stands there is no header, or that of a page that the file has not.
    """
    file_bytes = file.seek(0, 2)
    while start < stop:
        unpacked, packed, header_bytes = _page_header(file, start)
        if unpacked < 0 or packed < 0:
            raise ValueError(f"no page header at byte {start}")
        start += header_bytes + packed
        if start > file_bytes:
            raise ValueError(f"a page of {packed} bytes, which the file has not")
        yield unpacked


def _page_header(file: BinaryIO, start: int) -> tuple[int, int, int]:
    """The bytes of a page, unpacked and packed, -1 where the header has them not; and those of the header."""
    size = _MOSTLY_BYTES
    while True:
        file.seek(start)
        header = _Header(file.read(size))
        try:
            fields = header.struct(0)
        except IndexError:
            if header.size < size:
                raise ValueError("the file ends within a page header") from None
            if size >= _MOST_BYTES:
                raise ValueError(f"a page header of more than {_MOST_BYTES} bytes") from None
            size *= 16
            continue
        return fields.get(_UNPACKED_SIZE, -1), fields.get(_PACKED_SIZE, -1), header.at


class _Header:
    """The bytes at the beginning of a page; IndexError where they end within its header."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def struct(self, depth: int) -> dict[int, int]:
        """The integers of a structure, by the number of the field."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"a page header of more than {_MAX_DEPTH} levels")
        data, found, field = self.data, dict[int, int](), 0
        while (head := data[self.at]) != _STOP:
            self.at += 1
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self._integer()
            if kind in _INTEGERS:
                found[field] = self._integer()
            elif kind not in (_TRUE, _FALSE):
                self._skip(kind, depth)
        self.at += 1
        return found

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):  # of a list each truth value is a byte
            self._step(1)
        elif kind in _INTEGERS:
            self._varint()
        elif kind == _DOUBLE:
            self._step(8)
        elif kind == _BINARY:
            self._step(self._varint())
        elif kind == _STRUCT:
            self.struct(depth + 1)
        elif kind in (_LIST, _SET):
            head = self._byte()
            self._skip_elements(head >> 4 if head >> 4 < 15 else self._varint(), [head & 15], depth)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                self._skip_elements(count, [kinds >> 4, kinds & 15], depth)
        else:
            raise ValueError("a page header with a field of no known type")

    def _skip_elements(self, count: int, kinds: list[int], depth: int) -> None:
        if depth > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise ValueError(f"a page header with a list of {count} elements")
        for _ in range(count):
            for kind in kinds:
                self._skip(kind, depth + 1)

    def _step(self, count: int) -> None:
        self.at += count
        if self.at > self.size:
            raise IndexError(self.at)

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = self.data[self.at]
        self.at += 1
        if value < 128:
            return value
        value &= 127
        for shift in range(7, 64, 7):
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page header with an integer of more than 64 bits")

    def _integer(self) -> int:
        """Small numbers of either sign are few bytes."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)
