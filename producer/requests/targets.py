"""Where requests for a model go: the version and the queue that most slots serve, asked of Redis once a second at most.

names --Client's search--> models, slots --> Target, for a second
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.protocol import keys
from tasks.protocol.records import ModelInfo, SlotRecord

FRESH_SECONDS = 1.0

# By names, and when the caller's time is up, by `time.monotonic`.
Find = Callable[[list[str], float | None], tuple[list[ModelInfo], list[SlotRecord]]]


@dataclass(frozen=True)
class Target:
    """A model's version, and who serves it.

    Attributes:
        infos: the models, of which only a single one is a target for requests.
        queue: of the model set whose workers take requests for it; empty where there are none.
        lists: where requests to this queue can be in Redis.
        slots: how many children take from it.
    """

    infos: list[ModelInfo]
    queue: str
    lists: list[str]
    slots: int
    until: float

    def wait_seconds(self, waiting: int, rows: int) -> float | None:
        """How long a request would wait behind others of as many rows; None where nobody knows."""
        info = self.infos[0]
        if not info.batch_seconds:
            return None
        return waiting * rows / info.batch_rows * info.batch_seconds / max(1, self.slots)


class Targets:
    """What is known of the models' whereabouts."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._known: dict[tuple[str, ...], Target] = {}

    def known(self, names: Sequence[str]) -> Target | None:
        """The same, if it was asked for a moment ago."""
        known = self._known.get(tuple(names))
        return known if known is not None and time.monotonic() < known.until else None

    def of(self, names: Sequence[str], until: float | None = None, *, anew: bool = False) -> Target:
        """Where requests for these models go; `until` when a worker that prepares them is waited for.

        Raises:
            RequestTimeoutError: it still does.
            UnknownModelError, NoWorkerError: no worker holds them.
            BrokerError: Redis cannot be reached.
        """
        if not anew and (known := self.known(names)) is not None:
            return known
        infos, slots = self._find(list(names), until)
        own = [
            slot
            for slot in slots
            if {(one.name, one.digest) for one in infos} <= {(one.name, one.digest) for one in slot.models}
        ]
        queues = [slot.queue for slot in own]
        queue = max(queues, key=queues.count, default="")
        takers = [slot for slot in own if slot.queue == queue]
        lists = [keys.requests(queue), *(keys.taken(slot.worker, slot.slot) for slot in takers)]
        target = Target(infos, queue, lists, len(takers), time.monotonic() + FRESH_SECONDS)
        self._known[tuple(names)] = target
        return target
