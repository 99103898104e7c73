"""Binds a worker to the queue of its model set, and deletes queues that no worker consumes any more.

    worker starts --consume_only--> celeriac.0123456789ab      every few seconds --note--> celeriac:queues

So a chunk goes to workers alone that hold its models, in its versions. A queue is kept for long after its last worker:
detached jobs may wait there for one to come back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import redis

from tasks.protocol import keys
from tasks.transport import scripts
from worker_config.errors import UsageError
from worker_config.queue_names import QUEUE
from worker_config.retry_policy import QUEUE_TTL_SECONDS


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


def waiting(client: redis.Redis, consumed: Collection[str]) -> int:
    """How many messages wait in these queues."""
    with client.pipeline(transaction=False) as pipe:
        for queue in consumed:
            pipe.llen(keys.queue(queue))
        return sum(cast("list[int]", pipe.execute()))


def note(client: redis.Redis, consumed: Collection[str]) -> None:
    """Remember that these queues are consumed now; delete those that have not been for `QUEUE_TTL_SECONDS`.

    `client` may be a pipeline.
    """
    if consumed:
        scripts.run(client, "note_queues", [keys.QUEUES], [QUEUE_TTL_SECONDS, keys.queue(""), *sorted(consumed)])
