"""Names every Redis key that Celeriac writes itself; Celery's own keys carry the same prefix.

    celeriac:job:ID              hash    the job's state, record and counts: see `tasks/protocol/job_fields.py`
    celeriac:job:ID:payload:N    string  chunk N's payload
    celeriac:job:ID:output:N     string  chunk N's outputs, where they are large
    celeriac:job:ID:results      list    answers of the children, as they come
    celeriac:job:ID:payloads     hash    a detached job's payloads by chunk, until they are answered
    celeriac:job:ID:answers      hash    a detached job's answers by chunk, outputs and all
    celeriac:job:ID:deliveries   hash    by chunk that is not answered: how often it was begun, and what became of that
    celeriac:job:ID:unproven     hash    by chunk: counts of a detached job's answers by executors that may yet differ
    celeriac:job:ID:failures     list    records of rows that failed, for `celeriac failures`
    celeriac:job:ID:timeline     hash    what happened in it, for `celeriac report`
    celeriac:jobs                zset    ids of jobs by the time at which they expire
    celeriac:queues              zset    queues by the time at which a worker was last known to consume them
    celeriac:worker:WORKER       hash    one field per slot: what its child holds; `main`: what the worker tells
    celeriac:workers             set     every WORKER, as NAME@HOST:TOKEN

Each has a time to live: the job's keys `job_ttl_seconds`, or what a detached job was given, the worker's
`WORKER_TTL_SECONDS`. Celery's queues have none, but one that no worker consumes is deleted
(`tasks/transport/queues.py`).
"""

from __future__ import annotations

from worker_config.queue_names import KEY_PREFIX

JOBS = f"{KEY_PREFIX}jobs"
QUEUES = f"{KEY_PREFIX}queues"
WORKERS = f"{KEY_PREFIX}workers"


def job(job_id: str) -> str:
    """The job's record."""
    return f"{KEY_PREFIX}job:{job_id}"


def payload(job_id: str, index: int | str) -> str:
    """The payload of chunk `index`; of all with "*"."""
    return f"{KEY_PREFIX}job:{job_id}:payload:{index}"


def output(job_id: str, index: int | str) -> str:
    """The outputs of chunk `index`; of all with "*"."""
    return f"{KEY_PREFIX}job:{job_id}:output:{index}"


def results(job_id: str) -> str:
    """Where children push the job's answers."""
    return f"{KEY_PREFIX}job:{job_id}:results"


def payloads(job_id: str) -> str:
    """The payloads of a detached job."""
    return f"{KEY_PREFIX}job:{job_id}:payloads"


def answers(job_id: str) -> str:
    """The answers of a detached job."""
    return f"{KEY_PREFIX}job:{job_id}:answers"


def unproven(job_id: str) -> str:
    """The rows of a detached job's chunks whose answers are void if an executor is found to differ."""
    return f"{KEY_PREFIX}job:{job_id}:unproven"


def deliveries(job_id: str) -> str:
    """How often each chunk was begun that is not answered."""
    return f"{KEY_PREFIX}job:{job_id}:deliveries"


def delivery_fields(index: int) -> list[str]:
    """All that the hash of deliveries has of a chunk; see `tasks/recovery/delivery_log.py`."""
    return [str(index), *(f"{index}:{name}" for name in ("at", "why", "deaths", "bad", "yielded"))]


def failures(job_id: str) -> str:
    """Records of the rows that failed."""
    return f"{KEY_PREFIX}job:{job_id}:failures"


def timeline(job_id: str) -> str:
    """What happened in a job, and when."""
    return f"{KEY_PREFIX}job:{job_id}:timeline"


def worker(worker_id: str) -> str:
    """The slots of one worker."""
    return f"{KEY_PREFIX}worker:{worker_id}"


def queue(name: str) -> str:
    """The list in which Celery keeps the messages of a queue."""
    return f"{KEY_PREFIX}{name}"
