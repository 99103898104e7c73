"""Binds a worker to the queue of its model set, shares it among jobs, and deletes queues that nobody consumes any more.

    worker starts --consume_only--> celeriac.0123456789ab      every few seconds --note--> celeriac:queues
    attached job, every second --weight--> celeriac:sharing:Q --share--> how many chunks it has there
    detached job, at each answer, and worker, every few seconds --> the same, by which its backlog goes there

So a chunk goes to workers alone that hold its models, in its versions. A queue is kept for long after its last worker:
detached jobs may wait there for one to come back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import redis

from tasks.protocol import keys
from tasks.transport import scripts
from worker_config.broker import KEY_PREFIX, QUEUE
from worker_config.errors import UsageError
from worker_config.retry_policy import QUEUE_TTL_SECONDS, SHARE_TTL_SECONDS, WORKER_TTL_SECONDS


def consume_only(app: Any, queue: str) -> None:
    """Let the worker of `app` consume this queue and no other; before its consumer starts.

    Raises:
        UsageError: it was told other queues.
    """
    queues = app.amqp.queues
    if set(queues.consume_from) != {QUEUE}:
        raise UsageError(
            "a worker consumes the queue of its model set; leave out -Q/--queues and -X/--exclude-queues, and choose "
            "models with CELERIAC_MODEL_SET"
        )
    queues.select([queue])


def tend(client: redis.Redis, consumed: Collection[str], worker: str, slots: int) -> int:
    """Tell who consumes these queues, and let chunks go there whose turn it is; how many wait, there or for that."""
    waiting = 0
    for queue in consumed:
        values = [KEY_PREFIX, queue, worker, slots, WORKER_TTL_SECONDS]
        waiting += cast("int", scripts.run(client, "tend_queue", [keys.sharing(queue)], values))
    return waiting


def share(client: redis.Redis, queue: str, job_id: str, weight: float, chunk_seconds: float | None = None) -> float:
    """How many chunks an attached job may have in a queue for each that it would have there alone.

    It counts there for some seconds; `chunk_seconds` are what one of its chunks takes, if that is known.
    """
    held = [keys.job(job_id), keys.sharing(queue)]
    values = [job_id, weight, SHARE_TTL_SECONDS, "" if chunk_seconds is None else chunk_seconds]
    return float(scripts.run(client, "join_queue", held, values))


def note(client: redis.Redis, consumed: Collection[str]) -> None:
    """Remember that these queues are consumed now; delete those that have not been for `QUEUE_TTL_SECONDS`.

    `client` may be a pipeline.
    """
    if consumed:
        scripts.run(client, "note_queues", [keys.QUEUES], [QUEUE_TTL_SECONDS, keys.queue(""), *sorted(consumed)])
