"""TFRecord files --checksum of each record--> rows, which are the bytes of the records."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Generator
from pathlib import Path

from producer.rows.readers import BatchReader
from producer.sources.files import find_files
from tasks.datasets.gather import gather
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.read_errors import one_line_errors
from worker_config.errors import InputError
from worker_config.optional_imports import cause, import_optional

# Before a record its length and the checksum of that, after it the checksum of the record.
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

_BATCH_ROWS = 4096
_PIECE_BYTES = 16 * 2**20

_Checksum = Callable[[bytes], int]

_Read = Callable[[int], bytes]


def open_tfrecord(path: str | Path) -> BatchReader:
    """Open a TFRecord file, gzip-compressed if its name ends in `.gz`, or those of a folder or a pattern, sorted.

    Raises:
        InputError: no such file; from the iterator, a record that is damaged, cut short or larger than it may be.
        ConfigError: google-crc32c is not installed.
    """
    checksum: _Checksum = import_optional("google_crc32c", "tfrecord").value
    files = find_files(path, ".tfrecord")
    label, limit = Path(path).name, input_limit()
    return BatchReader(label, None, lambda: gather(_records(files, checksum, limit), label, _BATCH_ROWS))


def _records(files: list[Path], checksum: _Checksum, limit: InputLimit) -> Generator[bytes, None, None]:
    for file in files:
        with one_line_errors(str(file)), file.open("rb") as raw:
            if file.suffix.lower() == ".gz":
                with gzip.open(raw) as stream:
                    yield from _records_of(stream.read, str(file), checksum, limit)
            else:
                yield from _records_of(raw.read, str(file), checksum, limit)


def _records_of(read: _Read, where: str, checksum: _Checksum, limit: InputLimit) -> Generator[bytes, None, None]:
    number = offset = 0

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
            raise damaged(f"cannot be read: {cause(error)}") from error

    def damaged(how: str) -> InputError:
        return InputError(f"{where}: record {number} at byte {offset} {how}; copy or write the file again")

    while header := next_bytes(_HEADER.size):
        if len(header) < _HEADER.size:
            raise damaged("is cut short")
        length, length_sum = _HEADER.unpack(header)
        if _masked(checksum(header[:8])) != length_sum:
            raise damaged("has a damaged length (or the file is compressed, without .gz in its name)")
        limit.check(length, where, f"record {number} at byte {offset}")
        body = next_bytes(length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            raise damaged("is cut short")
        record = body[:length]
        if _masked(checksum(record)) != _FOOTER.unpack(body[length:])[0]:
            raise damaged("is damaged")
        yield record
        number += 1
        offset += _HEADER.size + length + _FOOTER.size


def _masked(checksum: int) -> int:
    """The form in which the format keeps checksums."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
