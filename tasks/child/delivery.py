"""What a child asks Redis before it runs a chunk: is it wanted still, how often was it begun, where are its rows.

message of Celery --> tag --does this server hold it?--> job's state, count of deliveries, payload

A child and its main process connect each for itself. After a failover one of them may be told of the old primary,
which comes back as one for some seconds: there a job is unknown, or is as it was, and what is answered is lost.
Celery holds what it has not acknowledged on the server that it comes from, under its tag: where that is unknown, the
message belongs to another server, or has gone back to its queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from tasks.child.bootstrap import Child
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import ChunkMessage, HashRef, RedisRef
from tasks.transport import scripts


class NotHeldError(Exception):
    """This server does not know of the delivery; it goes back to the queue where it is held."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a chunk, as Celery brought it.

    Attributes:
        tag: by which Celery acknowledges it.
        count: how often the chunk was begun, this time included; 0 if nobody wants it any more.
        payload: of the chunk, where Redis holds it.
        own_graph: models that are to be run by their own graphs, since another executor was found to differ.
    """

    tag: str
    count: int = 0
    payload: bytes | None = None
    own_graph: list[str] = field(default_factory=list)


def ask(child: Child, message: ChunkMessage, tag: str) -> Delivery:
    """Begin a delivery of the chunk.

    Raises:
        NotHeldError: this server is not the one that holds it.
        RedisError: Redis is out of reach.
    """
    job, noted = message.job, keys.delivery_fields(message.index)
    held = [keys.UNACKED, keys.job(job), keys.answers(job), keys.deliveries(job)]
    names = [model.name for model in message.models]
    values = [tag, message.index, child.payloads.job_ttl_seconds, len(noted), *noted]
    values += [f"{JobField.OWN_GRAPH}{name}" for name in names]
    # All at once: a cancel in between would leave the count behind.
    count, *differed = scripts.run(child.client, "begin_delivery", held, values)
    if count < 0:
        raise NotHeldError
    if not count:
        return Delivery(tag)
    payload = None
    if isinstance(message.ref, RedisRef):
        payload = child.client.get(message.ref.key)
    elif isinstance(message.ref, HashRef):
        payload = child.client.hget(message.ref.key, str(message.index))
    own_graph = [name for name, seen in zip(names, differed, strict=True) if seen]
    return Delivery(tag, count, cast("bytes | None", payload), own_graph)
