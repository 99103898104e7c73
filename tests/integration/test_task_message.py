"""A chunk's message, which is made by hand, is what Celery itself would send."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgpack

from tasks.protocol import keys
from tasks.protocol.chunk_args import to_args
from tasks.protocol.messages import MESSAGE_VERSION, TASK_NAME, ChunkMessage, InlineRef, ModelRef
from tasks.protocol.seal import Sealer
from tasks.transport.task_message import task_message
from tests.systems import System
from worker_config.celery_app import make_app

QUEUE = "celeriac.of-nobody"
HEADERS = {"traceparent": "00-1"}
CHUNK = ChunkMessage(
    version=MESSAGE_VERSION,
    job="0123456789ab",
    index=7,
    start=14,
    stop=16,
    chunks=None,
    models=[ModelRef("held", "ab" * 32)],
    ref=InlineRef(b"rows"),
    reply="answer",
)
# Where a result would be sent, and nobody wants any; what each task has of its own.
_NOT_SENT, _OWN = "reply_to", ("id", "root_id", "origin", "correlation_id", "delivery_tag")


def taken_apart(sent: bytes) -> tuple[Any, dict[str, Any]]:
    whole = json.loads(sent)
    headers, properties = whole["headers"], whole["properties"]
    assert headers["id"] == headers["root_id"] == properties["correlation_id"] != properties["delivery_tag"]
    for own in _OWN:
        own_of = headers if own in headers else properties
        assert isinstance(own_of[own], str)
        own_of[own] = "own"
    properties.pop(_NOT_SENT, None)
    return msgpack.unpackb(b64decode(whole.pop("body"))), whole


def test_it_is_what_celery_would_send(system: System) -> None:
    sealer = Sealer()
    with make_app(system.settings()) as app:
        words = str(CHUNK)
        app.send_task(
            TASK_NAME,
            args=to_args(CHUNK, QUEUE, sealer),
            argsrepr=words,
            kwargsrepr="{}",
            headers=HEADERS,
            queue=QUEUE,
            ignore_result=True,
        )
    with system.admin() as server:
        theirs = server.rpop(keys.queue(QUEUE))
    assert isinstance(theirs, bytes)

    assert taken_apart(task_message(CHUNK, QUEUE, sealer, HEADERS)) == taken_apart(theirs)


def test_no_two_are_the_same_task() -> None:
    one, other = (json.loads(task_message(CHUNK, QUEUE, Sealer(), {})) for _ in range(2))
    assert one["headers"]["id"] != other["headers"]["id"]
    assert one["properties"]["delivery_tag"] != other["properties"]["delivery_tag"]
