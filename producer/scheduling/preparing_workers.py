"""Workers that prepare their models, and have no slot yet: which one to wait for, and what is told of it.

Redis --read_preparing--> Awaited --> a line in the log now and then; what was seen, for the error if the worker goes
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from tasks.protocol.preparing import Preparing
from worker_config.foreign_errors import some_of

logger: logging.Logger = logging.getLogger(__name__)

# Of many models, in a line.
MOST_NAMED = 5
# What is told at first has taken so long, as most workers are up soon; then what is new, and what still goes on.
TELL_AFTER_SECONDS, TELL_NEW_SECONDS, TELL_AGAIN_SECONDS = 2.0, 5.0, 30.0
# What was told last of each worker, and when by `time.monotonic`: many threads may wait for the same one.
_told: dict[str, tuple[str, float]] = {}


class Awaited:
    """Models that no slot holds, and the worker that will hold them.

    Args:
        models: what their digests begin with, by name; an empty text where any version will do.
        for_whom: begins the line that is told, as "job 3f2a1b waits: "; empty before there is a job.
    """

    def __init__(self, models: Mapping[str, str], for_whom: str = "") -> None:
        self._models, self._for_whom = models, for_whom
        self._was = ""
        self._since = time.monotonic()

    def look(self, workers: Mapping[str, Preparing]) -> bool:
        """Whether one of these workers will hold all of the models; where one will, that is told now and then."""
        found = will_hold(self._models, workers)
        if found is None:
            self._since = time.monotonic()
            return False
        worker, preparing = found
        self._was = in_words(worker, preparing)
        now, (text, at) = time.monotonic(), _told.get(worker, ("", -math.inf))
        pause = TELL_AGAIN_SECONDS if text == preparing.step else TELL_NEW_SECONDS
        if now - self._since > TELL_AFTER_SECONDS and now - at > pause:
            _told[worker] = (preparing.step, now)
            logger.warning("%s%s", self._for_whom, self._was)
        return True

    def seen(self, workers: Mapping[str, Preparing]) -> str:
        """What to end an error with: the workers that prepare, and the one that did and is gone."""
        words = [in_words(worker, preparing) for worker, preparing in sorted(workers.items())][:MOST_NAMED]
        if self._was and will_hold(self._models, workers) is None:
            words.append(f"one that was to hold them is gone: {self._was}")
        return "".join(f"; {text}" for text in words)


def will_hold(models: Mapping[str, str], workers: Mapping[str, Preparing]) -> tuple[str, Preparing] | None:
    """Of the workers that will hold all of these models, the one that began first; `models` are as of `Awaited`."""

    def holds(theirs: Mapping[str, str]) -> bool:
        # Theirs are not known before they have read the files.
        return all(name in theirs and (theirs[name] or digest).startswith(digest) for name, digest in models.items())

    holders = [(worker, one) for worker, one in workers.items() if holds(one.models)]
    return min(holders, key=lambda holder: holder[1].since, default=None)


def in_words(worker: str, preparing: Preparing) -> str:
    """A worker, its models, what it does and how far it is."""
    names = some_of(preparing.models, MOST_NAMED)
    return f"worker {worker.rpartition(':')[0] or worker} is preparing {names}: {preparing.in_words(time.time())}"
