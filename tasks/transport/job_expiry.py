"""A job's keys stay alive: their time to live begins anew whenever something happens to the job.

`celeriac:jobs` has each id by the time at which its job expires, and lives as long as the last of them.
"""

from __future__ import annotations

import redis

from tasks.protocol import keys
from tasks.transport import scripts


def keep(client: redis.Redis, job_id: str, ttl_seconds: int) -> None:
    """Let all that a job has in Redis live on for `ttl_seconds`; a job that has expired stays so.

    `client` may be a pipeline.
    """
    held = [keys.job(job_id), keys.payloads(job_id), keys.answers(job_id), keys.unproven(job_id)]
    scripts.run(client, "keep_job", [keys.JOBS, *held], [job_id, ttl_seconds])
