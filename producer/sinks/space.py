"""What is written beside files of workers, as a journal is, waits for room on the disk as these do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tasks.transport.output_folder import no_space
from worker_config.files import is_full
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS, REFUSED_WAIT_SECONDS, STORE_BACKOFF_SECONDS

logger = logging.getLogger(__name__)


def when_there_is_room(path: Path, write: Callable[[], None]) -> None:
    """Write once there is room beside `path`, with pauses that grow; `write` leaves nothing where it raises.

    Raises:
        OSError: there was none for long, or it is another one.
    """
    since, pause = time.monotonic(), LEAST_BACKOFF_SECONDS
    while True:
        try:
            write()
        except OSError as error:
            if not is_full(error) or time.monotonic() - since > REFUSED_WAIT_SECONDS:
                raise
            if pause == LEAST_BACKOFF_SECONDS:
                logger.warning("%s; waiting", no_space(path.parent))
            time.sleep(pause)
            pause = min(2 * pause, STORE_BACKOFF_SECONDS)
        else:
            return
