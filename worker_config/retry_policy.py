"""Retries, limits and waits of both sides in one table; a unit test holds them against each other.

    a chunk      Celery's retries < sends < sends of rows that kill; late --> resend, each copy waiting longer
    a worker     status, heartbeat < time to live < what a producer waits for a worker < a probe's patience
    Redis        blocking read < socket's time limit; pauses grow from 0.1 to 2 seconds < heartbeat

How long a chunk or a loading may take is a setting (`worker_config/settings.py`): it depends on the models.
"""

from __future__ import annotations

from typing import Final

# --- Redis, and connections to it

# Between two tries to connect; growing. Celery's own pauses grow to 30 seconds, as long as producers wait for a worker.
LEAST_BACKOFF_SECONDS: Final = 0.1
LONGEST_BACKOFF_SECONDS: Final = 2.0
# Longest that a blocking read may ask for; well under the socket's time limit, which would cut it off.
BLOCK_SECONDS: Final = 1.0
SOCKET_TIMEOUT_SECONDS: Final = 10.0
# Of several shards one that does not answer is left, and the others go on: it is waited for less, asked once more, and
# asked again by who begins something only after a while.
SHARD_TIMEOUT_SECONDS: Final = 3.0
SHARD_COMMAND_RETRIES: Final = 1
SHARD_AWAY_SECONDS: Final = 2.0
# A request's commands are tried once, and not for long: what comes of none is a job, which waits for Redis.
REQUEST_TIMEOUT_SECONDS: Final = 3.0
# Celery's blocking reads are its own.
CELERY_SOCKET_TIMEOUT_SECONDS: Final = 30
CONNECT_TIMEOUT_SECONDS: Final = 5
# A connection that was idle for longer is tried before it is used.
HEALTH_CHECK_SECONDS: Final = 25
# A user, a password or a right that is refused in the middle of a job may be given back, and room be made on a disk
# that is full; a job waits for so long.
REFUSED_WAIT_SECONDS: Final = 300.0
# Of a client's commands: of most; of a job, whose thread waits by itself after these; and of a child, which has a
# chunk in its hands and may as well wait for its outputs to be stored.
COMMAND_RETRIES: Final = 3
JOB_COMMAND_RETRIES: Final = 5
CHILD_COMMAND_RETRIES: Final = 30
# Of outputs whose child was killed before it told of them; longer than it tries to.
UNANSWERED_TTL_SECONDS: Final = 600
# A publish that was in doubt may arrive twice; the join drops the second answer.
PUBLISH_RETRIES: Final = 10
# An attached job that gives no sign of life for so long has no share of its queue any more.
SHARE_TTL_SECONDS: Final = 5
# How long messages wait for a worker of their model set to come back.
QUEUE_TTL_SECONDS: Final = 7 * 86_400
# The least that a detached job may be kept.
LEAST_TTL_SECONDS: Final = 60

# --- Stores of objects

# Of one request inside obstore, in silence; beyond that we wait ourselves, and say so.
STORE_REQUEST_RETRIES: Final = 2
STORE_REQUEST_SECONDS: Final = 10
# A range that is silent for so long is asked for once more, by a request that has obstore's own 30 seconds.
STORE_SILENT_SECONDS: Final = 10.0
# A store that is busy or gone is waited for so long, well within a chunk's time; with pauses of up to so much.
STORE_WAIT_SECONDS: Final = 60.0
STORE_BACKOFF_SECONDS: Final = 5.0
STORE_TELL_SECONDS: Final = 10.0
# A child's wait that is longer is told to whoever waits for its job.
STORE_TOLD_SECONDS: Final = 1.0

# --- A chunk that comes back without outputs, or not at all

# Celery's own retries of a task whose child was killed; then its producer decides.
TASK_RETRIES: Final = 2
TASK_RETRY_SECONDS: Final = 1
# Celery looks for messages of dead workers so often; its default is every 100 s.
RESTORE_SECONDS: Final = 5
# A chunk whose rows, or outputs, are not where they should be is sent so often, then they have failed.
MAX_SENDS: Final = 4
# One with rows that kill their child goes on for as long as they are being found; its child knows when to give up.
MAX_SENDS_OF_KILLERS: Final = 1_000
# Deaths that finding a chunk's rows may take: three, or as many more for each row found, and one to spare.
MAX_DEATHS: Final = 4
MAX_DEATHS_PER_ROW: Final = 3
# A producer looks for late chunks so often.
STRAGGLER_LOOK_SECONDS: Final = 0.1
# What a pause of the machine, or of Python, may take however short the chunks are.
STRAGGLER_SLACK_SECONDS: Final = 0.3
# Before anything is known of how long chunks take.
STRAGGLER_UNKNOWN_SECONDS: Final = 60.0
# Each copy has the next one wait so much longer, and so long at least: a chunk sent again may have a row that kills,
# and each copy would cost a child. Who waits for a detached job looks so often whether any worker has a chunk of it.
RESEND_BACKOFF: Final = 4.0
LEAST_RESEND_SECONDS: Final = 5.0

# --- A worker that is gone, or silent

# A worker registers its slots anew so often; without that its records expire, and it counts as gone.
HEARTBEAT_SECONDS: Final = 5.0
WORKER_TTL_SECONDS: Final = 20
# Of a list of requests after the last one came, and of what a child has taken.
REQUEST_TTL_SECONDS: Final = 300
# A producer looks who is alive so often; between two looks a record may go.
LIVENESS_LOOK_SECONDS: Final = 1.0
# How long a producer waits for a worker, where none is up.
WORKER_TIMEOUT_SECONDS: Final = 30.0
# A main process writes its status so often, and may wait for Redis for some; silent for longer it is ill.
STATUS_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 30.0
# Celery stops a chunk at its limit; a child that runs one for so much longer is ill.
OVER_LIMIT_SECONDS: Final = 60.0
# A child that dies while it loads, without a word (killed for its memory, say), is tried this often.
MAX_SILENT_DEATHS: Final = 3
# Models that were replaced stay for so long: a producer pins its job a moment before it enters it in Redis.
REPLACED_GRACE_SECONDS: Final = 60.0

# --- Ends

# SIGTERM lets running chunks go on for so long.
SOFT_SHUTDOWN_SECONDS: Final = 10.0
# In which an embedded worker may send the traces that it still has.
FAREWELL_SECONDS: Final = 5.0
# A training loop that ends waits for its cancelled job for so long; a job looks up at every `LIVENESS_LOOK_SECONDS`.
CANCEL_SECONDS: Final = 10.0


def visibility_timeout(chunk_timeout_seconds: int, load_timeout_seconds: int) -> int:
    """After how many seconds Redis gives an unacknowledged message to another worker.

    Longer than any chunk waits and runs; the shortest one of all processes on a database wins.
    """
    return 2 * chunk_timeout_seconds + load_timeout_seconds
