"""What happens to whom and when, drawn from a seed; nothing here touches a process.

seed --> a way to run the job, and injuries, each at a moment: so many chunks predicted

There are three sets of schedules, each with seeds from 0 on and a generator of its own. The first has the kinds of
injuries that it has had from the beginning, so that a seed that failed once still means what it meant. The wider set
draws half of its injuries from WIDER, kinds that came later, in a `WideArena`; the guarded set half from FAILOVERS, in
a `GuardedArena`. A kind that is new belongs to none of them, as it would change what their seeds mean: it makes a set.
"""

from __future__ import annotations

import random
from collections.abc import Collection
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
    PRODUCER_STOPPED = "the producer is stopped for a while"
    REDIS_FULL = "Redis has no memory left for a while"
    DISK_FULL = "the disk of payloads is full for a while"
    CLOCK_STEPPED = "the wall clock of a worker steps, and steps back"
    LINK_SLOW = "all that passes between Redis and the others takes longer for a while"
    LINK_THROTTLED = "few bytes a second pass between Redis and the others for a while"
    MESSAGES_CUT = "connections to Redis end in the middle of a message"
    PRIMARY_KILLED = "the primary is killed, and Sentinels make its replica the primary"
    PRIMARY_LEAVES = "Sentinels are asked to make the replica the primary"
    PRIMARY_STALE = "the primary is stopped, another one takes its place, and it comes back with what it had"
    PRIMARY_DEMOTED = "the primary is made a replica, and everybody stays connected to it"


WIDER = frozenset(
    {
        Kind.PRODUCER_STOPPED,
        Kind.REDIS_FULL,
        Kind.DISK_FULL,
        Kind.CLOCK_STEPPED,
        Kind.LINK_SLOW,
        Kind.LINK_THROTTLED,
        Kind.MESSAGES_CUT,
    }
)

FAILOVERS = frozenset({Kind.PRIMARY_KILLED, Kind.PRIMARY_LEAVES, Kind.PRIMARY_STALE, Kind.PRIMARY_DEMOTED})
# What concerns the one server of the other sets.
_OF_ONE_REDIS = frozenset({Kind.REDIS_RESTARTED, Kind.REDIS_EMPTIED, Kind.REDIS_STOPPED})
# While one of these is not over, nothing else happens: they take away what other injuries need.
ALONE = frozenset(
    {
        Kind.REDIS_RESTARTED,
        Kind.REDIS_EMPTIED,
        Kind.REDIS_STOPPED,
        Kind.REDIS_FULL,
        Kind.PRODUCER_KILLED,
        Kind.PRODUCER_STOPPED,
        *FAILOVERS,
    }
)
# One at a time, so that somebody works.
STOPS = frozenset({Kind.CHILD_STOPPED, Kind.WORKER_STOPPED})
# How often at most in one schedule: a chunk may kill so many children before its rows have failed; a start takes long.
_MOST = {Kind.CHILD_KILLED: 2, Kind.WORKER_KILLED: 2, Kind.WORKER_JOINS: 1, Kind.WORKER_LEAVES: 1}
_MOST |= dict.fromkeys(WIDER, 1)  # two of a kind at once would end together

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
        output: how the name of a command's output ends, a `/` for a folder that workers write.
        of: the set that it is of.
    """

    seed: int
    by_command: bool
    source: str
    store: str
    chunk_rows: int
    injuries: tuple[Injury, ...]
    output: str = ".npy"
    of: str = ""

    def __str__(self) -> str:
        way = f"celeriac predict -o {self.output}" if self.by_command else "Client.submit"
        which = f"seed {self.seed}" + f" of the {self.of} schedules" * bool(self.of)
        lines = [f"{which}: {way} of {self.source}, {self.store}, {self.chunk_rows} rows each"]
        return "\n  ".join([*lines, *map(str, self.injuries)])


def make_schedule(seed: int, injuries: int = 6) -> Schedule:
    """The schedule of a seed: always the same one."""
    draw = random.Random(seed)  # noqa: S311
    by_command = draw.random() < 0.3
    source = "file" if by_command else draw.choice(["array", "file", "iterator"])
    store = draw.choice(["redis", "redis", "files", "slices" if source == "file" else "redis"])
    chunk_rows = draw.choice([SMALL, LARGE])
    kinds = _draw_kinds(draw, injuries, by_command, _possible(store, chunk_rows) - WIDER)
    return Schedule(seed, by_command, source, store, chunk_rows, _draw_injuries(draw, kinds))


def make_wider_schedule(seed: int, injuries: int = 6) -> Schedule:
    """The schedule of the wider set that a seed has there: always the same one."""
    draw = random.Random(f"wider {seed}")  # noqa: S311
    by_command = draw.random() < 0.5
    source = "file" if by_command else draw.choice(["array", "file", "iterator"])
    store = draw.choice(["redis", "files", "files", "slices" if source == "file" else "redis"])
    chunk_rows = draw.choice([SMALL, LARGE, LARGE])
    possible = _possible(store, chunk_rows) - (frozenset() if by_command else {Kind.PRODUCER_STOPPED})
    kinds = _draw_kinds(draw, injuries // 2, by_command, possible - WIDER)
    kinds += _draw_kinds(draw, injuries - len(kinds), False, possible & WIDER)
    draw.shuffle(kinds)
    return Schedule(seed, by_command, source, store, chunk_rows, _draw_injuries(draw, kinds), of="wider")


def make_guarded_schedule(seed: int, injuries: int = 4) -> Schedule:
    """The schedule of the guarded set that a seed has there: always the same one."""
    draw = random.Random(f"guarded {seed}")  # noqa: S311
    by_command = draw.random() < 0.3
    source = "file" if by_command else draw.choice(["array", "file", "iterator"])
    store = draw.choice(["redis", "redis", "files"])
    chunk_rows = draw.choice([SMALL, LARGE])
    kinds = _draw_kinds(draw, injuries // 2, by_command, _possible(store, chunk_rows) - WIDER - _OF_ONE_REDIS)
    kinds += _draw_kinds(draw, injuries - len(kinds), False, FAILOVERS)
    draw.shuffle(kinds)
    return Schedule(seed, by_command, source, store, chunk_rows, _draw_injuries(draw, kinds), of="guarded")


def _possible(store: str, chunk_rows: int) -> frozenset[Kind]:
    """What may happen to a job whose rows go this way, but for the end of its producer, and failovers."""
    possible = set(Kind) - {Kind.PRODUCER_KILLED} - FAILOVERS
    if chunk_rows != LARGE or store == "slices":
        possible.remove(Kind.PAYLOAD_LOST)
    if chunk_rows != LARGE or store != "files":
        possible.remove(Kind.DISK_FULL)
    return frozenset(possible)


def _draw_injuries(draw: random.Random, kinds: list[Kind]) -> tuple[Injury, ...]:
    moments = sorted(draw.sample(range(int(EARLIEST * CHUNKS), int(LATEST * CHUNKS)), len(kinds)))
    return tuple(
        Injury(kind, moment, draw.random(), draw.randint(1, 6)) for kind, moment in zip(kinds, moments, strict=True)
    )


def _draw_kinds(draw: random.Random, count: int, by_command: bool, among: Collection[Kind]) -> list[Kind]:
    possible = [kind for kind in Kind if kind in among]
    kinds = [Kind.PRODUCER_KILLED] if by_command else []
    while len(kinds) < count:
        kind = draw.choice(possible)
        if kinds.count(kind) < _MOST.get(kind, count):
            kinds.append(kind)
    draw.shuffle(kinds)
    return kinds
