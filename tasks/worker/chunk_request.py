"""A chunk as a worker's main process sees it: it notes why a child died, before Celery acts on it.

child died, or was too slow --cause--> Redis, for whoever runs the chunk next --> Celery: again, or a failure

A chunk whose rows that kill are to be found is not sent again by Celery: its producer does it, which knows of other
copies that are on their way.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request

from tasks.protocol.chunk_args import from_args
from tasks.protocol.messages import OnError
from tasks.recovery import child_death
from tasks.recovery.delivery_log import DeliveryLog
from tasks.recovery.poison_rows import ChildDeath
from tasks.telemetry.logs import about
from tasks.worker.main_process import main_process
from worker_config.errors import CeleriacError

logger = logging.getLogger(__name__)


class ChunkRequest(Request):  # type: ignore[misc]
    """A chunk as a worker's main process sees it."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Note why the child died, before the chunk is sent again."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, TimeLimitExceeded):
            return None  # `on_timeout` comes next, and would answer a second time
        stopped = self._already_cancelled or self._already_revoked
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt) and not stopped:
            stop = child_death.is_stop(error)
            on_error = self._record_death("" if stop else "WorkerLostError", child_death.cause_of(error))
            if on_error != "raise" and not stop:
                self._context.retries = self.task.max_retries
        with about(self.argsrepr):
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Note that the child took too long, before it is killed."""
        if not soft:
            self._record_death("TimeLimitExceeded", f"ran longer than {timeout:g} s", timeout)
        # Unlike with other failures Celery does not say which request it is.
        self.task.push_request(delivery_info=self.delivery_info)
        try:
            with about(self.argsrepr):
                super().on_timeout(soft, timeout)
        finally:
            self.task.pop_request()

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Note that the child is stopped for no fault of its rows."""
        self._record_death("", "the worker was stopped")
        super().cancel(pool, signal=signal, emit_retry=emit_retry)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """For `inspect active` and Flower: the arguments in words, since they may hold 64 KiB of rows."""
        return dict(super().info(safe=True))

    def _record_death(self, error_type: str, text: str, limit_seconds: float = 0.0) -> OnError:
        """Note it, and give what a row that fails does to the chunk's job."""
        main = main_process(self._app)
        if main is None:
            return "raise"
        death = ChildDeath(main.worker, self.worker_pid or 0, error_type, text, time.monotonic(), limit_seconds)
        try:
            message = from_args(self.args, self.delivery_info["routing_key"], main.sealer)
            DeliveryLog(main.client, main.sealer, message).record_death(death)
            return message.on_error
        except (CeleriacError, redis.RedisError, LookupError) as error:
            logger.error("cannot note why a child died: %s", error)
            return "raise"
