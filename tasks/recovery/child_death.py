"""Says why a child died, and answers in its place when its chunk is not sent again."""

from __future__ import annotations

import logging
import re
import signal
from typing import Any

import redis
from billiard.exceptions import WorkerLostError

from tasks.protocol.chunk_args import from_args
from tasks.protocol.messages import Failure, FailureRecord
from tasks.protocol.seal import Sealer
from tasks.recovery.delivery_log import DeliveryLog
from tasks.transport.publish_answer import push_answer
from tasks.transport.resend_detached import send_once_more
from worker_config.errors import CeleriacError

logger = logging.getLogger(__name__)


def answer_for_child(
    client: redis.Redis, sealer: Sealer, exception: BaseException, args: Any, queue: str, ttl_seconds: int
) -> None:
    """Answer for a child that was killed, or was too slow."""
    try:
        message = from_args(args, queue, sealer)
        record = FailureRecord(message.start, message.stop, "worker", type(exception).__name__, str(exception)[:500])
        # With another policy the chunk comes again, and who runs it then decides.
        if message.on_error == "raise" and (row := DeliveryLog(client, sealer, message).read().judge(1)[1]):
            record = row
        if not send_once_more(client, message, queue, sealer):
            push_answer(client, Failure(message.job, message.index, "", record), ttl_seconds, sealer)
    except (CeleriacError, redis.RedisError, LookupError) as error:
        logger.error("cannot report a lost chunk: %s", error)


def is_stop(error: BaseException) -> bool:
    """Whether a child was asked to end, as all processes of a service may be: billiard then exits with this code."""
    return isinstance(error, SystemExit) and error.code == signal.SIGTERM - 256


def cause_of(error: BaseException) -> str:
    """Such as "the child that ran it was killed by signal 11 (SIGSEGV)", from Celery's and billiard's wordings."""
    if not isinstance(error, WorkerLostError):
        return f"the child that ran it ended by {type(error).__name__}({', '.join(map(str, error.args))})"
    if found := re.search(r"signal \d+( \(\w+\))?", str(error)):
        return f"the child that ran it was killed by {found[0]}"
    if found := re.search(r"exitcode (\d+)", str(error)):
        return f"the child that ran it ended with exit code {found[1]}"
    return f"the child that ran it died: {error}"
