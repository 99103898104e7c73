"""The client of an embedded system, and its wait for the system's children.

Redis is up --> children register, one by one --wait_until_ready--> LocalClient --close--> Redis and the worker end
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

from producer.client import Client
from producer.embedded.monitor import Monitor
from producer.requests.start_display import StartDisplay
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_all
from worker_config.errors import WorkerStartError
from worker_config.settings import Settings

_POLL_SECONDS = 0.05


class LocalClient(Client):
    """A client with a Redis and a worker of its own, which end with it.

    Args:
        settings: with the URL of that Redis.
        watch: as of `Client`.
        end: ends the two; called once, and keeps nothing of the client.
    """

    def __init__(self, settings: Settings, watch: Callable[[], None], end: Callable[[], None]) -> None:
        self._end = weakref.finalize(self, end)
        self._end.atexit = False  # `close` does it, after the jobs that still run
        super().__init__(settings=settings, watch=watch)

    def close(self) -> None:
        """As of `Client`; then Redis and the worker end. Harmless when done twice."""
        try:
            super().close()
        finally:
            self._end()

    def after_fork(self) -> None:
        """They are the parent's."""
        super().after_fork()
        self._end.detach()


def wait_until_ready(monitor: Monitor, url: str, workers: int, timeout_seconds: float, display: StartDisplay) -> None:
    """Until so many children have registered; the time counts anew with each step of what the worker prepares.

    Raises:
        ConfigError, ModelLoadError, WorkerStartError: Redis or the worker did not come up.
        BrokerError: Redis is gone again.
    """
    deadline = time.monotonic() + timeout_seconds
    redis_is_up, step = False, ""
    with connect(url) as client:
        while True:
            for event in monitor.events(_POLL_SECONDS):
                if "ended" in event:
                    raise monitor.start_error(event)
                redis_is_up = redis_is_up or event.get("up") == "redis"
            if redis_is_up:
                with broker_errors(url):
                    found, preparing, _ = read_all(client)
                if sum(map(len, found.values())) >= workers:
                    return
                if step != (step := "".join(one.step for one in preparing.values())):
                    deadline = time.monotonic() + timeout_seconds
            display.show(step or f"starting {'a worker' if redis_is_up else 'Redis'}")
            if time.monotonic() > deadline:
                raise WorkerStartError(
                    f"the worker's children were not ready after {timeout_seconds:.0f} seconds"
                    f"{f' of {step}' if step else ''}; give them longer with CELERIAC_LOAD_TIMEOUT_SECONDS"
                )
