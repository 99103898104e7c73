"""This module keeps a job's keys alive: their time to live begins anew whenever something happens to the job.

`celeriac:jobs` has each id by the time at which its job expires, and lives as long as the last of them.
"""

from __future__ import annotations

import redis

from tasks.protocol import keys

# For the scripts of others: `keep(jobs, id, ttl, held)`, with the job's own hash as the first key held.
KEEP = """
local function keep(jobs, id, ttl, held)
    if redis.call('EXPIRE', held[1], ttl) == 0 then return end
    for i = 2, #held do redis.call('EXPIRE', held[i], ttl) end
    local now = tonumber(redis.call('TIME')[1])
    redis.call('ZREMRANGEBYSCORE', jobs, '-inf', now)
    redis.call('ZADD', jobs, now + ttl, id)
    redis.call('EXPIREAT', jobs, redis.call('ZRANGE', jobs, -1, -1, 'WITHSCORES')[2])
end
"""
_SCRIPT = KEEP + "keep(KEYS[1], ARGV[1], tonumber(ARGV[2]), {unpack(KEYS, 2)})"


def keep(client: redis.Redis, job_id: str, ttl_seconds: int) -> None:
    """Let all that a job has in Redis live on for `ttl_seconds`; a job that has expired stays so.

    `client` may be a pipeline.
    """
    held = [keys.job(job_id), keys.payloads(job_id), keys.answers(job_id), keys.unproven(job_id)]
    client.eval(_SCRIPT, 1 + len(held), keys.JOBS, *held, job_id, ttl_seconds)
