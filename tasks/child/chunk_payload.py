"""The rows of a chunk, from wherever they are; its outputs, to where the producer wants them.

ChunkMessage.ref --fetch--> rows        outputs, encoded --store--> PayloadRef, of the answer
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

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
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport import spool
from tasks.transport.file_slices import read_slice
from tasks.transport.spool import ReusableBuffer
from worker_config.errors import PayloadError


@dataclass(frozen=True)
class Places:
    """Where a worker may look for rows besides Redis, and how producers see that they share the spool folder."""

    spool: Path | None = None
    spool_mark: str = ""
    data_roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class PayloadStore:
    """What a child reads rows from and writes outputs to."""

    client: redis.Redis
    job_ttl_seconds: int
    places: Places
    scratch: ReusableBuffer = field(default_factory=ReusableBuffer)

    def fetch(self, message: ChunkMessage, payload: bytes | None, watch: Stopwatch) -> Any:
        """The chunk's rows, wherever they are; `payload` is what Redis holds of them.

        Raises:
            PayloadError: they are not there, or no payload.
        """
        ref = message.ref
        if isinstance(ref, SliceRef):
            return read_slice(ref, message.start, message.stop, self.places.data_roots, self.scratch)
        if isinstance(ref, InlineRef):
            payload = ref.payload
        elif isinstance(ref, FileRef):
            # In memory that the next chunk is read into: nothing of a chunk outlives it.
            data = spool.read(self.places.spool, ref, self.scratch)
            watch.enter("decode")
            return codec.decode(data, borrow=True)
        if payload is None:
            # It may have been answered by another delivery; the join then drops this failure.
            raise PayloadError("the payload is not in Redis any more")
        watch.enter("decode")
        return codec.decode(payload)

    def store(self, message: ChunkMessage, parts: spool.Parts) -> PayloadRef:
        """Put outputs, given in parts, where the producer wants them; into Redis, should the spool folder be full."""
        if sum(map(len, parts)) <= MAX_INLINE_BYTES or message.reply == "answer":
            return InlineRef(b"".join(parts))
        if message.reply == "files" and self.places.spool is not None:
            with suppress(OSError):
                return spool.write(self.places.spool, message.job, f"output-{message.index}", parts)
        key = keys.output(message.job, message.index)
        self.client.set(key, b"".join(parts), ex=self.job_ttl_seconds)
        return RedisRef(key)

    def forget(self, ref: PayloadRef) -> None:
        """Delete outputs that nobody will fetch."""
        if isinstance(ref, RedisRef):
            self.client.unlink(ref.key)
        elif isinstance(ref, FileRef) and self.places.spool is not None:
            spool.forget(self.places.spool, [ref])


def checksum(parts: spool.Parts) -> int:
    """The CRC-32 of a payload, given in parts; 4 MiB take a millisecond."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value
