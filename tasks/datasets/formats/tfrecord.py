"""TFRecord files --checksum of each record--> rows, which are the bytes of the records.

lengths alone --blocks_of--> where in the file each block of some MiB begins, and with which record
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Generator
from typing import BinaryIO, TypeAlias

from tasks.datasets.formats.reader import BlockReader
from tasks.datasets.gather import gather
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.rows import Batches
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional, one_line

# Before a record its length and the checksum of that, after it the checksum of the record.
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

BATCH_ROWS = 4096
_PIECE_BYTES = 16 * 2**20
# What is read to come to one of its records is read from the beginning.
_BLOCK_BYTES = 4 * 2**20

# The first record of a block, and the bytes [begin, end) that it has in the file.
Block: TypeAlias = tuple[int, int, int]


class TFRecordRows(BlockReader):
    """The records of one file that is not compressed."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        super().__init__(file)
        self._where = where

    def batches(self, span: FileSpan) -> Batches:
        """The records of the span's block."""
        number, begin, end = self._block(span)
        left = end - begin

        def read(size: int) -> bytes:
            nonlocal left
            piece = self._file.read(min(size, left))
            left -= len(piece)
            return piece

        return gather(records(read, self._where, input_limit(), number, begin), self._where, BATCH_ROWS)


def blocks_of(file: BinaryIO, where: str) -> list[Block]:
    """The blocks of a file, by the lengths of its records alone; their checksums are looked at by who reads them.

    Raises:
        InputError: a length is damaged, or the file ends within a record.
    """
    checksum = _checksum()
    size = file.seek(0, 2)
    file.seek(0)
    blocks: list[Block] = []
    number = first = at = begin = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _damaged(where, number, at, "is cut short")
        at = _next(header, checksum, where, number, at)
        if at > size:
            raise _damaged(where, number, at, "is cut short")
        number += 1
        if at - begin >= _BLOCK_BYTES:
            blocks.append((first, begin, at))
            first, begin = number, at
        file.seek(at)
    return [*blocks, (first, begin, at), (number, at, at)] if at > begin else [*blocks, (number, at, at)]


def records(
    read: Callable[[int], bytes], where: str, limit: InputLimit, number: int = 0, offset: int = 0
) -> Generator[bytes, None, None]:
    """The records that `read` gives the bytes of, the first of which has this number and offset.

    Raises:
        InputError: a record is damaged, cut short, or larger than it may be; those before it came.
    """
    checksum = _checksum()

    def next_bytes(size: int) -> bytes:
        """At once only what is surely small: a reader takes memory for all that it is asked for."""
        if size <= _PIECE_BYTES:
            return next_piece(size)
        pieces = bytearray()
        while len(pieces) < size and (piece := next_piece(min(size - len(pieces), _PIECE_BYTES))):
            pieces += piece
        return bytes(pieces)

    def next_piece(size: int) -> bytes:
        try:
            return read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(where, number, offset, f"cannot be read: {one_line(error)}") from error

    while header := next_bytes(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _damaged(where, number, offset, "is cut short")
        following = _next(header, checksum, where, number, offset)
        length = following - offset - _HEADER.size - _FOOTER.size
        limit.check(length, where, f"record {number} at byte {offset}")
        body = next_bytes(length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            raise _damaged(where, number, offset, "is cut short")
        record = body[:length]
        if _masked(checksum(record)) != _FOOTER.unpack(body[length:])[0]:
            raise _damaged(where, number, offset, "is damaged")
        yield record
        number, offset = number + 1, following


def _next(header: bytes, checksum: Callable[[bytes], int], where: str, number: int, offset: int) -> int:
    """Where the record after this one begins."""
    length, length_sum = _HEADER.unpack(header)
    if _masked(checksum(header[:8])) != length_sum:
        raise _damaged(
            where, number, offset, "has a damaged length (or the file is compressed, without .gz in its name)"
        )
    following: int = offset + _HEADER.size + length + _FOOTER.size
    return following


def _damaged(where: str, number: int, offset: int, how: str) -> InputError:
    return InputError(f"{where}: record {number} at byte {offset} {how}; copy or write the file again")


def _checksum() -> Callable[[bytes], int]:
    value: Callable[[bytes], int] = import_optional("google_crc32c", "tfrecord").value
    return value


def _masked(checksum: int) -> int:
    """The form in which the format keeps checksums."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
