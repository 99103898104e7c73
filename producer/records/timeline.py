"""What happens in a job while it runs, for `celeriac report`: nothing of it ever decides anything.

    chunks sent, answers taken, slots seen --Timeline--> entries, events, rows by time, slowest chunks

All of it is bounded. Above `MOST_ENTRIES` every second entry is left out, again and again, so that what is left is
spread evenly over the job; rows by time and the slowest chunks are of all answers.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
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

Kind = Literal["sent again", "came back", "duplicate", "slot gone", "slot came", "rows failed"]
# Stages that lie between a slot's last answer and the chunk.
_BEFORE = ("wait", "answer")


class Outcome(StrEnum):
    """What became of an answer."""

    JOINED = "joined"
    FAILED = "failed"  # joined as a failure, or the job ended by it
    RESEND = "again"  # its chunk is sent again
    DUPLICATE = "duplicate"  # another one had come before


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
    outcome: Outcome
    stages: dict[str, float]

    @property
    def seconds(self) -> float:
        """What the child had to do with the chunk, from its coming to the answer's leaving."""
        return sum(seconds for stage, seconds in self.stages.items() if stage not in _BEFORE)


def entry_of(answer: Answer, outcome: Outcome, sent_at: float, answered_at: float, times_sent: int) -> Entry:
    """The entry of an answer, with what it tells of itself."""
    rows = answer.record if isinstance(answer, Failure) else answer
    times = sent_at, answer.begun_at, answered_at
    return Entry(answer.index, rows.start, rows.stop, answer.slot, *times, times_sent, outcome, answer.stages)


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something out of the ordinary, when the producer noticed it; `slot` and `index` where it is about one."""

    at: float
    kind: Kind
    text: str
    slot: str = ""
    index: int | None = None


class TimelineSummary(msgspec.Struct):
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
        workers: what each one reports of itself; None where it has not.
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
        reported_count: how many of them Redis has; 0 where all must be written anew.
        summary: the rest; its bins and slowest chunks are those of the last `summarize`.
        up: the workers that were seen last.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.entries: list[Entry] = []
        self.reported_count: int = 0
        self.summary: TimelineSummary = TimelineSummary(clock())
        self.up: set[str] = set()
        self._clock = clock
        self._rows = RowsByTime()
        self._slowest: list[tuple[float, int, Entry]] = []
        self._pids: dict[str, int] | None = None

    def sent_again(self, index: int, why: str) -> None:
        """A chunk leaves once more."""
        self._note("sent again", why, index=index)

    def answered(self, answer: Answer, outcome: Outcome, sent_at: float = 0.0, times_sent: int = 0) -> None:
        """An answer was taken, to a chunk that was first sent then, and so often; 0 where it is not open any more."""
        now = self._clock()
        entry = entry_of(answer, outcome, sent_at, now, times_sent)
        self.summary.answers += 1
        if outcome is not Outcome.JOINED:
            self._note_outcome(answer, outcome)
        else:
            self._rows.add(now - self.summary.began_at, entry.stop - entry.start)
            keep = heapq.heappush if len(self._slowest) < MOST_SLOWEST else heapq.heappushpop
            keep(self._slowest, (entry.seconds, -self.summary.answers, entry))
        if answer.index % self.summary.every == 0:
            self.entries.append(entry)
            if len(self.entries) > MOST_ENTRIES:
                self._thin_out()

    def look(self, slots: Iterable[SlotRecord]) -> None:
        """Take note of the slots that can run the job now: children that are gone, and those in their place."""
        slots = list(slots)
        up = {f"{slot.worker}/{slot.slot}": slot.pid for slot in slots}
        counts = Counter(slot.worker for slot in slots)
        self.up = set(counts)
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
        for worker, count in counts.items():
            if len(self.summary.workers) < MOST_WORKERS:
                self.summary.workers.setdefault(worker, None)
            if worker in self.summary.workers:
                self.summary.slots[worker] = max(count, self.summary.slots.get(worker, 0))

    def doubt(self) -> None:
        """Redis may have lost all of it."""
        self.reported_count = 0

    def rows_by_time(self) -> tuple[float, list[int]]:
        """Seconds, and how many rows were joined in each such time so far; may be asked by any thread."""
        return self._rows.seconds, list(self._rows.bins)

    def summarize(self) -> TimelineSummary:
        """All but the entries, as it stands."""
        summary, rows = self.summary, self._rows
        summary.bin_seconds, summary.bins = rows.seconds, rows.bins
        summary.slowest = [entry for _, _, entry in sorted(self._slowest, reverse=True)]
        return summary

    def _note_outcome(self, answer: Answer, outcome: Outcome) -> None:
        text = str(answer.record) if isinstance(answer, Failure) else "its models are not the job's, or it is gone"
        if outcome is Outcome.DUPLICATE:
            self._note("duplicate", "answered before, dropped", answer.slot, answer.index)
        else:
            self._note("came back" if outcome is Outcome.RESEND else "rows failed", text, answer.slot, answer.index)

    def _note(self, kind: Kind, text: str, slot: str = "", index: int | None = None) -> None:
        if len(self.summary.events) < MOST_EVENTS:
            self.summary.events.append(Event(self._clock(), kind, text[:LONGEST_TEXT], slot, index))
        else:
            self.summary.more_events += 1

    def _thin_out(self) -> None:
        every = self.summary.every = 2 * self.summary.every
        self.entries = [entry for entry in self.entries if entry.index % every == 0][:MOST_ENTRIES]
        self.reported_count = 0


class RowsByTime:
    """Rows in `bins` of equal `seconds` since the beginning, which double their width when there are too many."""

    seconds: float

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.bins: list[int] = []

    def add(self, at_seconds: float, rows: int) -> None:
        """Count rows so long after the beginning."""
        place = max(0, int(at_seconds / self.seconds))
        while place >= MOST_BINS:
            self.bins = halved(self.bins)
            self.seconds *= 2
            place //= 2
        self.bins += [0] * (place + 1 - len(self.bins))
        self.bins[place] += rows


def halved(bins: list[int]) -> list[int]:
    """Half as many bins, each of the sum of two."""
    return [sum(bins[first : first + 2]) for first in range(0, len(bins), 2)]
