"""The arguments of a chunk's Celery task: whoever reads them knows the chunk, whatever release sent it.

    [message version, job, index, ChunkMessage as msgpack, sealed for its queue]

The first three stand there in every version, so that a worker of another one can answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tasks.protocol.messages import (
    LEAST_VERSION,
    MESSAGE_VERSION,
    ChunkMessage,
    Count,
    JobId,
    pack,
    unpack,
)
from tasks.protocol.seal import Sealer, content_of
from worker_config.decodable import decodable
from worker_config.errors import MessageError, VersionError
from worker_config.foreign_errors import one_line


class ChunkId(msgspec.Struct, frozen=True, array_like=True):
    """What every version tells of a chunk."""

    version: int
    job: JobId
    index: Count


def to_args(message: ChunkMessage, queue: str, sealer: Sealer) -> list[Any]:
    """What a chunk is sent as, to this queue."""
    sealed = sealer.seal_bytes(_context(queue, message.job, message.index), pack(message))
    return [message.version, message.job, message.index, sealed]


def chunk_id(args: Any) -> ChunkId:
    """Which chunk it is, of any version.

    Raises:
        MessageError: that cannot be told.
    """
    try:
        if args and isinstance(args[0], dict):  # message version 1
            return msgspec.convert([args[0].get(name) for name in ("version", "job", "index")], decodable(ChunkId))
        return msgspec.convert(list(args[:3]), decodable(ChunkId))
    except (msgspec.ValidationError, LookupError, TypeError) as error:
        raise MessageError(f"a message is no chunk: {one_line(error)}") from None


def from_args(args: Any, queue: str, sealer: Sealer) -> ChunkMessage:
    """The chunk that came from this queue.

    Raises:
        VersionError: it is of another message version.
        SealError: it was damaged, or is not signed with a key that is known here.
        MessageError: it is no chunk.
    """
    chunk = chunk_id(args)
    version, job, index = chunk.version, chunk.job, chunk.index
    if not LEAST_VERSION <= version <= MESSAGE_VERSION:
        raise VersionError(
            f"chunk {index} of job {job} has message version {version}, {_understood()} understood here; "
            "run the same release of Celeriac on both sides, or the one before on one of them"
        )
    if len(args) != 4 or not isinstance(args[3], bytes):
        raise MessageError(f"chunk {index} of job {job} does not stand in its message")
    message: ChunkMessage = unpack(sealer.open(_context(queue, job, index), args[3]), ChunkMessage)
    if (message.job, message.index) != (job, index):
        raise MessageError(f"the message of chunk {index} of job {job} holds {message}")
    return message


def describe(args: Any) -> str:
    """The chunk in words, as far as its arguments can be read; nothing of it is checked."""
    try:
        return str(unpack(content_of(args[3]), ChunkMessage))
    except (MessageError, LookupError, TypeError):
        return "chunk ? of a message that cannot be read"


def _understood() -> str:
    one = LEAST_VERSION == MESSAGE_VERSION
    return f"only {MESSAGE_VERSION} is" if one else f"{LEAST_VERSION} to {MESSAGE_VERSION} are"


def _context(queue: str, job: str, index: int) -> str:
    return f"chunk/{job}/{index}/{queue}"
