"""To which shard a request goes: one whose workers hold its models, and where fewest wait for each of their slots.

names --asked of Redis once a second at most--> slots by shard --waiting requests--> a shard

Each shard has a client of requests of its own, which knows no other. With a single server there is nothing to choose.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from producer.broker.shards import name_of, shard_of
from producer.requests.targets import FRESH_SECONDS, Find
from tasks.protocol.records import ModelInfo, SlotRecord
from worker_config.broker import shard_urls

_Found = tuple[list[ModelInfo], list[SlotRecord]]


class ShardFinder:
    """What one client knows of the models' whereabouts; for several threads.

    Attributes:
        urls: of the shards.
    """

    urls: list[str]

    def __init__(self, url: str, find: Find) -> None:
        self.urls = shard_urls(url)
        self._find = find
        self._known: dict[tuple[str, ...], tuple[float, _Found]] = {}

    def on(self, shard: int) -> Find:
        """The same search, for the slots of one shard; it finds none where there are none."""
        if len(self.urls) == 1:
            return self._find

        def find(names: list[str], until: float | None) -> _Found:
            infos, slots = self._fresh(names, until)
            own = [slot for slot in slots if shard_of(slot.queue) == shard]
            return infos, [msgspec.structs.replace(slot, queue=name_of(slot.queue)) for slot in own]

        return find

    def known(self, names: Sequence[str]) -> Mapping[int, int] | None:
        """How many slots hold these models, by shard, if it was asked for a moment ago."""
        if len(self.urls) == 1:
            return {0: 1}
        at, found = self._known.get(tuple(names), (0.0, ([], [])))
        return Counter(shard_of(slot.queue) for slot in found[1]) if time.monotonic() < at else None

    def slots(self, names: Sequence[str], until: float | None = None) -> Mapping[int, int]:
        """The same, asked for now if need be.

        Raises:
            CeleriacError: as `Find` does.
        """
        known = self.known(names)
        return Counter(shard_of(slot.queue) for slot in self._fresh(names, until)[1]) if known is None else known

    def _fresh(self, names: Sequence[str], until: float | None) -> _Found:
        key = tuple(names)
        at, found = self._known.get(key, (0.0, ([], [])))
        if time.monotonic() >= at:
            found = self._find(list(names), until)
            self._known[key] = time.monotonic() + FRESH_SECONDS, found
        return found


def least_waiting(slots: Mapping[int, int], waiting: Callable[[int], int]) -> int:
    """The shard where the fewest requests wait for each slot; of several alike the one with most slots."""
    return min(slots, key=lambda shard: ((waiting(shard) + 1) / slots[shard], shard), default=0)
