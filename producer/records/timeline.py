"""This module notes what happens in a job while it runs, for `celeriac report`: nothing of it ever decides anything.

    chunks sent, answers taken, slots seen --Timeline--> entries, events, rows by time, slowest chunks

All of it is bounded. Above `MOST_ENTRIES` every second entry is left out, again and again, so that what is left is
spread evenly over the job; rows by time and the slowest chunks are of all answers.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from tasks.protocol.messages import Answer, Failure
from tasks.protocol.records import ModelInfo, SlotRecord, WorkerFacts

MOST_ENTRIES = 20_000
MOST_EVENTS = 1_000
MOST_SLOWEST = 20
MOST_BINS = 400
MOST_WORKERS = 200
LONGEST_TEXT = 300

# Of an answer: joined; joined as a failure; its chunk was sent again; dropped, as another one had come before.
Fate = Literal["joined", "failed", "again", "duplicate"]
Kind = Literal["sent again", "came back", "duplicate", "slot gone", "slot came", "rows failed"]
# Stages that lie between a slot's last answer and the chunk.
_BEFORE = ("wait", "answer")


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer that was taken.

    Attributes:
        slot: as WORKER/NUMBER; empty where the worker answered for a child that died.
        sent_at, answered_at: by the producer's clock, Unix seconds; 0 where it is not known.
        begun_at: by the worker's clock; 0 where it is not known.
        times_sent: how often the chunk was sent until then.
        stages: the child's seconds since its last answer, by stage.
    """

    index: int
    start: int
    stop: int
    slot: str
    sent_at: float
    begun_at: float
    answered_at: float
    times_sent: int
    fate: Fate
    stages: dict[str, float]

    @property
    def seconds(self) -> float:
        """What the child had to do with the chunk, from its coming to the answer's leaving."""
        return sum(seconds for stage, seconds in self.stages.items() if stage not in _BEFORE)


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something out of the ordinary, when the producer noticed it; `slot` and `index` where it is about one."""

    at: float
    kind: Kind
    text: str
    slot: str = ""
    index: int | None = None


class Story(msgspec.Struct, frozen=True):
    """What is known of a whole job besides its entries.

    Attributes:
        began_at: Unix seconds.
        every: of so many chunks one is among the entries.
        answers: how many were taken.
        bin_seconds, bins: rows that were joined in each such time since the beginning.
        slowest: of all joined entries, the slowest first.
        more_events: how many there were beyond `events`.
        settings: how the job was done, for people, by name.
        models: as the workers described them at its beginning.
        versions: the producer's own, and Redis's.
        workers: what each one tells of itself; None where it has not.
        slots: how many each worker had at most.
    """

    began_at: float
    every: int = 1
    answers: int = 0
    bin_seconds: float = 0.0
    bins: list[int] = []
    slowest: list[Entry] = []
    events: list[Event] = []
    more_events: int = 0
    settings: dict[str, str] = {}
    models: list[ModelInfo] = []
    versions: dict[str, str] = {}
    workers: dict[str, WorkerFacts | None] = {}
    slots: dict[str, int] = {}


class Timeline:
    """What happens in one job; used by its thread.

    Attributes:
        entries: of the answers so far, thinned out.
        told: how many of them Redis has; 0 where all must be written anew.
        settings, models, versions, workers: as in `Story`.
        up: the workers that were seen last.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.entries: list[Entry] = []
        self.told = 0
        self.settings: dict[str, str] = {}
        self.models: list[ModelInfo] = []
        self.versions: dict[str, str] = {}
        self.workers: dict[str, WorkerFacts | None] = {}
        self.up: set[str] = set()
        self._clock = clock
        self._began_at = clock()
        self._every, self._answers = 1, 0
        self._rows = RowsByTime()
        self._slowest: list[tuple[float, int, Entry]] = []
        self._events: list[Event] = []
        self._more_events = 0
        # Of open chunks: when first, and how often.
        self._sent: dict[int, tuple[float, int]] = {}
        self._pids: dict[str, int] | None = None
        self._slots: dict[str, int] = {}

    def sent(self, index: int) -> None:
        """A chunk leaves for the first time."""
        self._sent[index] = self._clock(), 1

    def sent_again(self, index: int, why: str) -> None:
        """A chunk leaves once more."""
        at, times = self._sent.get(index, (self._clock(), 1))
        self._sent[index] = at, times + 1
        self._note("sent again", why, index=index)

    def answered(self, answer: Answer, *, is_open: bool) -> None:
        """An answer was taken; `is_open` if its chunk still is."""
        sent_at, times = self._sent.get(answer.index, (0.0, 0))
        fate: Fate = "duplicate" if not sent_at else "again" if is_open else "joined"
        rows = answer.record if isinstance(answer, Failure) else answer
        if isinstance(answer, Failure) and fate == "joined":
            fate = "failed"
        now = self._clock()
        entry = Entry(
            answer.index,
            rows.start,
            rows.stop,
            answer.slot,
            sent_at,
            answer.begun_at,
            now,
            times,
            fate,
            answer.stages,
        )
        self._answers += 1
        if fate != "joined":
            self._tell(answer, fate)
        if not is_open:
            self._sent.pop(answer.index, None)
        if fate == "joined":
            self._rows.add(now - self._began_at, rows.stop - rows.start)
            keep = heapq.heappush if len(self._slowest) < MOST_SLOWEST else heapq.heappushpop
            keep(self._slowest, (entry.seconds, -self._answers, entry))
        if answer.index % self._every == 0:
            self.entries.append(entry)
            if len(self.entries) > MOST_ENTRIES:
                self._thin_out()

    def look(self, slots: Iterable[SlotRecord]) -> None:
        """Take note of the slots that can run the job now: children that are gone, and those in their place."""
        slots = list(slots)
        up = {f"{slot.worker}/{slot.slot}": slot.pid for slot in slots}
        self.up = {slot.worker for slot in slots}
        before = up if self._pids is None else self._pids
        for slot, pid in before.items():
            if up.get(slot) != pid:
                others = slot.rpartition("/")[0] in self.up
                why = f"child {pid} is gone" if others else "its worker is gone, or takes no more chunks"
                self._note("slot gone", why, slot)
        for slot, pid in up.items():
            if before.get(slot) != pid:
                self._note("slot came", f"child {pid} takes chunks", slot)
        self._pids = up
        for worker in self.up:
            if len(self.workers) < MOST_WORKERS:
                self.workers.setdefault(worker, None)
            if worker in self.workers:
                count = sum(slot.worker == worker for slot in slots)
                self._slots[worker] = max(count, self._slots.get(worker, 0))

    def doubt(self) -> None:
        """Redis may have lost all of it."""
        self.told = 0

    def story(self) -> Story:
        """All but the entries, as it stands."""
        return Story(
            began_at=self._began_at,
            every=self._every,
            answers=self._answers,
            bin_seconds=self._rows.seconds,
            bins=self._rows.bins,
            slowest=[entry for _, _, entry in sorted(self._slowest, reverse=True)],
            events=self._events,
            more_events=self._more_events,
            settings=self.settings,
            models=self.models,
            versions=self.versions,
            workers=self.workers,
            slots=self._slots,
        )

    def _tell(self, answer: Answer, fate: Fate) -> None:
        text = str(answer.record) if isinstance(answer, Failure) else "its models are not the job's, or it is gone"
        if fate == "duplicate":
            self._note("duplicate", "answered before, dropped", answer.slot, answer.index)
        else:
            self._note("came back" if fate == "again" else "rows failed", text, answer.slot, answer.index)

    def _note(self, kind: Kind, text: str, slot: str = "", index: int | None = None) -> None:
        if len(self._events) < MOST_EVENTS:
            self._events.append(Event(self._clock(), kind, text[:LONGEST_TEXT], slot, index))
        else:
            self._more_events += 1

    def _thin_out(self) -> None:
        self._every *= 2
        self.entries = [entry for entry in self.entries if entry.index % self._every == 0][:MOST_ENTRIES]
        self.told = 0


class RowsByTime:
    """Rows in bins of equal time, which double their width when there are too many.

    Attributes:
        seconds: of a bin.
        bins: rows in each, the first one from the beginning on.
    """

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.bins: list[int] = []

    def add(self, at_seconds: float, rows: int) -> None:
        """Count rows so long after the beginning."""
        place = max(0, int(at_seconds / self.seconds))
        while place >= MOST_BINS:
            self.bins = [sum(self.bins[first : first + 2]) for first in range(0, len(self.bins), 2)]
            self.seconds *= 2
            place //= 2
        self.bins += [0] * (place + 1 - len(self.bins))
        self.bins[place] += rows
