"""The chunks of a detached job whose turn has not come yet, as messages that are ready to go to a queue.

    messages --> staged lists --in one step--> backlog, a list for each queue
    backlog --its first answer, each worker's heartbeat--> queue, as many at a time as the job's share allows

So a job has no more in a queue than its share of it, and others need not wait for all of it. What moves a message is
one script in Redis: it is in one of the two lists, whoever dies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import redis

from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import ChunkMessage
from tasks.protocol.seal import Sealer
from tasks.transport import scripts
from tasks.transport.task_message import task_message
from worker_config.broker import KEY_PREFIX

# Messages written together.
BATCH_CHUNKS = 256


def stage(
    client: redis.Redis,
    job_id: str,
    messages: Sequence[tuple[str, ChunkMessage]],
    sealer: Sealer,
    headers: Mapping[str, str],
    ttl_seconds: int,
) -> None:
    """Write messages, each for its queue, where no worker takes them.

    Raises:
        RedisError: Redis may have some of them.
    """
    for begin in range(0, len(messages), BATCH_CHUNKS):
        batch = messages[begin : begin + BATCH_CHUNKS]
        for wanted in {queue for queue, _ in batch}:
            staged = keys.staged(job_id, wanted)
            client.lpush(
                staged, *(task_message(one, queue, sealer, headers) for queue, one in batch if queue == wanted)
            )
            client.expire(staged, ttl_seconds)


def fill_queues(client: redis.Redis, job_id: str, queues: Collection[str]) -> None:
    """Make what is staged the backlog of the job, in the place of any other, and let its first chunks go."""
    scripts.run(client, "fill_queues", [keys.job(job_id)], [KEY_PREFIX, job_id, *sorted(queues)])


def count(client: redis.Redis, job_id: str) -> int:
    """How many messages of the job wait for their turn."""
    queues = cast("bytes | None", client.hget(keys.job(job_id), JobField.QUEUES)) or b""
    return sum(int(client.llen(keys.backlog(job_id, queue))) for queue in queues.decode().split())
