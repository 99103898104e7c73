"""A job's answers laid out in time: what each slot did when, in seconds since the job began.

    entries --clocks put right--> begin of each chunk --stages, one after the other--> bars of its slot's lane

Where there are too many chunks to be told apart, neighbours in a lane are drawn together, and no second is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from producer.records.timeline import Entry

KINDS = {
    "waiting": ("wait",),
    "reading": ("fetch", "decode", "model"),
    "computing": ("preprocess", "infer", "postprocess"),
    "writing": ("encode", "store", "answer"),
}
# A child accounts for all of its seconds: what is missing in a lane went with a child that died, or to another job.
AWAY = "away"
# Clocks are not that exact.
LEAST_AWAY_SECONDS = 0.01
# A chunk does not stand for a longer time than so many others would.
MOST_LONGER = 10
# A lane's stages in the order in which they pass: first those between the answer before and this chunk.
_ORDER = (
    ("writing", ("answer",)),
    ("waiting", KINDS["waiting"]),
    ("reading", KINDS["reading"]),
    ("computing", KINDS["computing"]),
    ("writing", ("encode", "store")),
)
# More would take a browser seconds.
MOST_GROUPS = 2_000


@dataclass(frozen=True)
class Bar:
    """Time in which a slot did one kind of work, for one chunk or several neighbours; `AWAY`: that before it."""

    slot: str
    kind: str
    start: float
    seconds: float
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Span:
    """A chunk in seconds since the job began: with a child from `begun` to `done`; `sent` is None if not known."""

    entry: Entry
    sent: float | None
    begun: float
    done: float


def spans_of(entries: Iterable[Entry], began_at: float) -> list[Span]:
    """The chunks that a child ran, in the order in which they began."""
    executed = [entry for entry in entries if entry.begun_at]
    shifts = clock_shifts(executed)
    spans = []
    for entry in executed:
        begun = entry.begun_at + shifts[worker_of(entry.slot)] - began_at
        sent = entry.sent_at - began_at if entry.sent_at else None
        spans.append(Span(entry, sent, begun, begun + entry.seconds))
    return sorted(spans, key=lambda span: span.begun)


def clock_shifts(entries: Sequence[Entry]) -> dict[str, float]:
    """Seconds to add to the times of each worker, so that they agree with the producer's clock.

    None, as long as no chunk began before it was sent or was answered before it was done; else the least that helps.
    """
    least: defaultdict[str, float] = defaultdict(lambda: float("-inf"))
    most: defaultdict[str, float] = defaultdict(lambda: float("inf"))
    for entry in entries:
        worker = worker_of(entry.slot)
        if entry.sent_at:
            least[worker] = max(least[worker], entry.sent_at - entry.begun_at)
        most[worker] = min(most[worker], entry.answered_at - entry.begun_at - entry.seconds)
    return {worker: min(max(0.0, least[worker]), most[worker]) for worker in most}


def bars_of(spans: Sequence[Span], every: int = 1, most_groups: int = MOST_GROUPS) -> list[Bar]:
    """The lanes of all slots, bar by bar, and what is missing in between; of so many groups of chunks, or fewer.

    Of so many chunks one is among the spans: where that is not each one, it stands for those up to the next one.
    """
    by_slot: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_slot[span.entry.slot].append(span)
    together = -(-len(spans) // most_groups)
    bars: list[Bar] = []
    for slot, own in by_slot.items():
        groups = [_laid_out(slot, own[first : first + together]) for first in range(0, len(own), together)]
        groups = [group for group in groups if group]
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            bars += _joined(group, following[0], every) if following else group
    return bars


def _joined(group: list[Bar], following: Bar, every: int) -> list[Bar]:
    """A group of bars, and what is between it and the bar that follows."""
    start, end = group[0].start, group[-1].start + group[-1].seconds
    gap = following.start - end
    if every == 1:
        away = Bar(group[0].slot, AWAY, end, gap, following.entries[:1])
        return [*group, away] if gap > LEAST_AWAY_SECONDS else group
    longer = (following.start - start) / (end - start)
    if not 1 < longer < MOST_LONGER * every:
        return group
    return [replace(bar, start=start + (bar.start - start) * longer, seconds=bar.seconds * longer) for bar in group]


def worker_of(slot: str) -> str:
    """The worker of a slot that is written as WORKER/NUMBER."""
    return slot.rpartition("/")[0]


def short_names(slots: Iterable[str]) -> dict[str, str]:
    """A name for each slot that people can read: without the token that tells workers of one host apart, if it can."""
    names: dict[str, str] = {}
    for slot in sorted(slots):
        worker, _, number = slot.rpartition("/")
        name = f"{worker.rpartition(':')[0] or worker}/{number}"
        names[slot] = slot if name in names.values() else name
    return names


def _laid_out(slot: str, spans: Sequence[Span]) -> list[Bar]:
    entries = tuple(span.entry for span in spans)
    # A slot that waited before the job began did not wait for it; what it did before that was for another one.
    waits = [min(span.entry.stages.get("wait", 0.0), max(0.0, span.begun)) for span in spans]
    answers = [entry.stages.get("answer", 0.0) for entry in entries]
    if waits[0] < entries[0].stages.get("wait", 0.0):
        answers[0] = 0.0
    before = {"wait": sum(waits), "answer": sum(answers)}
    at, bars = spans[0].begun - waits[0] - answers[0], []
    for kind, stages in _ORDER:
        own = sum(entry.stages.get(stage, 0.0) for entry in entries for stage in stages if stage not in before)
        seconds = own + sum(before.get(stage, 0.0) for stage in stages)
        if seconds > 0:
            bars.append(Bar(slot, kind, at, seconds, entries))
            at += seconds
    return bars
