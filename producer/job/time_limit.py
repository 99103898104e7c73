"""Ends a job when its caller's time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from producer.job.job import Job
from worker_config.errors import JobCancelledError, RequestTimeoutError


@contextmanager
def time_limit(job: Job, until: float | None) -> Iterator[None]:
    """Cancel the job when `time.monotonic` is `until`; without limit where that is None.

    Raises:
        RequestTimeoutError: it was cancelled so.
    """
    if until is None:
        yield
        return
    timer = threading.Timer(max(0.0, until - time.monotonic()), job.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    except JobCancelledError as error:
        if time.monotonic() < until:
            raise
        raise RequestTimeoutError(f"the time limit was up: {error}") from None
    finally:
        timer.cancel()
