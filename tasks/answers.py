"""This module puts a chunk's answer where its job looks for it, unless the job is over."""

from __future__ import annotations

import redis

from tasks import keys
from tasks.messages import Answer, pack

# Answers to a job that is over are not kept: nobody would take them off the list.
_PUSH = """
if redis.call('HGET', KEYS[1], 'state') == 'running' then
    redis.call('RPUSH', KEYS[2], ARGV[1])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    return 1
end
return 0
"""


def push_answer(client: redis.Redis, answer: Answer, ttl_seconds: int) -> bool:
    """Put the answer on its job's list, unless the job is over; the join drops a second copy."""
    job, results = keys.job(answer.job), keys.results(answer.job)
    return bool(client.eval(_PUSH, 2, job, results, pack(answer), ttl_seconds))
