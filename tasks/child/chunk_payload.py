"""The rows of a chunk, from wherever they are; its outputs, to where the producer wants them.

ChunkMessage.ref --fetch--> rows        outputs, encoded --store--> PayloadRef, of the answer
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import xxhash

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
from tasks.protocol.seal import Parts, outputs_context, rows_context
from tasks.transport import spool
from tasks.transport.file_slices import read_slice
from worker_config.errors import PayloadError


def fetch(child: Child, message: ChunkMessage, payload: bytes | memoryview | None) -> Any:
    """The chunk's rows, wherever they are.

    Raises:
        PayloadError: they are not there, were damaged on their way, or are no payload.
    """
    ref = message.ref
    if isinstance(ref, SliceRef):
        return read_slice(ref, message.start, message.stop, child.places.data_roots, child.scratch)
    if isinstance(ref, InlineRef):
        payload = ref.payload
    elif isinstance(ref, FileRef):
        # In memory that the next chunk is read into: nothing of a chunk outlives it.
        payload = spool.read(child.places.spool, ref, child.scratch)
    if payload is None:
        # It may have been answered by another delivery; the join then drops this failure.
        raise PayloadError("the payload is not in Redis any more")
    child.stopwatch.enter("decode")
    return codec.decode(child.sealer.open(rows_context(message.job, message.index), payload), borrow=True)


def store(child: Child, message: ChunkMessage, parts: Parts) -> PayloadRef:
    """Put outputs, given in parts, where the producer wants them; into Redis, should the spool folder be full."""
    parts = child.sealer.seal(outputs_context(message.job, message.index), parts) if parts else parts
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


def checksum(parts: Parts) -> int:
    """The XXH3-64 of a payload, given in parts."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return int(digest.intdigest())
