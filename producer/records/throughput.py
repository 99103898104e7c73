"""What a job measures besides its ledger: bytes by the store that they took, seconds on the way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tasks.protocol.messages import Answer, FileRef, InlineRef, PayloadRef, RedisRef

# What carries a payload: its message or answer, a file of the spool folder, a key of Redis.
STORES = {InlineRef: "message", FileRef: "files", RedisRef: "redis"}


@dataclass(eq=False)
class Throughput:
    """Sums of one job; written by its thread, read by any.

    Attributes:
        put_bytes: of rows, by store; none for rows that workers read in the data set's own file.
        taken_bytes: of outputs, by store.
        queue_seconds: of chunks that were sent once, between sending and joining, in which no child worked on them.
        queued_chunks: those.
        executors_differed: from their models' own graphs, as was found in the job.
        join_seconds: that the job's thread spent on answers.
        stages: what slots did in all seconds up to their last answers.
        ended: the job's state, once it has ended.
    """

    put_bytes: Counter[str] = field(default_factory=Counter)
    taken_bytes: Counter[str] = field(default_factory=Counter)
    queue_seconds: float = 0.0
    queued_chunks: int = 0
    join_seconds: float = 0.0
    executors_differed: int = 0
    ended: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def put(self, ref: PayloadRef, size: int) -> None:
        """Count the rows of a chunk."""
        self.put_bytes[STORES[type(ref)]] += size

    def taken(self, ref: PayloadRef, size: int) -> None:
        """Count the outputs of a chunk."""
        self.taken_bytes[STORES[type(ref)]] += size

    def answered(self, answer: Answer, sent_at: float) -> None:
        """Count the way of a chunk there and back; the child's clock, which may be another one, plays no part."""
        worked = sum(seconds for stage, seconds in answer.stages.items() if stage not in ("wait", "answer"))
        self.queue_seconds += max(0.0, time.monotonic() - sent_at - worked)
        self.queued_chunks += 1

    def count_stages(self, answer: Answer) -> None:
        """Add the seconds of an answer; a slot that waited before the job began did not wait for it."""
        for stage, seconds in answer.stages.items():
            if stage == "wait":
                seconds = min(seconds, time.monotonic() - self.began)
            self.stages[stage] = round(self.stages.get(stage, 0.0) + seconds, 6)

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Count the time of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.join_seconds += time.monotonic() - started
