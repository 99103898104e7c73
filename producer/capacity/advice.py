"""What limits a scenario, and what to change in it.

Outcome --> limit --> changes that may lift it --each simulated--> those that make it faster, in words
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from producer.capacity.scenario import Scenario
from producer.capacity.simulation import Outcome
from worker_config.errors import UsageError

# What the advice makes of the kind that limits.
AIMED_USE = 0.8
LEAST_CHUNKS_PER_SLOT = 4
# Where no kind of process has that much to do, chunks are on their way most of the time.
_IDLE_USE = 0.5
# What is nearly as busy as slots limits as soon as there are more of these.
_NEXT_USE = 0.7
# A change is told if with it a data set takes at most this share of its time: less may be chance.
_FASTER = 0.97
# Of several sizes of a change the smallest is told that takes so much longer at most than the best.
_AS_GOOD = 1.05

Change = tuple[str, dict[str, Any]]


def limit_of(scenario: Scenario, outcome: Outcome) -> str:
    """The kind of process that is busiest, or why none is: too few `chunks` for all slots, or `latency` between two."""
    kind = max(outcome.used, key=outcome.used.__getitem__)
    use = outcome.used[kind]
    is_idle = use < _IDLE_USE or (kind == "slots" and use < AIMED_USE)
    has_few = outcome.chunks < LEAST_CHUNKS_PER_SLOT * scenario.slots
    if (kind == "slots" and outcome.chunks <= scenario.slots) or (is_idle and has_few):
        return "chunks"
    return "latency" if use < _IDLE_USE else kind


def advise(
    scenario: Scenario, outcome: Outcome, limit: str, seconds: float, simulate: Callable[[Scenario], float]
) -> list[str]:
    """What makes it faster, a line each; the first one holds alone, and so does each that begins with `or`.

    Args:
        seconds: that the scenario takes, without failures.
        simulate: what another one would take.
    """
    if outcome.chunks <= scenario.slots and outcome.chunk_rows == 1 and limit == "chunks":
        return ["nothing: each row has a slot of its own"]
    advice: list[str] = []
    for tries in _changes(scenario, outcome, limit):
        took = [(text, _seconds(scenario, change, simulate)) for text, change in tries]
        best = min((one for _, one in took), default=math.inf)
        if best <= _FASTER * seconds:
            text = next(text for text, one in took if one <= _AS_GOOD * best)
            advice.append(f"or {text}" if advice else text)
    return advice or [f"nothing that was tried makes it faster by {1 - _FASTER:.0%}"]


def _seconds(scenario: Scenario, change: dict[str, Any], simulate: Callable[[Scenario], float]) -> float:
    try:
        return simulate(replace(scenario, **change))
    except UsageError:  # more than a plan takes
        return math.inf


def _changes(scenario: Scenario, outcome: Outcome, limit: str) -> Iterator[list[Change]]:
    """By what limits: sizes of each change, the smallest first."""
    if limit == "chunks":
        yield _chunk_rows(scenario, outcome, [_most_rows(scenario)])
        yield [_more_slots(scenario, outcome, limit)]
    elif limit == "slots":
        if outcome.slots_busy < AIMED_USE:
            yield _chunk_rows(scenario, outcome, [2 * outcome.chunk_rows, _most_rows(scenario)])
        yield [_more_slots(scenario, outcome, limit)]
    elif limit == "latency":
        rows = max(2 * outcome.chunk_rows, math.ceil(scenario.chunk_seconds / max(1e-9, scenario.row_seconds)))
        yield _chunk_rows(scenario, outcome, [min(rows, _most_rows(scenario)), 2 * outcome.chunk_rows])
        yield [_more_slots(scenario, outcome, limit)]
    elif limit == "cores":
        more = "more cores" if scenario.one_host else "more hosts, or more cores in each"
        text = f"{more}: models and the processes beside them have all there are"
        yield [(text, {"cores_per_host": 2 * scenario.cores_per_host})]
    else:
        yield from _changes_of_process(scenario, outcome, limit)


def _changes_of_process(scenario: Scenario, outcome: Outcome, limit: str) -> Iterator[list[Change]]:
    """Less work for each row, and more processes of the kind that limits."""
    if scenario.row_bytes:
        text = "rows in files that workers read, or a spool folder, so that they pass neither: --row-bytes 0"
        yield [(text, {"row_bytes": 0.0})]
    # With every slot busy, the limiting kind would have so many times the work that it can do.
    over = max(1.0, outcome.used[limit] / max(1e-9, outcome.slots_busy) / AIMED_USE)
    rows = [min(_most_rows(scenario), math.ceil(outcome.chunk_rows * times)) for times in (over, math.sqrt(over))]
    yield _chunk_rows(scenario, outcome, rows)
    option, most, how = {
        "producers": ("producers", scenario.rows, "each with a job of its own, of a part of the rows"),
        "brokers": ("brokers", scenario.workers, "by several URLs in CELERIAC_BROKER_URL"),
        "main processes": ("workers", scenario.slots, "with as many slots in all"),
    }[limit]
    now = getattr(scenario, option)
    counts = [min(most, math.ceil(now * times)) for times in (over, math.sqrt(over))]
    yield [
        (f"--{option} {count:,} in place of {now:,}, {how}", {option: count})
        for count in sorted(set(counts))
        if count > now
    ]


def _chunk_rows(scenario: Scenario, outcome: Outcome, tries: list[int]) -> list[Change]:
    now = outcome.chunk_rows
    changes: list[Change] = []
    for rows in sorted(set(tries)):
        if rows != now:
            kind = "longer" if rows > now else "shorter"
            changes.append((f"{kind} chunks: --chunk-rows {rows:,} in place of {now:,}", {"chunk_rows": rows}))
    return changes


def _more_slots(scenario: Scenario, outcome: Outcome, limit: str) -> Change:
    """Twice as many, on as many more workers, and of what is nearly as busy."""
    change: dict[str, Any] = {"slots": 2 * scenario.slots, "workers": 2 * scenario.workers}
    busy = {kind: use for kind, use in outcome.used.items() if use >= _NEXT_USE and kind != "slots"}
    for kind in busy.keys() & {"producers", "brokers"}:
        change[kind] = 2 * getattr(scenario, kind)
    if "cores" in busy and scenario.one_host:
        change["cores_per_host"] = 2 * scenario.cores_per_host
    if others := " and ".join(sorted(busy.keys() - {"main processes"})):
        return f"more slots, and more {others} with them, which are nearly as busy", change
    if limit != "slots":
        return "more slots, which take more chunks at once", change
    return "more slots: they limit" + ", and are busy" * (outcome.slots_busy >= AIMED_USE), change


def _most_rows(scenario: Scenario) -> int:
    """Of a chunk, so that each slot has several."""
    return max(1, scenario.rows // (LEAST_CHUNKS_PER_SLOT * scenario.slots))
