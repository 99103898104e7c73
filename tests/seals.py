"""Sealed rows, outputs and answers by hand, as producer and children of one system seal them."""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from tasks.protocol import codec
from tasks.protocol.messages import Answer, InlineRef, pack, unpack
from tasks.protocol.seal import Sealer, answer_context, note_context, outputs_context, rows_context
from tasks.transport.publish_answer import push_answer
from tests.systems import SIGNING_KEYS

SEALER = Sealer(SIGNING_KEYS)


def rows_ref(job: str, index: int, rows: Any) -> InlineRef:
    """Rows that ride in their message."""
    return InlineRef(SEALER.seal_bytes(rows_context(job, index), codec.encode(rows)))


def outputs_ref(job: str, index: int, outputs: Any) -> InlineRef:
    """Outputs that ride in their answer."""
    return InlineRef(SEALER.seal_bytes(outputs_context(job, index), codec.encode(outputs)))


def sealed_answer(answer: Answer) -> bytes:
    """An answer as it stands on the job's list."""
    return SEALER.seal_bytes(answer_context(answer.job), pack(answer))


def sealed_note(job: str, index: int, name: str, note: Any) -> bytes:
    """A note of a chunk's deliveries, as it stands in Redis."""
    return SEALER.seal_bytes(note_context(job, index, name), msgspec.msgpack.encode(note))


def opened_answer(job: str, sealed: bytes) -> Answer:
    """What stands there, read."""
    answer: Answer = unpack(SEALER.open(answer_context(job), sealed), Answer)
    return answer


def push(server: redis.Redis, answer: Answer, ttl_seconds: int = 60, queue: str = "") -> bool:
    """Answer as a child does whose chunk came from this queue."""
    return push_answer(server, answer, ttl_seconds, SEALER, queue=queue).is_taken
