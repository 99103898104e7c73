"""Where running jobs stand in their queues, for `celeriac jobs`: the share of each, and how many chunks are before it.

celeriac:sharing:Q --share--> Turn <--place of the job's first message-- queue
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import redis

from tasks.protocol import keys


@dataclass(frozen=True)
class Turn:
    """A job's place.

    Attributes:
        share: of its queue's slots, as Redis reckoned it last; the largest, where it has several queues.
        ahead: chunks of other jobs that wait before its next one; None where none of its chunks waits.
    """

    share: float
    ahead: int | None


def read_turns(client: redis.Redis, job_ids: Collection[str]) -> dict[str, Turn]:
    """The places of those of these jobs that have one, by id."""
    turns: dict[str, Turn] = {}
    queues = cast("list[bytes]", client.zrange(keys.QUEUES, 0, -1)) if job_ids else []
    for queue in (name.decode() for name in queues):
        sharing = cast("dict[bytes, bytes]", client.hgetall(keys.sharing(queue)))
        # Kombu takes from the right.
        messages = cast("list[bytes]", client.lrange(keys.queue(queue), 0, -1))[::-1] if sharing else []
        for job_id in job_ids:
            share = _share(sharing.get(f"job:{job_id}".encode(), b""))
            if share is not None:
                turn = Turn(share, _ahead(messages, job_id.encode()))
                turns[job_id] = max(turns.get(job_id, turn), turn, key=lambda one: one.share)
    return turns


def _share(entry: bytes) -> float | None:
    """As `share_queue.lua` writes it; None of a job that gave no sign of life, or where it cannot be read."""
    try:
        _, until, share = entry.split()[:3]
        return float(share) if int(until) > time.time() else None
    except ValueError:
        return None


def _ahead(messages: list[bytes], job_id: bytes) -> int | None:
    return next((place for place, message in enumerate(messages) if job_id in message), None)
