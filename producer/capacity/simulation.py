"""Runs a scenario through simulated time: hosts, brokers, workers and jobs, and what dies meanwhile.

Scenario, Costs --> Simulation.run --> Outcome: when it ended, how busy each kind of process was, how chunks waited
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median_high

from producer.capacity.costs import Costs
from producer.capacity.events import Clock, Host
from producer.capacity.job import SimulatedJob
from producer.capacity.parts import LINK_BACK_SECONDS, RECONNECT_SECONDS, Broker, Stage, Worker
from producer.capacity.scenario import Failure, Scenario
from worker_config.errors import UsageError
from worker_config.retry_policy import WORKER_TTL_SECONDS

# What processes do every second is done less often, and more at a time, once it has been done so many times.
EVEN_BEATS = 20_000


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario.

    Attributes:
        seconds: from submit to the last answer, of all jobs.
        chunks: that were sent; `chunks_again` of them once more.
        chunk_rows: of one of them, the median.
        slots_busy: the share of all slots' time in which they ran chunks; `slot_seconds` is that time.
        waits: seconds of each chunk from being sent to its beginning in a slot, sorted.
        used: the share of the time in which the busiest process of each kind had something to do; of `cores`, of the
            busiest host.
        rows_by_time: seconds, and rows answered until then, at about a hundred moments.
    """

    seconds: float
    chunks: int
    chunks_again: int
    chunk_rows: int
    slots_busy: float
    slot_seconds: float
    waits: Sequence[float]
    used: dict[str, float]
    rows_by_time: Sequence[tuple[float, int]]


