"""Names of detached jobs, by which each is submitted once, however often somebody tries.

name --bind--> id of the one job that has it, as long as that is kept --find_named--> id
"""

from __future__ import annotations

from typing import cast

import redis

from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.transport.connection import broker_errors, connect


def bind(client: redis.Redis, name: str, job_id: str, ttl_seconds: int) -> str:
    """Give a job this name, unless one that is still there has it; return the id of the one that has it now."""
    key = keys.named(name)
    with client.pipeline() as pipe:
        pipe.hsetnx(key, "job", job_id)
        pipe.hget(key, "job")
        pipe.expire(key, ttl_seconds)
        _, owner, _ = pipe.execute()
    known = cast("bytes", owner).decode()
    if known != job_id and not client.hget(keys.job(known), JobField.TTL):
        client.hset(key, "job", job_id)  # the other has expired
        return job_id
    return known


def find_named(broker_url: str, name: str) -> str | None:
    """The id of the job that has this name, which it then keeps for longer; None where there is none, or it expired.

    Raises:
        BrokerError: Redis cannot be reached.
    """
    with broker_errors(broker_url), connect(broker_url) as client:
        found = cast("bytes | None", client.hget(keys.named(name), "job"))
        ttl_seconds = found and client.hget(keys.job(found.decode()), JobField.TTL)
        if not found or not ttl_seconds:
            return None
        client.expire(keys.named(name), int(ttl_seconds))
        return found.decode()
