"""A simulated producer: it sends, waits and collects as the loop of a job does, with the window and the sizes of one.

ChunkSizer --rows--> Window admits --> brokers ... answers --a few at once--> window, sizer --> the next chunks
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

from producer.capacity.events import Host, Server
from producer.capacity.parts import Broker, SimulatedChunk, Stage
from producer.capacity.scenario import Scenario
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.open_chunk import OpenChunk
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.window import Window
from tasks.protocol.messages import MAX_INLINE_BYTES
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS, STRAGGLER_LOOK_SECONDS

# As of `producer.job`, which needs numpy; a test holds them against each other.
BATCH_CHUNKS, BATCH_BYTES = 16, 2**20
ANSWERS_AT_ONCE = 64
COLLECT_SECONDS = 0.008
# What a chunk costs a producer falls to its sending and its answer alike.
_HALF = 0.5
_MIB = 2**20


def chunk_sizer(scenario: Scenario, times: float = 1.0) -> ChunkSizer:
    """What cuts its chunks, where rows take so many times as long in a slot as alone."""
    return ChunkSizer(
        1,
        scenario.row_bytes,
        batch_seconds=scenario.row_seconds * times,
        store="redis" if scenario.row_bytes else "slices",
        fixed_rows=scenario.chunk_rows,
        chunk_seconds=scenario.chunk_seconds,
    )


class SimulatedJob:
    """One producer with one job.

    Attributes:
        rows_answered: so far.
        chunks_sent: of them; `chunks_again` were sent more than once.
        ended_at: when all was answered.
    """

    def __init__(
        self, stage: Stage, host: Host, rows: int, brokers: Sequence[Broker], on_answer: Callable[[int], object]
    ) -> None:
        costs, scenario = stage.costs, stage.scenario
        self.server: Server = Server(stage.clock, host)
        self.rows_answered: int = 0
        self.chunks_sent: int = 0
        self.chunks_again: int = 0
        self.ended_at: float | None = None
        self._stage, self._brokers, self._on_answer = stage, brokers, on_answer
        self._left, self._rows_after = rows, scenario.rows_after // scenario.producers
        self._window = Window(scenario.slots)
        self._window.share = 1 / scenario.producers
        self._sizer = chunk_sizer(scenario)
        self._half = costs.chunk.producer_ms * _HALF / 1e3
        self._look_seconds = (costs.worker_second.producer_ms + costs.slot_second.producer_ms * scenario.slots) / 1e3
        self._round_trip = 2 * stage.to_broker_seconds
        self._random = random.Random(scenario.seed)  # noqa: S311 - nothing is kept secret by it
        self._answers: deque[SimulatedChunk] = deque()
        self._is_blocked = self._more_answers = False
        self._looked_at = self._looked_late_at = 0.0
        self.open: dict[int, SimulatedChunk] = {}
        self._first_open = self._held_back = 0
        self._lost: dict[int, float] = {}
        self._in_flight: Counter[Broker] = Counter()
        self._stragglers, self._none_waits = Stragglers(), OrderedDict[int, OpenChunk]()

    def start(self) -> None:
        """Submit it."""
        self._step()

    def lose_worker(self, chunks: Iterable[SimulatedChunk]) -> None:
        """Nothing is heard of its chunks any more: each is sent again when it is late."""
        now = self._stage.clock.now
        mine = (one for one in chunks if self.open.get(one.index) is one)
        looks = bool(self._lost)
        self._lost |= {one.index: now if one.began_at is None else one.began_at for one in mine}
        if not looks:
            self._stage.clock.after(STRAGGLER_LOOK_SECONDS, self._send_late)

    def lose_broker(self, broker: Broker) -> None:
        """Whatever it was given is lost, or served by nobody, and goes to another, or to it when it is back."""
        self.look()
        self._send_again([one for one in self.open.values() if one.broker is broker])

    def look(self) -> None:
        """See which workers are there: those of a broker that is away are not."""
        self._window.slots = sum(broker.slots for broker in self._brokers if broker.is_up)

    def _send_again(self, chunks: Sequence[SimulatedChunk]) -> None:
        """Once more, with their rows, to the head of a queue; an answer to an earlier copy counts, too."""
        copies = []
        for chunk in chunks:
            self._in_flight[chunk.broker] -= 1
            self._lost.pop(chunk.index, None)
            copies.append(replace(chunk, broker=self._choose(), began_at=None))
        self.open.update((copy.index, copy) for copy in copies)
        self.chunks_again += len(copies)
        self.server.ask(len(copies) * self._half, self._publish, copies, True, holds=self._round_trip)

    def _choose(self) -> Broker:
        """As a real job: where fewest of its chunks are in flight for each slot."""
        served = [broker for broker in self._brokers if broker.slots] or self._brokers
        there = [broker for broker in served if broker.is_up] or served
        broker = min(there, key=lambda one: (self._in_flight[one] + 1) / max(1, one.slots))
        self._in_flight[broker] += 1
        return broker

    def _step(self) -> None:
        if batch := self._cut():
            mib_ms = sum(map(self._mib_ms, batch))
            stored = sum(1 for one in batch if one.stored_mib)
            seconds = len(batch) * self._half + mib_ms / 1e3
            self.server.ask(seconds, self._published, batch, holds=(1 + stored) * self._round_trip)
        elif self.open:
            if self._window.is_short or self._more_answers:
                self._take()
            else:
                self._stage.clock.after(COLLECT_SECONDS, self._take)
        else:
            self.ended_at = self._stage.clock.now

    def _cut(self) -> list[SimulatedChunk]:
        batch: list[SimulatedChunk] = []
        size = 0.0
        scenario, window, sizer = self._stage.scenario, self._window, self._sizer
        while self._left and len(batch) < BATCH_CHUNKS and size < BATCH_BYTES:
            rows = min(self._left, sizer.next_rows(self._left + self._rows_after, window.slots, window.chunk_bytes))
            in_flight = sizer.bytes_in_flight(rows)
            if not window.admits(self._held_back, in_flight):
                break
            size += (payload := rows * scenario.row_bytes)
            seconds = rows * scenario.row_seconds
            if scenario.variation:
                seconds *= max(0.0, self._random.gauss(1.0, scenario.variation))
            mib = payload / _MIB
            is_inline = payload <= MAX_INLINE_BYTES
            chunk = SimulatedChunk(
                self.chunks_sent,
                rows,
                mib if is_inline else 0.0,
                0.0 if is_inline else mib,
                seconds,
                self._choose(),
                self._answered,
                in_flight,
            )
            self.open[chunk.index] = chunk
            self._stage.sizes.append(rows)
            self.chunks_sent += 1
            self._left -= rows
            window.sent(in_flight)
            batch.append(chunk)
        return batch

    def _published(self, batch: list[SimulatedChunk]) -> None:
        self._publish(batch)
        self._step()

    def _publish(self, batch: Sequence[SimulatedChunk], first: bool = False) -> None:
        now = self._stage.clock.now
        by_broker: defaultdict[Broker, list[SimulatedChunk]] = defaultdict(list)
        for chunk in batch:
            chunk.sent_at = now
            by_broker[chunk.broker].append(chunk)
        for broker, chunks in by_broker.items():
            broker.push(chunks, first=first)

    def _answered(self, chunk: SimulatedChunk) -> None:
        """An answer lies on the job's list."""
        self._answers.append(chunk)
        if self._is_blocked:
            self._is_blocked = False
            self._collect([self._answers.popleft()], self._stage.costs.wake.producer_ms / 1e3)

    def _take(self) -> None:
        if not self._answers:
            self._is_blocked, self._more_answers = True, False
            return
        count = min(len(self._answers), ANSWERS_AT_ONCE)
        self._more_answers = count == ANSWERS_AT_ONCE
        self._collect([self._answers.popleft() for _ in range(count)])

    def _collect(self, chunks: list[SimulatedChunk], seconds: float = 0.0) -> None:
        now = self._stage.clock.now
        for chunk in chunks:
            seconds += self._half + self._mib_ms(chunk) / 1e3
        if now - self._looked_at >= LIVENESS_LOOK_SECONDS:  # however long ago: once in each turn of the loop
            self._looked_at = now
            seconds += self._look_seconds
        self.server.ask(seconds, self._joined, chunks, holds=self._round_trip)

    def _joined(self, chunks: list[SimulatedChunk]) -> None:
        answered_before = self.rows_answered
        for chunk in chunks:
            if (opened := self.open.pop(chunk.index, None)) is None:
                continue  # a second answer
            self._in_flight[opened.broker] -= 1
            self.rows_answered += chunk.rows
            self._window.answered(chunk.bytes_in_flight, chunk.lasted_seconds)
            self._sizer.answered(chunk.rows, chunk.lasted_seconds, 0)
            # It reads no more than index and rows, where nothing else is open.
            self._stragglers.answered(cast("OpenChunk", chunk), chunk.lasted_seconds, 0.0, self._none_waits)
            self._held_back += 1
        while self._held_back and self._first_open not in self.open:
            self._first_open += 1
            self._held_back -= 1
        now = self._stage.clock.now
        if self._window.share != 1 and now - self._looked_late_at >= STRAGGLER_LOOK_SECONDS:
            self._looked_late_at = now
            self._window.waiting(sum(broker.queued for broker in self._brokers))
        self._on_answer(self.rows_answered - answered_before)
        self._step()

    def _send_late(self) -> None:
        """As the job looks for stragglers, but at those alone that are known to be lost."""
        now = self._stage.clock.now
        self._lost = {index: since for index, since in self._lost.items() if index in self.open}
        late = [
            chunk
            for index, since in self._lost.items()
            if now - since > self._stragglers.limit_seconds((chunk := self.open[index]).rows)
        ]
        if late:
            self._send_again(late)
        if self._lost:
            self._stage.clock.after(STRAGGLER_LOOK_SECONDS, self._send_late)

    def _mib_ms(self, chunk: SimulatedChunk) -> float:
        """Half of what its rows cost the producer, which is spent at sending and when they are given away."""
        costs = self._stage.costs
        whole = chunk.inline_mib * costs.inline_mib.producer_ms + chunk.stored_mib * costs.stored_mib.producer_ms
        return whole * _HALF
