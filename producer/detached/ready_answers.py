"""Reads the answers of a detached job's chunks, in order, from the shards that have them; none is taken away.

index --sizes of answers that are there--> as many as may be in memory --> answers
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import redis

from producer.broker.shard_clients import ShardClients
from tasks.protocol import keys
from tasks.protocol.plan import Plan

# Answers read at once: so many, or so many bytes; a single one may have more.
READ_CHUNKS = 64
READ_BYTES = 16 * 2**20


def read_ready(shards: ShardClients, job_id: str, plan: Plan, places: Mapping[int, int], index: int) -> list[bytes]:
    """The answers of chunk `index` and those that follow it without a gap, as many as may be in memory.

    Args:
        places: the shards of the job's parts; one that is left again is on the shard of its number.

    Raises:
        BrokerError: a shard cannot be reached.
    """
    ahead = range(index, min(index + READ_CHUNKS, plan.chunks))
    by_shard = defaultdict[int, list[int]](list)
    for known in ahead:
        part = plan.part_of(known)
        by_shard[places.get(part, part)].append(known)
    sizes: dict[int, int] = {}
    for shard, its in by_shard.items():
        sizes |= zip(its, shards.on(shard, partial(_sizes, job_id=job_id, indexes=its)), strict=True)
    ready: list[int] = []
    total = 0
    for known in ahead:
        total += sizes[known]
        if not sizes[known] or (ready and total > READ_BYTES):
            break
        ready.append(known)
    answers: dict[int, bytes | None] = {}
    for shard, its in by_shard.items():
        if wanted := [known for known in its if known in ready]:
            answers |= zip(wanted, shards.on(shard, partial(_answers, job_id=job_id, indexes=wanted)), strict=True)
    # None where the job has ended in between.
    found = [answer for known in ready if (answer := answers[known]) is not None]
    return found if len(found) == len(ready) else []


def _sizes(client: redis.Redis, job_id: str, indexes: Sequence[int]) -> list[int]:
    with client.pipeline(transaction=False) as pipe:
        for index in indexes:
            pipe.hstrlen(keys.answers(job_id), str(index))
        return cast("list[int]", pipe.execute())


def _answers(client: redis.Redis, job_id: str, indexes: Sequence[int]) -> list[bytes | None]:
    return cast("list[bytes | None]", client.hmget(keys.answers(job_id), list(map(str, indexes))))
