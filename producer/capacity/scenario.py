"""The question that a plan answers: which data set, on which machines, and what dies meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from producer.scheduling.chunk_sizer import CHUNK_SECONDS
from worker_config.errors import UsageError

# What a plan takes: what is larger would be simulated for minutes, or is none that Redis has room for.
MOST = {"rows": 10**15, "slots": 50_000, "producers": 10_000, "row_seconds": 1e6, "row_bytes": 2**29, "network_ms": 6e4}
LEAST_CORES = 0.01


@dataclass(frozen=True)
class Failure:
    """What fails in the middle of the job.

    Attributes:
        what: one worker with all its slots, which does not come back; one broker, which comes back empty; or the link
            of one worker, which goes on with what it has, and is there again.
        at: the share of the rows that is answered then.
        until: of a link, the same when it is mended.
        worker: which one, or which one's link or broker, by its number; the last one, if left out.
    """

    what: Literal["worker", "broker", "link"]
    at: float
    until: float = 1.0
    worker: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.at < self.until <= 1:
            raise UsageError(f"a {self.what} fails at {self.at:.0%}, until {self.until:.0%}: give shares in this order")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One data set on one system.

    Attributes:
        rows: of the data set; jobs of several producers share them alike.
        row_seconds: of one row in one slot.
        slots: of all workers together, shared alike.
        workers: main processes, each on a host of its own.
        producers: processes that each submit one job of its share of the rows.
        brokers: Redis servers; workers belong to one each, in turn, and the chunks of each job are spread over them.
        chunk_rows: rows of each chunk; None where they are cut by time.
        chunk_seconds: what they then shall take.
        row_bytes: of one row on its way to workers; 0 where these read it in its file.
        cores_per_host: which the processes of a host share; infinite where each has a core for itself.
        one_host: all processes are on the same host, as those of the embedded system.
        computes: the model takes a core while it runs; else it only takes time.
        variation: of the seconds of chunks, as the share of them that is their standard deviation.
        network_ms: from one host to another, one way.
        failures: in the order in which they happen.
        slower: how many times as long chunks take in the slots of these workers, by their numbers.
        broker_back_seconds: until a broker that died is up again.
        seed: of all that is drawn.
        rows_after: of the data set, behind `rows`, that are not simulated: chunks are cut as if they came.
    """

    rows: int
    row_seconds: float
    slots: int
    workers: int = 1
    producers: int = 1
    brokers: int = 1
    chunk_rows: int | None = None
    chunk_seconds: float = CHUNK_SECONDS
    row_bytes: float = 0.0
    cores_per_host: float = math.inf
    one_host: bool = False
    computes: bool = True
    variation: float = 0.0
    network_ms: float = 0.0
    failures: Sequence[Failure] = ()
    slower: Mapping[int, float] = field(default_factory=dict)
    broker_back_seconds: float = 10.0
    seed: int = 0
    rows_after: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "slots", "workers", "producers", "brokers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("row_seconds", "row_bytes", "network_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be at least 0, and not endless")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise UsageError(f"{name} is more than {most:,}, which is no more planned: plan a part of that system")
        if not self.cores_per_host >= LEAST_CORES:
            raise UsageError(f"cores_per_host is {self.cores_per_host}: it must be at least {LEAST_CORES}")
        if self.chunk_rows is not None and self.chunk_rows < 1:
            raise UsageError(f"chunk_rows is {self.chunk_rows}: it must be at least 1")
        if self.workers > self.slots:
            raise UsageError(f"{self.workers} workers have only {self.slots} slots: each needs one at least")
        if self.brokers > self.workers:
            raise UsageError(f"{self.brokers} brokers have only {self.workers} workers: each needs one at least")
        if self.producers > self.rows:
            raise UsageError(f"{self.producers} producers have only {self.rows} rows: each needs one at least")
        self._check_failures()

    def _check_failures(self) -> None:
        """Somebody must get on with the rows, at whose shares things fail and are mended."""
        for number in {one.worker for one in self.failures}:
            if not -self.workers <= number < self.workers:
                raise UsageError(f"worker {number} is to fail: there are {self.workers} workers")
        for failure in self.failures:
            gone = {
                one.worker % self.workers
                for one in self.failures
                if one.what != "broker" and one.at <= failure.at < (one.until if one.what == "link" else 1)
            }
            if len(gone) == self.workers:
                raise UsageError(
                    f"{len(gone) + 1} workers at least: {len(gone)} of them would be dead or cut off when "
                    f"{failure.at * 100:g} % are done, and nobody would be left who gets on with the others"
                )
