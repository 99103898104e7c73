"""What a child asks Redis before it runs a chunk: is it wanted still, how often was it begun, where are its rows.

message of Celery --> tag --does this server hold it?--> job's state, count of deliveries, payload

A child and its main process connect each for itself. After a failover one of them may be told of the old primary,
which comes back as one for some seconds: there a job is unknown, or is as it was, and what is answered is lost.
Celery holds what it has not acknowledged on the server that it comes from, under its tag: where that is unknown, the
message belongs to another server, or has gone back to its queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.child.bootstrap import Child
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import ChunkMessage, HashRef, RedisRef


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
    key = keys.deliveries(message.job)
    # All at once: a cancel in between would leave the count behind.
    with child.client.pipeline() as pipe:
        names = [model.name for model in message.models]
        pipe.hexists(keys.UNACKED, tag)
        pipe.hmget(keys.job(message.job), [JobField.STATE, *(f"{JobField.OWN_GRAPH}{name}" for name in names)])
        # A chunk of a detached job may have been sent twice; any other's first answer ends nothing.
        pipe.hexists(keys.answers(message.job), str(message.index))
        # Before work begins: who dies with the chunk cannot count it.
        pipe.hincrby(key, str(message.index), 1)
        pipe.expire(key, child.payloads.job_ttl_seconds)
        if isinstance(message.ref, RedisRef):
            pipe.get(message.ref.key)
        elif isinstance(message.ref, HashRef):
            pipe.hget(message.ref.key, str(message.index))
        is_held, (state, *differed), answered, count, _, *payload = pipe.execute()
    if not is_held:
        if count == 1:
            child.client.hdel(key, str(message.index))
        raise NotHeldError
    if state != b"running" or answered:
        child.client.hdel(key, *keys.delivery_fields(message.index))
        return Delivery(tag)
    own_graph = [name for name, seen in zip(names, differed, strict=True) if seen]
    return Delivery(tag, count, payload[0] if payload else None, own_graph)
