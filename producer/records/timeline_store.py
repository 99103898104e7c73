"""A job's timeline in Redis, beside its record and for as long.

The hash `celeriac:job:ID:timeline` has the fields `story` (`producer/records/timeline.py`), written anew each time, and
`entries:N`, the entries from the N-th on. Losing it loses a picture: nothing here ends a job, or has it wait.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import msgspec
import redis

from producer.records.timeline import Entry, Timeline, TimelineSummary
from tasks.protocol import keys
from tasks.transport.worker_registry import read_facts
from worker_config.decodable import decodable
from worker_config.foreign_errors import UNDECODABLE

logger: logging.Logger = logging.getLogger(__name__)

# Besides `redis`, which is the client.
SERVER = "redis server"
_STORY = "story"
_ENTRIES = "entries:"


def write(client: redis.Redis, job_id: str, timeline: Timeline, ttl_seconds: int) -> None:
    """Bring what is new to Redis, or everything where it may have lost some; never raises."""
    key, reported, entries = keys.timeline(job_id), timeline.reported_count, timeline.entries
    try:
        _ask(client, timeline)
        fields: dict[Any, Any] = {_STORY: msgspec.msgpack.encode(timeline.summarize())}
        if len(entries) > reported:
            fields[f"{_ENTRIES}{reported}"] = msgspec.msgpack.encode(entries[reported:])
        with client.pipeline() as pipe:
            if not reported:
                pipe.unlink(key)
            pipe.hset(key, mapping=fields)
            pipe.expire(key, ttl_seconds)
            pipe.execute()
        timeline.reported_count = len(entries)
    except redis.RedisError as error:
        timeline.doubt()
        logger.info("job %s: its timeline is not kept now: %s", job_id, error)


def read(client: redis.Redis, job_id: str) -> tuple[TimelineSummary, list[Entry]] | None:
    """What is known of a job, its entries by the time of their answers; None where there is nothing to be read."""
    fields = cast("dict[bytes, bytes]", client.hgetall(keys.timeline(job_id)))
    try:
        summary = msgspec.msgpack.decode(fields[_STORY.encode()], type=decodable(TimelineSummary))
        blocks = [data for name, data in fields.items() if name.startswith(_ENTRIES.encode())]
        entries = [entry for data in blocks for entry in msgspec.msgpack.decode(data, type=decodable(list[Entry]))]
    except (KeyError, *UNDECODABLE):  # of another version
        return None
    return summary, sorted(entries, key=lambda entry: entry.answered_at)


def _ask(client: redis.Redis, timeline: Timeline) -> None:
    """Learn what Redis and the workers tell of themselves, where that is not known yet."""
    versions, workers = timeline.summary.versions, timeline.summary.workers
    if SERVER not in versions:
        info = cast("dict[str, str]", client.info("server"))
        name = "valkey" if "valkey_version" in info else "redis"
        versions[SERVER] = f"{info.get(f'{name}_version', '?')}{' (Valkey)' if name == 'valkey' else ''}"
    if unknown := [worker for worker in timeline.up if workers.get(worker, ...) is None]:
        workers.update({worker: facts for worker, facts in read_facts(client, unknown).items() if facts})
