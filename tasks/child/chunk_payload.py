"""The rows of a chunk, from wherever they are; its outputs, to where the producer wants them.

ChunkMessage.ref --fetch--> rows        outputs, encoded --store--> PayloadRef, of the answer
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

from tasks.child.bootstrap import Child
from tasks.protocol import codec, keys
from tasks.protocol.messages import (
    MAX_INLINE_BYTES,
    ChunkMessage,
    FileRef,
    InlineRef,
    PayloadRef,
    RedisRef,
    SliceRef,
)
from tasks.transport import spool
from tasks.transport.file_slices import read_slice
from worker_config.errors import PayloadError


def fetch(child: Child, message: ChunkMessage, payload: bytes | None) -> Any:
    """The chunk's rows, wherever they are.

    Raises:
        PayloadError: they are not there, or no payload.
    """
    ref = message.ref
    if isinstance(ref, SliceRef):
        return read_slice(ref, message.start, message.stop, child.places.data_roots, child.scratch)
    if isinstance(ref, InlineRef):
        payload = ref.payload
    elif isinstance(ref, FileRef):
        # In memory that the next chunk is read into: nothing of a chunk outlives it.
        data = spool.read(child.places.spool, ref, child.scratch)
        child.stopwatch.enter("decode")
        return codec.decode(data, borrow=True)
    if payload is None:
        # It may have been answered by another delivery; the join then drops this failure.
        raise PayloadError("the payload is not in Redis any more")
    child.stopwatch.enter("decode")
    return codec.decode(payload)


def store(child: Child, message: ChunkMessage, parts: spool.Parts) -> PayloadRef:
    """Put outputs, given in parts, where the producer wants them; into Redis, should the spool folder be full."""
    if sum(map(len, parts)) <= MAX_INLINE_BYTES or message.reply == "answer":
        return InlineRef(b"".join(parts))
    if message.reply == "files" and child.places.spool is not None:
        with suppress(OSError):
            return spool.write(child.places.spool, message.job, f"output-{message.index}", parts)
    key = keys.output(message.job, message.index)
    child.client.set(key, b"".join(parts), ex=child.job_ttl_seconds)
    return RedisRef(key)


def forget(child: Child, ref: PayloadRef) -> None:
    """Delete outputs that nobody will fetch."""
    if isinstance(ref, RedisRef):
        child.client.unlink(ref.key)
    elif isinstance(ref, FileRef) and child.places.spool is not None:
        spool.forget(child.places.spool, [ref])


def checksum(parts: spool.Parts) -> int:
    """The CRC-32 of a payload, given in parts; 4 MiB take a millisecond."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value
