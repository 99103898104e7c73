"""What happens to whom and when, drawn from a seed; nothing here touches a process.

seed --> a way to run the job, and injuries, each at a moment: so many chunks predicted
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What may happen while a job runs."""

    CHILD_KILLED = "a child is killed"
    CHILD_STOPPED = "a child is stopped for a while"
    WORKER_KILLED = "a worker is killed with its children, another one starts"
    WORKER_STOPPED = "a worker is stopped with its children for a while"
    WORKER_LEAVES = "a worker is asked to end"
    WORKER_JOINS = "one more worker starts"
    REDIS_RESTARTED = "Redis is killed and comes back with its data"
    REDIS_EMPTIED = "Redis is killed and comes back empty"
    REDIS_STOPPED = "Redis is stopped for a while"
    CONNECTIONS_CUT = "Redis cuts all connections"
    SOME_CONNECTIONS_CUT = "Redis cuts some connections"
    ANSWER_DELAYED = "an answer comes later than others"
    ANSWER_DOUBLED = "an answer comes twice"
    PAYLOAD_LOST = "rows of a chunk are gone from where they were put"
    PRODUCER_KILLED = "the producer is killed, and started again with --resume"


# While one of these is not over, nothing else happens: they take away what other injuries need.
ALONE = frozenset({Kind.REDIS_RESTARTED, Kind.REDIS_EMPTIED, Kind.REDIS_STOPPED, Kind.PRODUCER_KILLED})
# One at a time, so that somebody works.
STOPS = frozenset({Kind.CHILD_STOPPED, Kind.WORKER_STOPPED})
# How often at most in one schedule: a chunk may kill so many children before its rows have failed; a start takes long.
_MOST = {Kind.CHILD_KILLED: 2, Kind.WORKER_KILLED: 2, Kind.WORKER_JOINS: 1, Kind.WORKER_LEAVES: 1}

CHUNKS = 400
# Moments lie between these parts of the job.
EARLIEST, LATEST = 0.03, 0.6
# Rows of a chunk that rides in its message, and of one that does not.
SMALL, LARGE = 16, 320


@dataclass(frozen=True)
class Injury:
    """One thing that happens.

    Attributes:
        moment: chunks that are predicted before it happens.
        pick: which of those that it may happen to, from 0 to 1.
        hold: chunks that are predicted until it is over, where it lasts.
    """

    kind: Kind
    moment: int
    pick: float
    hold: int

    def __str__(self) -> str:
        return f"after {self.moment} chunks {self.kind} ({self.pick:.2f}, {self.hold})"


@dataclass(frozen=True)
class Schedule:
    """A job and what happens to it.

    Attributes:
        by_command: whether `celeriac predict` runs it, or `Client.submit`.
        source: an array, a file, or an iterator that ends when all injuries are over.
        store: the way of the rows.
        chunk_rows: of each chunk.
    """

    seed: int
    by_command: bool
    source: str
    store: str
    chunk_rows: int
    injuries: tuple[Injury, ...]

    def __str__(self) -> str:
        way = "celeriac predict" if self.by_command else "Client.submit"
        lines = [f"seed {self.seed}: {way} of {self.source}, {self.store}, {self.chunk_rows} rows each"]
        return "\n  ".join([*lines, *map(str, self.injuries)])


def make_schedule(seed: int, injuries: int = 6) -> Schedule:
    """The schedule of a seed: always the same one."""
    draw = random.Random(seed)  # noqa: S311
    by_command = draw.random() < 0.3
    source = "file" if by_command else draw.choice(["array", "file", "iterator"])
    store = draw.choice(["redis", "redis", "files", "slices" if source == "file" else "redis"])
    chunk_rows = draw.choice([SMALL, LARGE])
    travels = chunk_rows == LARGE and store != "slices"
    kinds = _draw_kinds(draw, injuries, by_command, travels)
    moments = sorted(draw.sample(range(int(EARLIEST * CHUNKS), int(LATEST * CHUNKS)), injuries))
    drawn = (
        Injury(kind, moment, draw.random(), draw.randint(1, 6)) for kind, moment in zip(kinds, moments, strict=True)
    )
    return Schedule(seed, by_command, source, store, chunk_rows, tuple(drawn))


def _draw_kinds(draw: random.Random, count: int, by_command: bool, travels: bool) -> list[Kind]:
    possible = [kind for kind in Kind if kind is not Kind.PRODUCER_KILLED]
    if not travels:
        possible.remove(Kind.PAYLOAD_LOST)
    kinds = [Kind.PRODUCER_KILLED] if by_command else []
    while len(kinds) < count:
        kind = draw.choice(possible)
        if kinds.count(kind) < _MOST.get(kind, count):
            kinds.append(kind)
    draw.shuffle(kinds)
    return kinds
