"""Slots that wait for a store of objects, as their workers tell it, and what is said of them to who waits for a job.

facts of workers --waits_in--> StoreWait of each slot --of_job--> a line --WaitLine--> when it is said
                                                      --occupied_slots--> whether a copy would find one free
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tasks.protocol.records import WorkerFacts
from worker_config.retry_policy import STORE_TELL_SECONDS


@dataclass(frozen=True)
class StoreWait:
    """A slot that stands still with a chunk.

    Attributes:
        index: of the chunk.
        text: for which object, and why.
        seconds: for how long, when its worker told it.
    """

    worker: str
    slot: int
    job: str
    index: int
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"worker {self.worker} waits for {self.text}, for {self.seconds:.0f} s by now"


def waits_in(facts: Mapping[str, WorkerFacts]) -> list[StoreWait]:
    """All slots that wait, of workers by name."""
    return [
        StoreWait(worker, slot, one.job, one.index, one.waits, one.waits_seconds)
        for worker, told in facts.items()
        for slot, one in told.running.items()
        if one.waits
    ]


def occupied_slots(
    waits: Iterable[StoreWait], job: str, copies: Mapping[int, int], slots: Collection[tuple[str, int]]
) -> int:
    """How many of a job's slots, as worker and number, stand still, or will: a chunk that waits in one has its other
    copies wait in others, before their workers say so.

    Args:
        copies: of the job's open chunks by index, those on their way.
    """
    known = {(one.worker, one.slot): one for one in waits if (one.worker, one.slot) in slots}
    own = Counter(one.index for one in known.values() if one.job == job)
    return len(known) + sum(max(0, copies.get(index, 0) - count) for index, count in own.items())


def of_job(waits: Iterable[StoreWait], job: str) -> str:
    """The longest of a job's waits in words, and how many others there are; empty where there is none."""
    own = sorted((one for one in waits if one.job == job), key=lambda one: -one.seconds)
    if not own:
        return ""
    others = len(own) - 1
    return f"{own[0]}{f'; so do {others} other slots' if others > 1 else '; so does another slot' * others}"


class WaitLine:
    """What is said of a job's waits: at once, again while they go on, and when they are over."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def look(self, waits: str, now: float) -> str:
        """What to say now, as `of_job` has the waits; empty where nothing is to be said."""
        if not waits:
            was, self._said_at = self._said_at, None
            return "" if was is None else "goes on"
        if self._said_at is not None and now - self._said_at < STORE_TELL_SECONDS:
            return ""
        self._said_at = now
        return f"waits: {waits}"
