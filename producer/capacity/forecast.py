"""What a plan tells: how long, what limits, what to change.

Scenario, Costs --simulate, the beginning of a large data set alone--> Forecast --> advice
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from producer.capacity.advice import advise, limit_of
from producer.capacity.costs import Costs
from producer.capacity.job import chunk_sizer
from producer.capacity.scenario import Scenario
from producer.capacity.simulation import Outcome, Simulation
from producer.scheduling.chunk_sizer import CHUNKS_LEFT_PER_SLOT, LEAST_SHARE
from producer.scheduling.window import Window

# A larger data set goes on as its first chunks went, so many at least, and so many for each slot.
SIMULATED_CHUNKS = 20_000
SIMULATED_CHUNKS_PER_SLOT = 20
# Of a very large system fewer for each slot, once these are simulated.
_MANY_CHUNKS = 200_000
_LEAST_CHUNKS_PER_SLOT = 8
# The shares of the rows between which a job goes on evenly.
_EVEN = 0.4, 0.9
# Of a system that may be advised such a share of that; one with many more chunks than was meant is not advised.
_ADVISED = 0.4
_MORE_CHUNKS = 1.25


@dataclass(frozen=True)
class Forecast:
    """How a scenario goes.

    Attributes:
        seconds: from submit to the last answer.
        rows_per_second: of all producers together.
        chunks: how many there are; `chunk_rows` in each, but for the first and the last ones.
        chunk_seconds: of such a one in its slot, where it may share the cores with others.
        slots_busy: the share of all slots' time in which they run chunks; of a slot that has died, too.
        wait_p50_seconds: from sending a chunk until a slot begins it, the median; `wait_p95_seconds`, of 95 %.
        used: the share of time in which the busiest of each kind of process works, or of the cores of a host; without
            failures, as the next two.
        limit: the kind with the highest, `chunks` or `latency`.
        advice: what to change, a line each.
        simulated_rows: of the data set, that were simulated; the others go on at their rate.
        failure_seconds: how much longer it takes since something died; None where nothing does.
        chunks_sent_again: for that.
    """

    seconds: float
    rows_per_second: float
    chunks: int
    chunk_rows: int
    chunk_seconds: float
    slots_busy: float
    wait_p50_seconds: float
    wait_p95_seconds: float
    used: dict[str, float]
    limit: str
    advice: Sequence[str]
    simulated_rows: int
    failure_seconds: float | None
    chunks_sent_again: int


def forecast(scenario: Scenario, costs: Costs) -> Forecast:
    """Simulate it, and without its failures too, if it has some.

    Raises:
        UsageError: it would never be done.
    """
    simulated = _beginning(scenario)
    rows_left = scenario.rows - simulated.rows
    outcome = usual = Simulation(replace(simulated, failures=()), costs).run()
    failure_seconds = None
    if scenario.failures:
        outcome = Simulation(simulated, costs).run()
        failure_seconds = outcome.seconds - usual.seconds
        if rows_left:
            failure_seconds += rows_left * _seconds_missed(simulated, outcome, usual, costs)
    usual_seconds = usual.seconds + _seconds_of(rows_left, usual)
    seconds = usual_seconds + (failure_seconds or 0.0)
    limit, chunk_rows = limit_of(scenario, usual), usual.chunk_rows
    never_failing = replace(scenario, failures=())
    simulate = partial(_advised_seconds, costs=costs, most_seconds=usual_seconds, chunks=usual.chunks)
    return Forecast(
        seconds=seconds,
        rows_per_second=scenario.rows / seconds,
        chunks=usual.chunks + _chunks_of(rows_left, chunk_rows, scenario),
        chunk_rows=chunk_rows,
        chunk_seconds=usual.slot_seconds * chunk_rows / simulated.rows,
        slots_busy=outcome.slots_busy,
        wait_p50_seconds=_percentile(outcome.waits, 0.5),
        wait_p95_seconds=_percentile(outcome.waits, 0.95),
        used=usual.used,
        limit=limit,
        advice=advise(never_failing, usual, limit, usual_seconds, simulate),
        simulated_rows=simulated.rows,
        failure_seconds=failure_seconds,
        chunks_sent_again=outcome.chunks_again,
    )


def _chunks_of(rows: int, chunk_rows: int, scenario: Scenario) -> int:
    """Those of the rows that are not simulated: full ones, and ever smaller ones where each job ends."""
    last_rows = scenario.producers * CHUNKS_LEFT_PER_SLOT * scenario.slots * chunk_rows
    times = 1.0 if scenario.chunk_rows else min(1 / LEAST_SHARE, chunk_rows)
    return round((rows + min(rows, last_rows) * math.log(times)) / chunk_rows)


def _beginning(scenario: Scenario, share: float = 1.0) -> Scenario:
    """As much of its data set as is simulated, or such a share of that."""
    most_rows = max(scenario.producers, math.ceil(share * _most_chunks(scenario) * _chunk_rows(scenario)))
    return _first(scenario, min(scenario.rows, most_rows))


def _first(scenario: Scenario, rows: int) -> Scenario:
    return replace(scenario, rows=rows, rows_after=scenario.rows_after + scenario.rows - rows)


def _most_chunks(scenario: Scenario) -> int:
    many = max(_MANY_CHUNKS, _LEAST_CHUNKS_PER_SLOT * scenario.slots)
    return max(SIMULATED_CHUNKS, min(many, SIMULATED_CHUNKS_PER_SLOT * scenario.slots))


def _advised_seconds(scenario: Scenario, costs: Costs, most_seconds: float, chunks: int) -> float:
    """Of one without failures that may be advised, in the place of one with so many seconds and simulated chunks.

    Raises:
        UsageError: it takes more.
    """
    simulated = _beginning(scenario, _ADVISED)
    most_chunks = _MORE_CHUNKS * max(chunks, _ADVISED * _most_chunks(scenario))
    outcome = Simulation(simulated, costs).run(most_seconds=most_seconds, most_chunks=most_chunks)
    return outcome.seconds + _seconds_of(scenario.rows - simulated.rows, outcome)


def _seconds_missed(simulated: Scenario, outcome: Outcome, usual: Outcome, costs: Costs) -> float:
    """What failures cost for each row more: a worker is missed for a share of them all, however many there are.

    What a broker's cost is the same for any data set, and so is the time until chunks are sent again.
    """
    missed = [one for one in simulated.failures if one.what != "broker"]
    if not missed:
        return 0.0
    whole = replace(simulated, failures=missed)
    if len(missed) < len(simulated.failures):
        outcome = Simulation(whole, costs).run()
    half = _first(whole, max(whole.producers, whole.rows // 2))
    rows = max(1, whole.rows - half.rows)
    seconds = outcome.seconds - Simulation(half, costs).run().seconds
    return max(0.0, seconds - _seconds_of(rows, usual)) / rows


def _chunk_rows(scenario: Scenario) -> int:
    """Of a chunk, about, once it is known how long slots take that share the cores of their host."""
    slots = scenario.slots / (1 if scenario.one_host else scenario.workers)
    times = max(1.0, slots / scenario.cores_per_host) if scenario.computes else 1.0
    return chunk_sizer(scenario, times).next_rows(None, scenario.slots, Window(scenario.slots).chunk_bytes)


def _seconds_of(rows: int, outcome: Outcome) -> float:
    """Of rows that go on as those that were simulated did when all was under way."""
    if rows <= 0:
        return 0.0
    moments = outcome.rows_by_time
    (since, before), (until, after) = (moments[int(share * (len(moments) - 1))] for share in _EVEN)
    return rows * (until - since) / max(1, after - before)


def _percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
