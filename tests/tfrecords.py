"""Records of a TFRecord file, as TensorFlow writes them."""

from __future__ import annotations

import struct

import google_crc32c


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(records: list[bytes]) -> bytes:
    lengths = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(
        length + masked(length) + record + masked(record) for length, record in zip(lengths, records, strict=True)
    )
