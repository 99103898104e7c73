"""The rival of `safety`: Celeriac's own worker, without what keeps rows from being lost.

`celery -A benchmarks.unsafe worker` runs it, and nobody else may import it: functions of the product, which has no
switch for this, are replaced before the worker forks, so that its children never do what they are for.
"""

from __future__ import annotations

from typing import cast

from tasks.celery import app
from tasks.child import execute_chunk
from tasks.child.bootstrap import Child
from tasks.child.delivery import Delivery
from tasks.protocol import keys
from tasks.protocol.messages import ChunkMessage, RedisRef

__all__ = ["app"]


def ask(child: Child, message: ChunkMessage, tag: str) -> Delivery:
    """Whether the job runs, and the payload; no delivery is counted."""
    with child.client.pipeline(transaction=False) as pipe:
        pipe.hget(keys.job(message.job), "state")
        if isinstance(message.ref, RedisRef):
            pipe.get(message.ref.key)
        state, *payload = cast("list[bytes | None]", pipe.execute())
    return Delivery(tag, 1, payload[0] if payload else None) if state == b"running" else Delivery(tag)


# No count of deliveries, nothing to remove with an answer, no checksum.
for module, name, replacement in (
    (execute_chunk, "ask", ask),
    (execute_chunk, "checksum", lambda _: 0),
    (keys, "delivery_fields", lambda *_: []),
):
    setattr(module, name, replacement)
