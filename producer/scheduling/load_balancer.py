"""Spreads a job's chunks over the queues of the workers that can run it.

    slots, by queue --> the queue with the fewest of the job's chunks in flight for each slot --> one chunk more there

Workers with one model set share a queue; those of another set that has the job's models too have another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from tasks.protocol.records import SlotRecord


class LoadBalancer:
    """The queues of one job, with the slots that take chunks from each, and the chunks that are in flight there.

    `is_up` tells whether a queue's server is; a queue of one that is not is chosen where there is no other.
    """

    def __init__(self, slots: Iterable[SlotRecord], is_up: Callable[[str], bool] = lambda _: True) -> None:
        self._is_up = is_up
        self._slots: Mapping[str, float] = {}
        self._in_flight: Counter[str] = Counter()
        self.update(slots)

    def update(self, slots: Iterable[SlotRecord], shares: Mapping[str, float] = MappingProxyType({})) -> None:
        """Take these slots from now on, or a share of them, by queue.

        No slots, as while a worker's only child is replaced, change nothing.
        """
        counts = Counter(slot.queue for slot in slots)
        self._slots = {queue: count * shares.get(queue, 1.0) for queue, count in counts.items()} or self._slots

    def choose(self) -> str:
        """The queue for one chunk, which then is in flight there; the larger one where several have as few."""
        queues = list(filter(self._is_up, self._slots)) or self._slots
        queue = min(queues, key=lambda name: (self._in_flight[name] + 1) / self._slots[name])
        self._in_flight[queue] += 1
        return queue

    def closed(self, queue: str) -> None:
        """Count a chunk out."""
        self._in_flight[queue] -= 1
