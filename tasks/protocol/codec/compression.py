"""Wraps a payload in its compressed form, and opens such a wrap within the reader's limit.

    [FORMAT_VERSION, "lz4" or "zstd", length of the payload, the compressed payload]

Inside the payload, so that the child pays for it and not the worker's main process. Off unless a job asks: on one
machine, and on a fast network, it costs more than it saves.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

import msgpack

from tasks.protocol.codec import heads
from tasks.protocol.codec.format import FEWER_ROWS, FORMAT_VERSION
from tasks.protocol.codec.heads import Buffer, HeadReader
from worker_config.errors import ConfigError, PayloadError

Compression = Literal["lz4", "zstd"]

# The first byte of a wrap: a list of four elements, where a plain payload is one of two.
_WRAP_HEAD = b"\x94"
# A byte of it stands for no more.
_LZ4_MOST_TIMES = 255
_PIECE_BYTES = 2**20


def is_wrapped(payload: Buffer) -> bool:
    """Whether these bytes, if they are a payload, are a compressed one."""
    return memoryview(payload)[:1].tobytes()[:1] == _WRAP_HEAD


def wrap(payload: bytes, name: Compression) -> bytes:
    """Compress a payload.

    Raises:
        ConfigError: the library is not installed.
    """
    library = check_installed(name)
    if name == "lz4":
        packed = library.compress(payload, store_size=False)
    else:
        packed = library.ZstdCompressor(level=1).compress(payload)
    return bytes(msgpack.packb([FORMAT_VERSION, name, len(payload), packed]))


def unwrap(payload: Buffer, limit_bytes: int) -> bytes:
    """The payload in a wrap; never more than `limit_bytes` are made.

    Raises:
        PayloadError: the bytes are no wrap, need more than the limit, or a library that is not installed.
    """
    reader = HeadReader(payload)
    if reader.length(heads.LIST, "a compressed payload") != 4:
        reader.refuse("no compressed payload")
    version = reader.length(heads.PLAIN, "a format version")
    if version != FORMAT_VERSION:
        raise PayloadError(f"the payload has format version {version}, only {FORMAT_VERSION} is understood here")
    start = reader.advance(reader.length(heads.STR, "the name of a compression"))
    name = bytes(reader.data[start : reader.at]).decode("ascii", "replace")
    if name not in get_args(Compression):
        reader.refuse(f"an unknown compression {name[:32]!r}")
    size = reader.length(heads.PLAIN, "the length of a payload")
    if size > limit_bytes:
        raise PayloadError(f"the payload has {size} bytes and the limit is {limit_bytes}; {FEWER_ROWS}")
    start = reader.advance(reader.length(heads.BIN, "a compressed payload"))
    reader.check_end()
    try:
        return _open(name, bytes(reader.data[start : reader.at]), size)
    except ConfigError as error:
        raise PayloadError(str(error)) from None
    except Exception as error:  # each library has errors of its own
        raise PayloadError(f"not a payload: its {name} form is damaged ({error}); send it again") from None


def check_installed(name: str) -> Any:
    """The library of a compression.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module({"lz4": "lz4.block", "zstd": "zstandard"}[name])
    except ImportError:
        raise ConfigError(
            f"compression {name} is not installed; on all machines: pip install 'celeriac[compression]'"
        ) from None


def _open(name: str, packed: bytes, size: int) -> bytes:
    library = check_installed(name)
    if name == "lz4":
        if size > _LZ4_MOST_TIMES * len(packed):  # it takes memory for the size that it is told
            raise ValueError(f"{len(packed)} bytes are not {size}")
        payload = library.decompress(packed, uncompressed_size=size)
    else:
        # The sizes that are told are the sender's word: what counts is what comes out.
        with library.ZstdDecompressor().stream_reader(packed) as stream:
            pieces = bytearray()
            while len(pieces) <= size and (piece := stream.read(min(_PIECE_BYTES, size + 1 - len(pieces)))):
                pieces += piece
            payload = bytes(pieces)
    if len(payload) != size:
        raise ValueError(f"{len(payload)} bytes instead of {size}")
    return bytes(payload)