class Simulation:
    """One run of a scenario; the same for the same costs and seed."""

    def __init__(self, scenario: Scenario, costs: Costs) -> None:
        self._scenario, self._clock = scenario, Clock()
        stage = self._stage = Stage(self._clock, costs, scenario)
        shared = Host(self._clock, scenario.cores_per_host) if scenario.one_host else None
        self._worker_hosts = (
            [shared] if shared else [Host(self._clock, scenario.cores_per_host) for _ in range(scenario.workers)]
        )
        self._brokers = [Broker(stage, shared or Host(self._clock)) for _ in range(scenario.brokers)]
        self._workers = [
            Worker(
                stage,
                shared or self._worker_hosts[number],
                slots,
                self._brokers[number % scenario.brokers],
                scenario.slower.get(number, 1.0),
            )
            for number, slots in enumerate(_shares(scenario.slots, scenario.workers))
        ]
        self._jobs = [
            SimulatedJob(stage, shared or Host(self._clock), rows, self._brokers, self._on_answer)
            for rows in _shares(scenario.rows, scenario.producers)
        ]
        # What happens at which share of the rows, the last first.
        self._to_come: list[tuple[float, Callable[[Worker], None], Worker]] = []
        for failure in scenario.failures:
            self._to_come += self._course(failure)
        self._to_come.sort(key=lambda one: one[0], reverse=True)
        self._forgotten: set[Worker] = set()
        self._beating: set[Worker] = set()
        self._rows_by_time: list[tuple[float, int]] = []
        self._answered = 0
        self._most_seconds = self._most_chunks = math.inf
        self._is_too_much = False

    def run(self, *, most_seconds: float = math.inf, most_chunks: float = math.inf) -> Outcome:
        """To the end of the last job.

        Raises:
            UsageError: nothing happens any more, and not all is answered, or it would take more than these.
        """
        self._most_seconds, self._most_chunks = most_seconds, most_chunks
        for worker in self._workers:
            worker.pull()
        self._clock.after(1.0, self._tick, 1.0)
        for job in self._jobs:
            self._clock.after(self._stage.costs.job_ms / 2e3, job.start)
        self._clock.run()
        if self._is_too_much:
            raise UsageError(f"more than {most_seconds} s, or {most_chunks} chunks")
        if self._answered < self._scenario.rows:
            raise UsageError("the data set would never be done: no slot is left")
        seconds = self._clock.now + self._stage.costs.job_ms / 2e3
        slot_seconds = sum(worker.slot_seconds for worker in self._workers)
        return Outcome(
            seconds,
            sum(job.chunks_sent for job in self._jobs),
            sum(job.chunks_again for job in self._jobs),
            median_high(self._stage.sizes),
            slot_seconds / self._scenario.slots / seconds,
            slot_seconds,
            sorted(self._stage.waits),
            self._used(seconds),
            self._rows_by_time,
        )

    def _used(self, seconds: float) -> dict[str, float]:
        finite = [host for host in self._worker_hosts if host.cores < math.inf]
        return {
            "slots": max(worker.slot_seconds / worker.slots for worker in self._workers) / seconds,
            "producers": max(job.server.busy_seconds for job in self._jobs) / seconds,
            "brokers": max(broker.server.busy_seconds for broker in self._brokers) / seconds,
            "main processes": max(worker.main.busy_seconds for worker in self._workers) / seconds,
            **(
                {"cores": min(1.0, max(host.worked_seconds / host.cores for host in finite) / seconds)}
                if finite
                else {}
            ),
        }

    def _tick(self, seconds: float) -> None:
        """What processes do every second, whether there are chunks or not: that of the last seconds.

        A worker that is not done with the last ones begins none, and alone they keep no job waiting.
        """
        costs = self._stage.costs
        if self._clock.is_idle or all(job.ended_at is not None for job in self._jobs):
            return
        for worker in self._workers:
            if worker.is_alive and worker not in self._beating:
                self._beating.add(worker)
                main_ms = costs.worker_second.main_ms + costs.slot_second.main_ms * worker.slots
                broker_ms = costs.worker_second.redis_ms + costs.slot_second.redis_ms * worker.slots
                to_broker = worker.broker.server.ask, seconds * broker_ms / 1e3, self._beating.discard, worker
                worker.main.ask(seconds * main_ms / 1e3, *to_broker)
        step = max(1.0, self._clock.now * min(0.25, len(self._workers) / EVEN_BEATS))
        self._clock.after(step, self._tick, step)

    def _on_answer(self, rows: int) -> None:
        self._answered += rows
        answered = self._answered
        step = len(self._rows_by_time) + 1
        if answered * 100 >= step * self._scenario.rows:
            self._rows_by_time.append((self._clock.now, answered))
        while self._to_come and answered >= self._to_come[-1][0] * self._scenario.rows:
            _, let_happen, worker = self._to_come.pop()
            let_happen(worker)
        self._is_too_much = self._clock.now > self._most_seconds or len(self._stage.sizes) > self._most_chunks
        if answered == self._scenario.rows or self._is_too_much:
            self._clock.stop()

    def _course(self, failure: Failure) -> list[tuple[float, Callable[[Worker], None], Worker]]:
        worker = self._workers[failure.worker]
        if failure.what == "link":
            return [(failure.at, self._cut_off, worker), (failure.until, self._mend, worker)]
        return [(failure.at, self._lose_worker if failure.what == "worker" else self._lose_broker, worker)]

    def _lose_worker(self, worker: Worker) -> None:
        worker.fail()
        self._miss(worker)

    def _cut_off(self, worker: Worker) -> None:
        worker.cut_off()
        self._miss(worker)

    def _miss(self, worker: Worker) -> None:
        for job in self._jobs:
            job.lose_worker(worker.in_hand)
        self._clock.after(WORKER_TTL_SECONDS, self._forget, worker)

    def _forget(self, worker: Worker) -> None:
        """Its record has expired."""
        if worker in self._forgotten or (worker.is_alive and not worker.is_cut_off):
            return
        self._forgotten.add(worker)
        worker.broker.slots -= worker.slots
        for job in self._jobs:
            job.look()
            if not worker.broker.slots:  # nobody serves its queue any more
                job.lose_broker(worker.broker)

    def _mend(self, worker: Worker) -> None:
        self._clock.after(LINK_BACK_SECONDS, self._be_back, worker)

    def _be_back(self, worker: Worker) -> None:
        if not worker.is_alive:
            return
        worker.be_back()
        if worker in self._forgotten:
            self._forgotten.remove(worker)
            worker.broker.slots += worker.slots
            for job in self._jobs:
                job.look()

    def _lose_broker(self, worker: Worker) -> None:
        broker, seconds = worker.broker, self._scenario.broker_back_seconds
        broker.fail()
        for job in self._jobs:
            job.lose_broker(broker)
        self._clock.after(seconds, self._come_back, broker)

    def _come_back(self, broker: Broker) -> None:
        broker.come_back()
        for job in self._jobs:
            job.look()
        for worker in self._workers:
            if worker.broker is broker:
                self._clock.after(RECONNECT_SECONDS, worker.connect_again)


def _shares(amount: int, among: int) -> list[int]:
    return [amount // among + (number < amount % among) for number in range(among)]
