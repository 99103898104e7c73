"""A chunk's message as it lies in its queue: a task of Celery's protocol 2, in kombu's envelope for Redis.

ChunkMessage --sealed arguments--> msgpack --> envelope as JSON --> list that is the queue

Made by hand, as Celery and kombu take ten times as long for one, which is a third of what a chunk costs its producer. A
test holds it against theirs.
"""

from __future__ import annotations

import os
import platform
import uuid
from base64 import b64encode
from collections.abc import Mapping

import msgspec

from tasks.protocol.chunk_args import to_args
from tasks.protocol.messages import TASK_NAME, ChunkMessage
from tasks.protocol.seal import Sealer

_NOTHING_AFTER = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def task_message(message: ChunkMessage, queue: str, sealer: Sealer, headers: Mapping[str, str]) -> bytes:
    """What is pushed onto the queue's list; workers take from its right.

    `headers` name the trace that the chunk belongs to, if any.
    """
    task_id = str(uuid.uuid4())
    shown = {"argsrepr": str(message), "kwargsrepr": "{}"}
    return msgspec.json.encode(
        {
            "body": b64encode(msgspec.msgpack.encode((to_args(message, queue, sealer), {}, _NOTHING_AFTER))).decode(),
            "content-encoding": "binary",
            "content-type": "application/x-msgpack",
            "headers": {
                "lang": "py",
                "task": TASK_NAME,
                "id": task_id,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": (None, None),
                "root_id": task_id,
                "parent_id": None,
                **shown,
                "origin": f"gen{os.getpid()}@{platform.node()}",
                "ignore_result": True,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
                **headers,
            },
            "properties": {
                "correlation_id": task_id,
                **shown,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
