"""What a plan says limits, and what it says to change: all of it must be possible, and make the job faster."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from producer.capacity.costs import Costs, read_costs
from producer.capacity.forecast import Forecast, forecast
from producer.capacity.scenario import Scenario
from producer.capacity.simulation import Simulation

COSTS = read_costs()
EACH_HAS_A_SLOT = ["nothing: each row has a slot of its own"]


def plan(**what: Any) -> tuple[Scenario, Forecast]:
    scenario = Scenario(**{"variation": 0.1, "network_ms": 0.1, **what})
    return scenario, forecast(scenario, COSTS)


def seconds_of(scenario: Scenario, costs: Costs = COSTS) -> float:
    """Of all its rows."""
    return Simulation(scenario, costs).run().seconds


@pytest.mark.parametrize(
    "what",
    [
        {"rows": 1_500, "row_seconds": 0.01, "slots": 2_000, "workers": 20},
        {"rows": 300, "row_seconds": 0.1, "slots": 100, "workers": 2},
        {"rows": 600, "row_seconds": 0.1, "slots": 128, "workers": 4, "row_bytes": 600_000},
        {"rows": 1_000, "row_seconds": 0.1, "slots": 16, "workers": 2, "row_bytes": 4e6},
        {"rows": 1_000, "row_seconds": 0.001, "slots": 1, "chunk_rows": 1},
        {"rows": 100, "row_seconds": 1.0, "slots": 20_000, "workers": 100},
        {"rows": 1_000, "row_seconds": 0.0, "slots": 4},
    ],
)
def test_what_is_advised_is_possible_and_faster(what: dict[str, Any]) -> None:
    scenario, found = plan(**what)
    for line in found.advice:
        assert "more slots" not in line or scenario.slots == 1
        for option, number in re.findall(r"--([a-z-]+) ([\d,]+)", line):
            name, value = option.replace("-", "_"), int(number.replace(",", ""))
            assert value != getattr(scenario, name)
            assert seconds_of(replace(scenario, **{name: value})) < found.seconds, line


@pytest.mark.parametrize(
    "what",
    [
        {"rows": 1, "row_seconds": 1.0, "slots": 1},
        {"rows": 4, "row_seconds": 60.0, "slots": 4},
        {"rows": 3, "row_seconds": 0.01, "slots": 1_000, "workers": 10},
        {"rows": 10, "row_seconds": 0.5, "slots": 1_000, "workers": 10},
    ],
)
def test_where_each_row_has_a_slot_nothing_is_advised(what: dict[str, Any]) -> None:
    _, found = plan(**what)
    assert (found.limit, found.advice) == ("chunks", EACH_HAS_A_SLOT)


def test_with_more_slots_more_is_advised_of_what_is_nearly_as_busy() -> None:
    chunk, wake = (replace(one, producer_ms=8 * one.producer_ms) for one in (COSTS.chunk, COSTS.wake))
    costs = replace(COSTS, chunk=chunk, wake=wake)
    scenario = Scenario(rows=2_500, row_seconds=0.1, slots=64, workers=2, variation=0.1, network_ms=0.1)
    found = forecast(scenario, costs)
    assert found.limit == "slots"
    assert found.advice == ["more slots, and more producers with them, which are nearly as busy"]
    slots = replace(scenario, slots=128, workers=4)
    assert seconds_of(slots, costs) > 0.9 * found.seconds
    assert seconds_of(replace(slots, producers=2), costs) < 0.6 * found.seconds


def test_more_slots_alone_are_advised_where_they_help() -> None:
    scenario, found = plan(rows=1_000, row_seconds=0.1, slots=20, workers=2)
    assert (found.limit, found.advice) == ("slots", ["more slots: they limit, and are busy"])
    assert seconds_of(replace(scenario, slots=40)) < 0.7 * found.seconds


def test_of_chunks_that_are_too_long_shorter_ones_are_advised() -> None:
    _, found = plan(rows=20_000, row_seconds=0.0025, slots=64, workers=4, chunk_rows=5_000)
    assert (found.limit, found.advice) == ("chunks", ["shorter chunks: --chunk-rows 78 in place of 5,000"])


def test_where_nothing_is_busy_the_ways_between_processes_limit() -> None:
    _, found = plan(rows=4_000, row_seconds=0.001, slots=4, workers=4, chunk_rows=1)
    assert max(found.used.values()) < 0.5
    assert found.limit == "latency"
    assert found.advice[0].startswith("longer chunks: --chunk-rows ")
