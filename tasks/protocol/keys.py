"""Names every Redis key that Celeriac writes itself, and a job's fields; Celery's own keys carry the same prefix.

    celeriac:job:ID              hash    the job's state, record and counts: `JobField`
    celeriac:job:ID:payload:N    string  chunk N's payload
    celeriac:job:ID:output:N-T   string  chunk N's outputs, where they are large; T is the token of one copy of it
    celeriac:job:ID:results      list    answers of the children, as they come
    celeriac:job:ID:payloads     hash    a detached job's payloads by chunk, until they are answered
    celeriac:job:ID:answers      hash    a detached job's answers by chunk, outputs and all
    celeriac:job:ID:deliveries   hash    by chunk that is not answered: how often it was begun, and what became of that
    celeriac:job:ID:unproven     hash    by chunk: counts of a detached job's answers by executors that may yet differ
    celeriac:job:ID:backlog:Q    list    a detached job's messages whose turn has not come to go to queue Q
    celeriac:job:ID:staged:Q     list    the same while it is being written
    celeriac:job:ID:failures     list    records of rows that failed, for `celeriac failures`
    celeriac:job:ID:timeline     hash    what happened in it, for `celeriac report`
    celeriac:jobs                zset    ids of jobs by the time at which they expire
    celeriac:named:NAME          hash    of a job with a name: `job`, its id; `work`, what it does; of an attached one
                                         also `owner`, who runs it, `claimed_until`, and how it `ended`
    celeriac:queues              zset    queues by the time at which a worker was last known to consume them
    celeriac:sharing:Q           hash    jobs of queue Q with weight and share, workers with their slots
    celeriac:refused             list    what lay in queues and was no message, the last of it
    celeriac:requests:QUEUE      list    requests of few rows that wait for a child of this model set
    celeriac:taken:WORKER:SLOT   list    those that this child runs
    celeriac:worker:WORKER       hash    one field per slot: what its child holds; `main`: what the worker tells;
                                         `preparing`: what it does before it has slots
    celeriac:workers             set     every WORKER, as NAME@HOST:TOKEN
    celeriac:homes               hash    `workers`: how many have asked so far which shard is theirs, of several
    celeriac:draining            set     those that drain, which are not among them, for people to see

Each has a time to live: the job's keys `job_ttl_seconds`, or what a detached job was given, outputs until they are
answered `UNANSWERED_TTL_SECONDS`, requests `REQUEST_TTL_SECONDS`, the worker's `WORKER_TTL_SECONDS`, who shares a
queue, what was refused and who has asked for a shard `QUEUE_TTL_SECONDS`. Celery's queues have none, but one that no
worker consumes is deleted (`tasks/transport/queues.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from worker_config.broker import KEY_PREFIX

JOBS = f"{KEY_PREFIX}jobs"
QUEUES = f"{KEY_PREFIX}queues"
WORKERS = f"{KEY_PREFIX}workers"
DRAINING = f"{KEY_PREFIX}draining"
HOMES = f"{KEY_PREFIX}homes"
# Celery's own: the messages that are not acknowledged, by the tags of their deliveries; the tags by time.
UNACKED = f"{KEY_PREFIX}unacked"
UNACKED_INDEX = f"{KEY_PREFIX}unacked_index"
# Never there: what is asked for it shows whether Redis takes writes.
PROBE = f"{KEY_PREFIX}probe"
# What lay in a queue and was no message, the last few.
REFUSED = f"{KEY_PREFIX}refused"


class JobField:
    """The fields of a job's hash, each with what it holds and who writes it.

        producer                 STATE, RECORD, WEIGHT; of a detached job CHUNKS, TTL, MODELS, UNSENT, before it is sent
        `celeriac priority`      WEIGHT
        children, by one script  all others (`publish_answer.lua` spells them as they are here)
        whoever looks after it   SENT_AGAIN; takes RESEND, UNSENT away (`tasks/transport/resend_detached.py`)

    A detached job has no producer to write its record, so that its children count in the hash itself.
    """

    # Of any job: what workers look at before each chunk, "running" or how it ended; its `JobRecord`, as sealed JSON.
    STATE: Final = "state"
    RECORD: Final = "record"
    # What it has of its queues, against other jobs there.
    WEIGHT: Final = "weight"
    # Followed by a model's name: how an executor of it differed from its own graph, which then runs it, as JSON.
    OWN_GRAPH: Final = "own_graph:"

    # Of a detached job: how many answers end it, the seconds it is kept, and how many models it has.
    CHUNKS: Final = "chunks"
    TTL: Final = "ttl"
    MODELS: Final = "models"
    # Queues that it has a backlog for; followed by a queue: its chunks that went there and are not answered.
    QUEUES: Final = "queues"
    IN_QUEUE: Final = "in_queue:"
    # What one of its chunks takes, of late.
    CHUNK_SECONDS: Final = "chunk_seconds"
    # Rows; the last two are of those predicted.
    ROWS: Final = ("predicted", "failed", "nonfinite_inputs", "nonfinite_outputs")
    # Chunks: that have an answer, of which a second answer was dropped, and that were sent again.
    ANSWERED: Final = "answered"
    DUPLICATES: Final = "duplicates"
    SENT_AGAIN: Final = "sent_again"
    # Unix seconds of the last answer; the record of the rows that ended the job, sealed.
    ANSWERED_AT: Final = "answered_at"
    FAILURE: Final = "failure"
    # Followed by a model's name: the first record of one that failed alone, sealed; and how many these are.
    FAILED: Final = "failed:"
    FAILED_MODELS: Final = "failed_models"
    # Chunks whose answers were void; there while they are still to be sent again.
    VOID: Final = "void"
    RESEND: Final = "resend"
    # There until all messages are sent for the first time; whoever takes it away from a job that is there sends them.
    UNSENT: Final = "unsent"


def _of_job(part: str = "") -> Callable[[str], str]:
    return lambda job_id: f"{KEY_PREFIX}job:{job_id}{part}"


job = _of_job()
results = _of_job(":results")
payloads = _of_job(":payloads")
answers = _of_job(":answers")
deliveries = _of_job(":deliveries")
unproven = _of_job(":unproven")
failures = _of_job(":failures")
timeline = _of_job(":timeline")


def payload(job_id: str, index: int | str) -> str:
    """The payload of chunk `index`; of all with "*"."""
    return f"{job(job_id)}:payload:{index}"


def output(job_id: str, index: int | str) -> str:
    """The outputs of a chunk, `index` and token of the copy that made them; of all with "*"."""
    return f"{job(job_id)}:output:{index}"


def backlog(job_id: str, queue: str = "") -> str:
    """What waits for its turn to go to a queue; what all of them begin with."""
    return f"{job(job_id)}:backlog:{queue}"


def staged(job_id: str, queue: str = "") -> str:
    """The same while it is being written."""
    return f"{job(job_id)}:staged:{queue}"


def delivery_fields(index: int) -> list[str]:
    """All that the hash of deliveries has of a chunk; see `tasks/recovery/delivery_log.py`."""
    return [str(index), *(f"{index}:{name}" for name in ("at", "why", "deaths", "bad", "yielded"))]


def named(name: str) -> str:
    """Which job has this name."""
    return f"{KEY_PREFIX}named:{name}"


def worker(worker_id: str) -> str:
    """The slots of one worker."""
    return f"{KEY_PREFIX}worker:{worker_id}"


def requests(queue: str) -> str:
    """The requests that wait for the workers of a queue."""
    return f"{KEY_PREFIX}requests:{queue}"


def taken(worker_id: str, slot: int) -> str:
    """The requests that the child in this slot runs."""
    return f"{KEY_PREFIX}taken:{worker_id}:{slot}"


def answers_channel(caller: str, database: int) -> str:
    """The channel on which a caller hears the answers to its requests; no key."""
    return f"{KEY_PREFIX}/{database}.answers.{caller}"


def sharing(queue: str) -> str:
    """Who is on a queue."""
    return f"{KEY_PREFIX}sharing:{queue}"


def queue(name: str) -> str:
    """The list in which Celery keeps the messages of a queue."""
    return f"{KEY_PREFIX}{name}"
