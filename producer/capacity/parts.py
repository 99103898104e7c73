"""The processes of a simulated system but for its producers: brokers, and workers with their slots.

Broker   messages wait in its queue; every command of a chunk takes its time
Worker   a main process that takes one chunk more than it has slots, and the slots
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from producer.capacity.costs import Costs
from producer.capacity.events import Clock, Host, Server
from producer.capacity.scenario import Scenario

# Of what a chunk costs Redis: as its message is pushed, as a worker takes it and holds it, as a child begins it, as its
# answer is put down and taken.
_BROKER_SHARES = 4
# What a chunk costs a main process falls to its coming and its end alike; a child's, to before and after the model.
_HALF = 0.5
# A worker that has lost a broker has found it again by then.
RECONNECT_SECONDS = 2.0
# The same for a worker whose link was cut, from when it is mended on: packets that were lost are sent again by then.
LINK_BACK_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class SimulatedChunk:
    """A chunk on its way; times are simulated seconds: `seconds` of a core, and those that it lasted in its slot."""

    index: int
    rows: int
    inline_mib: float
    stored_mib: float
    seconds: float
    broker: Broker
    answer: Callable[[SimulatedChunk], object]
    bytes_in_flight: int = 0
    sent_at: float = 0.0
    began_at: float | None = None
    lasted_seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """What all processes share: the clock, the costs, the ways between hosts; what becomes of chunks."""

    clock: Clock
    costs: Costs
    scenario: Scenario
    waits: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def to_broker_seconds(self) -> float:
        """One way."""
        return (self.costs.hop_ms + self.scenario.network_ms) / 1e3


class Broker:
    """One Redis: a process of one thread, and the queue of messages that it holds."""

    def __init__(self, stage: Stage, host: Host) -> None:
        self.server: Server = Server(stage.clock, host, stage.costs.wake.redis_ms / _BROKER_SHARES / 1e3)
        self.is_up: bool = True
        self.slots: int = 0  # of the workers that belong to it
        self._stage = stage
        self._each = stage.costs.chunk.redis_ms / _BROKER_SHARES / 1e3
        self._to_worker = stage.to_broker_seconds
        self._queue: deque[SimulatedChunk] = deque()
        self._waiting: deque[Worker] = deque()
        self._for_its_return: list[Callable[[], object]] = []

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    def ask(self, chunks: int, done: Callable[..., object], *args: Any, mib_ms: float = 0.0) -> None:
        """A command for so many chunks; once it is up, if it is not."""
        if not self.is_up:
            self._for_its_return.append(lambda: self.ask(chunks, done, *args, mib_ms=mib_ms))
            return
        self.server.ask(chunks * self._each + mib_ms / 1e3, done, *args)

    def push(self, chunks: list[SimulatedChunk], *, first: bool = False) -> None:
        """Messages come, each with its rows."""
        costs = self._stage.costs
        mib_ms = sum(
            one.inline_mib * costs.inline_mib.redis_ms + one.stored_mib * costs.stored_mib.redis_ms for one in chunks
        )
        self.ask(len(chunks), self._pushed, chunks, first, mib_ms=mib_ms)

    def pull(self, worker: Worker) -> None:
        """A worker waits for a message."""
        self.ask(1, self._pulled, worker)

    def fail(self) -> None:
        """Die; commands wait for its return."""
        self.is_up = False
        self._queue.clear()
        self._waiting.clear()

    def come_back(self) -> None:
        """Be there again, and empty."""
        self.is_up = True
        waiting, self._for_its_return = self._for_its_return, []
        for call in waiting:
            call()

    def _pushed(self, chunks: list[SimulatedChunk], first: bool) -> None:
        if first:
            self._queue.extendleft(reversed(chunks))
        else:
            self._queue.extend(chunks)
        self._serve()

    def _pulled(self, worker: Worker) -> None:
        self._waiting.append(worker)
        self._serve()

    def _serve(self) -> None:
        while self._queue and self._waiting:
            worker, chunk = self._waiting.popleft(), self._queue.popleft()
            if worker.is_alive and not worker.is_cut_off:
                self._stage.clock.after(self._to_worker, worker.receive, chunk)
            else:
                self._queue.appendleft(chunk)


class Worker:
    """A main process and its slots; it takes chunks from its broker, one more than it has slots."""

    def __init__(self, stage: Stage, host: Host, slots: int, broker: Broker, times: float = 1.0) -> None:
        costs = stage.costs
        self.main: Server = Server(stage.clock, host, costs.wake.main_ms * _HALF / 1e3)
        self.slots: int = slots
        self.is_alive: bool = True
        self.is_cut_off: bool = False
        self.broker: Broker = broker
        broker.slots += slots
        self.slot_seconds: float = 0.0
        self.times: float = times
        self.in_hand: dict[SimulatedChunk, None] = {}  # in the order in which they came
        self._stage, self._host = stage, host
        self._half_main = costs.chunk.main_ms * _HALF / 1e3
        self._half_child = costs.chunk.child_ms * _HALF / 1e3
        self._hop, self._to_broker = costs.hop_ms / 1e3, stage.to_broker_seconds
        self._free = slots
        self._waiting: deque[SimulatedChunk] = deque()
        self._has_asked = False
        self._held: list[Callable[[], object]] = []

    def pull(self) -> None:
        """Ask for a message, where one more may come."""
        if self.is_alive and len(self.in_hand) <= self.slots and not self._has_asked:
            self._has_asked = True
            self._over_link(0.0, self.broker.pull, self)

    def receive(self, chunk: SimulatedChunk) -> None:
        """A message has come; the main process tells the broker that it holds it, and waits for the answer."""
        self._has_asked = False
        if self.is_cut_off or not self.is_alive:  # it was on its way
            return self.broker.push([chunk], first=True)
        self.in_hand[chunk] = None
        seconds = self._half_main + chunk.inline_mib * self._stage.costs.inline_mib.main_ms / 1e3
        self.main.ask(seconds, self._received, chunk, holds=2 * self._to_broker)

    def fail(self) -> None:
        """Die with all slots."""
        self.is_alive = False

    def cut_off(self) -> None:
        """Hear of nobody, and be heard by nobody; go on with what it has."""
        self.is_cut_off = True

    def be_back(self) -> None:
        """Say all that it could not, and take chunks again."""
        self.is_cut_off = False
        held, self._held = self._held, []
        for call in held:
            call()
        self.connect_again()

    def connect_again(self) -> None:
        """Find its broker, which was gone."""
        self._has_asked = False
        self.pull()

    def _received(self, chunk: SimulatedChunk) -> None:
        if self._free:
            self._give(chunk)
        else:
            self._waiting.append(chunk)
        self.pull()

    def _give(self, chunk: SimulatedChunk) -> None:
        """To a free child, which asks the broker whether the chunk is wanted."""
        self._free -= 1
        self._stage.clock.after(self._hop, self._begin, chunk)

    def _begin(self, chunk: SimulatedChunk) -> None:
        if not self.is_alive:
            return
        costs = self._stage.costs
        mib_ms = chunk.inline_mib * costs.inline_mib.child_ms + chunk.stored_mib * costs.stored_mib.child_ms
        self._host.compute(self._half_child + mib_ms / 1e3, self._ask_begin, chunk)

    def _ask_begin(self, chunk: SimulatedChunk) -> None:
        self._over_link(0.0, chunk.broker.ask, 1, self._begun, chunk)

    def _begun(self, chunk: SimulatedChunk) -> None:
        self._over_link(0.0, self._run, chunk)

    def _run(self, chunk: SimulatedChunk) -> None:
        if not self.is_alive:
            return
        now = self._stage.clock.now
        chunk.began_at = now
        self._stage.waits.append(now - chunk.sent_at)
        run = self._host.compute if self._stage.scenario.computes else self._stage.clock.after
        run(chunk.seconds * self.times, self._ran, chunk, now)

    def _ran(self, chunk: SimulatedChunk, began_at: float) -> None:
        if not self.is_alive:
            return
        chunk.lasted_seconds = self._stage.clock.now - began_at
        self.slot_seconds += chunk.lasted_seconds
        self._host.compute(self._half_child, self._ask_answer, chunk)

    def _ask_answer(self, chunk: SimulatedChunk) -> None:
        self._over_link(0.0, chunk.broker.ask, 1, self._answered, chunk)

    def _answered(self, chunk: SimulatedChunk) -> None:
        if not self.is_alive:
            return
        self._stage.clock.after(self._to_broker, chunk.answer, chunk)
        self._over_link(self._hop, self.main.ask, self._half_main, self._ended, chunk)

    def _ended(self, chunk: SimulatedChunk) -> None:
        self.in_hand.pop(chunk, None)
        self._free += 1
        if self._waiting:
            self._give(self._waiting.popleft())
        self.pull()

    def _over_link(self, more_seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Between it and its broker; once its link is mended, if it is cut."""
        if self.is_cut_off:
            self._held.append(lambda: self._over_link(more_seconds, call, *args))
        else:
            self._stage.clock.after(self._to_broker + more_seconds, call, *args)
