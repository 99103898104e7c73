"""What takes long --every ten seconds--> a line that says how far it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from worker_config.retry_policy import STORE_TELL_SECONDS

logger = logging.getLogger(__name__)
T = TypeVar("T")


def told(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items; `what` is done with them, as "s3://rows/: objects listed", and is told with how many by now."""
    began = last = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - last >= STORE_TELL_SECONDS:
            last = now
            of = "" if total is None else f" of {total:,}"
            logger.warning("%s: %s%s so far, in %d s", what, f"{number:,}", of, now - began)
        yield item
