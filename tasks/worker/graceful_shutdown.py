"""Ends a worker that is asked to, by SIGTERM: what runs is finished, the rest is handed back at once.

Celery's own ways will not do. A warm end runs what was fetched beforehand too, without a bound. A cold one
(REMAP_SIGTERM=SIGQUIT) sleeps for all of `worker_soft_shutdown_timeout` in its signal handler, without a look at what
has finished, and with all that was fetched beforehand in its hands.
"""

from __future__ import annotations

import atexit
import logging
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery.worker import state

from tasks.transport.run_folder import draining_path

logger = logging.getLogger(__name__)

LOOK_FOR_CONNECTION_SECONDS = 1.0


class GracefulShutdown:
    """The end of one worker, in steps of its event loop: `begin` is the signal's handler, `look` is called often.

    `folder` is its run folder, in which children see that they take no more requests.
    """

    def __init__(self, controller: Any, folder: Path) -> None:
        self._controller = controller
        self._folder = folder
        self._asked = False
        self._deadline: float | None = None

    def begin(self, *_: object) -> None:
        """Ask for the end; a handler may do no more, since it may have interrupted anything.

        Without a connection there is nobody to hand back to, and no event loop; a second signal is for the impatient.
        """
        again, self._asked = self._asked, True
        if again or getattr(self._controller.consumer, "connection", None) is None:
            state.should_stop = 0
            return
        # In this very moment the connection may be lost, and with it the event loop that would look.
        signal.signal(signal.SIGALRM, self._look_for_connection)
        signal.setitimer(signal.ITIMER_REAL, LOOK_FOR_CONNECTION_SECONDS, LOOK_FOR_CONNECTION_SECONDS)
        # Python gives the signal back to the system at its end, which would kill the process; also by one that waits.
        atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)

    def _look_for_connection(self, *_: object) -> None:
        if getattr(self._controller.consumer, "connection", None) is None:
            state.should_stop = 0

    def look(self) -> None:
        """Hand back, once; then wait for what runs, and stop it at the deadline."""
        if not self._asked:
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + self._controller.app.conf.worker_soft_shutdown_timeout
            with suppress(OSError):
                draining_path(self._folder).touch()
            hand_back(self._controller)
        if state.active_requests and time.monotonic() < self._deadline:
            return
        for request in list(state.active_requests):
            # Not acknowledged: it goes back to its queue when the connection ends. A graph that runs minds no SIGTERM.
            request.cancel(self._controller.pool, signal="SIGKILL", emit_retry=False)
        state.should_stop = 0


def hand_back(controller: Any) -> None:
    """Take no more chunks, and give back those that no child has begun."""
    try:
        _hand_back(controller)
    except (OSError, AttributeError, *controller.consumer.connection_errors) as error:
        logger.warning("cannot hand back chunks; Redis gives them back later: %s", error)


def _hand_back(controller: Any) -> None:
    waiting = set(state.reserved_requests) - set(state.active_requests)
    # First, or they would come back here.
    controller.consumer.task_consumer.cancel()
    # Those that wait for a child are in the one, those on their way to one in the other.
    controller.semaphore.clear()
    controller.pool.flush()
    for request in waiting:
        request.message.channel.qos.give_back(request.message.delivery_tag)
        request.reject(requeue=True)  # Celery forgets the chunk
