"""What a simulation is made of: a clock with a heap of events, hosts that share processors, processes with a queue.

    Clock.after --> heap --> call
    Host.compute    every burst of work has the same share of the cores (processor sharing)
    Server.ask      one thing after the other, in the order of asking

An own loop, since a general library for simulations takes three times as long for each event, and a plan of 10,000
slots has millions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

Call = Callable[..., object]


class Clock:
    """Simulated time, in seconds; events of the same time come in the order in which they were planned."""

    def __init__(self) -> None:
        self.now: float = 0.0
        self._events: list[tuple[float, int, Call, tuple[Any, ...]]] = []
        self._order: count[int] = count()
        self._stopped: bool = False

    def after(self, seconds: float, call: Call, *args: Any) -> None:
        """Call it so long from now."""
        heappush(self._events, (self.now + seconds, next(self._order), call, args))

    def run(self) -> None:
        """Until `stop` is called, or nothing is left to happen."""
        events = self._events
        while events and not self._stopped:
            self.now, _, call, args = heappop(events)
            call(*args)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is planned."""
        return not self._events

    def stop(self) -> None:
        """Let the present event be the last."""
        self._stopped = True


class Host:
    """Cores that all bursts of work on them share alike; a burst takes one core at most.

    Time is counted in what each burst has had so far, which is the same for all that run: a burst ends when that has
    grown by what it needs.

    Args:
        cores: how many; infinitely many where no burst has to wait for another.
    """

    def __init__(self, clock: Clock, cores: float = math.inf) -> None:
        self.cores: float = cores
        self.worked_seconds: float = 0.0
        self._clock = clock
        self._bursts: list[tuple[float, int, Call, tuple[Any, ...]]] = []
        self._order: count[int] = count()
        self._had, self._at, self._rate = 0.0, 0.0, 1.0
        self._planned: tuple[float, int, float] | None = None

    def compute(self, seconds: float, done: Call, *args: Any) -> None:
        """Work for so many processor seconds, then call."""
        self.worked_seconds += seconds
        if self.cores == math.inf:
            self._clock.after(seconds, done, *args)
            return
        self._catch_up()
        heappush(self._bursts, (self._had + seconds, next(self._order), done, args))
        self._plan()

    def _catch_up(self) -> None:
        self._had += (self._clock.now - self._at) * self._rate
        self._at = self._clock.now

    def _plan(self) -> None:
        """Plan the next burst's end, if that is not what is planned already."""
        if not self._bursts:
            self._planned = None
            return
        self._rate = min(1.0, self.cores / len(self._bursts))
        ends_with, number, *_ = self._bursts[0]
        plan = ends_with, number, self._rate
        if plan != self._planned:
            self._planned = plan
            self._clock.after(max(0.0, ends_with - self._had) / self._rate, self._end, plan)

    def _end(self, plan: tuple[float, int, float]) -> None:
        if plan is not self._planned:  # it has changed since
            return
        self._catch_up()
        _, _, done, args = heappop(self._bursts)
        self._planned = None
        self._plan()
        done(*args)


class Server:
    """A process of one thread: what it is asked for it does one by one.

    Args:
        wake_seconds: of the processor, where it slept before.

    Attributes:
        busy_seconds: in which it had something to do.
    """

    def __init__(self, clock: Clock, host: Host, wake_seconds: float = 0.0) -> None:
        self.busy_seconds: float = 0.0
        self._clock, self._host, self._wake_seconds = clock, host, wake_seconds
        self._asked: deque[tuple[float, float, Call, tuple[Any, ...]]] = deque()
        self._is_busy = False
        self._since = 0.0

    def ask(self, seconds: float, done: Call, *args: Any, holds: float = 0.0) -> None:
        """Have it work for so long, wait `holds` seconds for another process, and then call."""
        if self._is_busy:
            self._asked.append((seconds, holds, done, args))
        else:
            self._begin(seconds + self._wake_seconds, holds, done, args)

    def _begin(self, seconds: float, holds: float, done: Call, args: tuple[Any, ...]) -> None:
        self._is_busy, self._since = True, self._clock.now
        if holds:
            self._host.compute(seconds, self._clock.after, holds, self._end, done, args)
        else:
            self._host.compute(seconds, self._end, done, args)

    def _end(self, done: Call, args: tuple[Any, ...]) -> None:
        self.busy_seconds += self._clock.now - self._since
        self._is_busy = False
        if self._asked:
            self._begin(*self._asked.popleft())
        done(*args)
