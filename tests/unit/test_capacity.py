"""The simulation behind `celeriac plan`, held against what can be reckoned by hand, and against real jobs' numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from producer.broker import broker_channel
from producer.capacity import costs as capacity_costs
from producer.capacity import forecast as forecast_of
from producer.capacity import job
from producer.capacity import simulation as simulation_of
from producer.capacity.costs import FREE, Costs, Work, read_costs
from producer.capacity.events import Clock, Host, Server
from producer.capacity.forecast import forecast
from producer.capacity.parts import LINK_BACK_SECONDS
from producer.capacity.scenario import Failure, Scenario
from producer.capacity.simulation import Outcome, Simulation
from producer.job import dispatcher, runner
from worker_config.errors import UsageError
from worker_config.retry_policy import WORKER_TTL_SECONDS

# Near those of a real machine.
USUAL = Costs(Work(0.4, 0.25, 1.0, 1.6), Work(0.3, 0.05, 0.3), hop_ms=0.1, job_ms=10.0)
SLEEPING = Scenario(rows=400, row_seconds=0.25, slots=16, workers=2, chunk_rows=1, computes=False)


def run(scenario: Scenario, costs: Costs = FREE) -> Outcome:
    return Simulation(scenario, costs).run()


@pytest.mark.parametrize("use", [0.3, 0.6, 0.9])
def test_chunks_that_come_at_random_to_one_server_wait_as_its_formula_says(use: float) -> None:
    """M/D/1: arrivals without memory, a fixed time of service; the mean wait by Pollaczek and Khinchine."""
    clock, draw, waits = Clock(), random.Random(1), []  # noqa: S311
    server = Server(clock, Host(clock))

    def come(left: int) -> None:
        began = clock.now
        server.ask(1.0, lambda: waits.append(clock.now - began - 1.0))
        if left:
            clock.after(draw.expovariate(use), come, left - 1)

    come(200_000)
    clock.run()

    assert fmean(waits) == pytest.approx(use / (2 * (1 - use)), rel=0.05)
    assert server.busy_seconds == pytest.approx(200_001)


def test_bursts_share_the_cores_of_their_host_alike() -> None:
    clock, ends = Clock(), dict[str, float]()
    host = Host(clock, 2)

    def end(name: str) -> None:
        ends[name] = clock.now

    for name, seconds in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        host.compute(seconds, end, name)
    clock.run()

    # Two cores for three until each has had 1 s, at 1.5; then a core for each.
    assert ends == pytest.approx({"a": 1.5, "b": 2.5, "c": 3.5})
    assert host.worked_seconds == 6.0


def test_a_burst_that_comes_later_slows_those_that_run() -> None:
    clock, ends = Clock(), list[float]()
    host = Host(clock, 1)
    host.compute(2.0, lambda: ends.append(clock.now))
    clock.after(1.0, host.compute, 0.5, lambda: ends.append(clock.now))
    clock.run()

    assert ends == pytest.approx([2.0, 2.5])


@pytest.mark.parametrize(("chunks", "slots"), [(100, 7), (64, 64), (1, 3), (129, 128), (1_000, 1)])
@pytest.mark.parametrize(("workers", "brokers", "producers"), [(1, 1, 1), (3, 1, 1), (4, 4, 1), (1, 1, 2)])
def test_without_costs_chunks_take_as_many_rounds_as_slots_need(
    chunks: int, slots: int, workers: int, brokers: int, producers: int
) -> None:
    workers, producers = min(workers, slots), min(producers, chunks)
    brokers = min(brokers, workers)
    outcome = run(
        Scenario(
            rows=chunks,
            row_seconds=0.5,
            slots=slots,
            workers=workers,
            brokers=brokers,
            producers=producers,
            chunk_rows=1,
            computes=False,
        )
    )
    rounds = math.ceil(chunks / slots)
    # A worker may hold one chunk that waits while another one's slot is free; a job sleeps before it collects.
    slack = 0.5 * (workers > 1) + job.COLLECT_SECONDS * rounds
    assert rounds * 0.5 <= outcome.seconds + 1e-9 <= rounds * 0.5 + slack + 1e-9
    assert outcome.slots_busy * slots * outcome.seconds == pytest.approx(chunks * 0.5)


@pytest.mark.parametrize(
    ("kind", "work", "servers"),
    [
        ("brokers", Work(redis_ms=5.0), {"brokers": 1}),
        ("brokers", Work(redis_ms=5.0), {"brokers": 4}),
        ("main processes", Work(main_ms=5.0), {"workers": 1}),
        ("main processes", Work(main_ms=5.0), {"workers": 4}),
        ("producers", Work(producer_ms=5.0), {"producers": 2}),
    ],
)
def test_a_kind_of_process_that_is_too_slow_limits_by_its_own_rate(
    kind: str, work: Work, servers: dict[str, int]
) -> None:
    scenario = replace(SLEEPING, rows=4_000, row_seconds=0.01, slots=200, workers=4)
    scenario = replace(scenario, **servers)
    outcome = run(scenario, Costs(work))
    (count,) = servers.values()

    assert max(outcome.used, key=outcome.used.__getitem__) == kind
    rate = 200 * count
    # What a process does after the last answer is in nobody's way.
    assert 0.98 * 4_000 / rate <= outcome.seconds <= 1.25 * 4_000 / rate


def test_processes_of_one_host_have_its_cores_and_no_more() -> None:
    scenario = replace(SLEEPING, rows=2_000, row_seconds=0.0, cores_per_host=2, one_host=True)
    costs = Costs(Work(0.4, 0.3, 1.0, 1.6))
    outcome = run(scenario, costs)

    assert outcome.seconds == pytest.approx(2_000 * 3.3e-3 / 2, rel=0.03)
    assert outcome.used["cores"] == pytest.approx(1, abs=0.03)


def test_models_that_compute_share_cores_where_those_that_sleep_do_not() -> None:
    scenario = replace(SLEEPING, slots=8, cores_per_host=2)
    assert run(replace(scenario, computes=True)).seconds == pytest.approx(2 * run(scenario).seconds, rel=0.05)


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    scenario = replace(SLEEPING, variation=0.2)
    assert run(scenario, USUAL) == run(scenario, USUAL)
    assert run(scenario, USUAL).seconds != run(replace(scenario, seed=1), USUAL).seconds


def test_chunks_of_a_dead_worker_are_run_again() -> None:
    usual = run(SLEEPING, USUAL)
    outcome = run(replace(SLEEPING, failures=[Failure("worker", 0.5)]), USUAL)

    # All that it held: its slots' chunks, and at most one more.
    assert 8 <= outcome.chunks_again <= 9
    assert usual.chunks_again == 0
    # Half of the chunks, on half of the slots; and until the lost ones are late.
    assert 1.4 * usual.seconds < outcome.seconds < 1.5 * usual.seconds + 2.0
    assert outcome.rows_by_time[-1][1] == SLEEPING.rows


def test_a_broker_that_comes_back_costs_its_absence_and_its_chunks_are_sent_again() -> None:
    scenario = replace(SLEEPING, brokers=2, broker_back_seconds=3.0)
    usual = run(scenario, USUAL)
    outcome = run(replace(scenario, failures=[Failure("broker", 0.5)]), USUAL)

    assert outcome.chunks_again > 0
    assert outcome.rows_by_time[-1][1] == scenario.rows
    assert usual.seconds + 1.0 < outcome.seconds < usual.seconds + 3.0 + 2.0 + 1.0


def test_a_worker_that_is_cut_off_is_missed_until_it_is_back() -> None:
    usual = run(SLEEPING, USUAL)
    outcome = run(replace(SLEEPING, failures=[Failure("link", 0.25, 0.75)]), USUAL)

    assert 8 <= outcome.chunks_again <= 9
    assert outcome.rows_by_time[-1][1] == SLEEPING.rows
    # Half of the chunks on half of the slots.
    assert 1.4 * usual.seconds < outcome.seconds < 1.5 * usual.seconds + 2.0


@pytest.mark.parametrize("failure", [Failure("worker", 0.3), Failure("link", 0.1, 0.5)])
@pytest.mark.parametrize("number", [2, 3])
def test_what_lies_with_a_broker_that_has_lost_its_only_worker_goes_to_the_others(
    number: int, failure: Failure
) -> None:
    scenario = replace(SLEEPING, rows=200, row_seconds=1.0, slots=number, workers=number, brokers=number)
    outcome = run(replace(scenario, failures=[failure]), USUAL)

    # One slot's chunk and one that waits for it, and those that lie in the queue until its record expires.
    assert outcome.chunks_again > 2
    assert outcome.rows_by_time[-1][1] == scenario.rows
    gone = (1.0 if failure.what == "worker" else failure.until) - failure.at
    assert outcome.seconds < 200 / number * (1 + gone / (number - 1)) + WORKER_TTL_SECONDS + LINK_BACK_SECONDS


def test_chunks_of_dead_workers_go_to_a_broker_that_has_some_though_it_is_away() -> None:
    scenario = replace(SLEEPING, rows=800, brokers=2)
    failures = [Failure("worker", 0.1), Failure("broker", 0.8, worker=0)]
    outcome = run(replace(scenario, failures=failures, slots=4), USUAL)
    assert outcome.rows_by_time[-1][1] == scenario.rows


def test_what_processes_do_every_second_keeps_no_simulation_alive() -> None:
    simulation = Simulation(replace(SLEEPING, rows=10), replace(USUAL, worker_second=Work(main_ms=1.0)))
    for worker in simulation._workers:
        worker.fail()
    with pytest.raises(UsageError, match="would never be done"):
        simulation.run()


def test_what_processes_do_every_second_costs_the_same_however_seldom_it_is_reckoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = replace(SLEEPING, rows=64, row_seconds=500.0, workers=16)
    costs = replace(FREE, worker_second=Work(main_ms=100.0, redis_ms=5.0))
    every_second = run(scenario, costs)
    monkeypatch.setattr(simulation_of, "EVEN_BEATS", 800)
    seldom = run(scenario, costs)

    assert seldom.seconds == pytest.approx(every_second.seconds, rel=0.01)
    assert seldom.used == pytest.approx(every_second.used, rel=0.1)


def test_a_job_of_years_is_simulated_in_few_more_steps_than_one_of_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_of, "EVEN_BEATS", 500)
    calls = []
    for row_seconds in (1e3, 1e6):
        simulation = Simulation(replace(SLEEPING, rows=32, row_seconds=row_seconds), replace(USUAL, job_ms=0.0))
        tick, count = simulation._tick, [0]

        def counted(seconds: float, tick: Callable[[float], None] = tick, count: list[int] = count) -> None:
            count[0] += 1
            tick(seconds)

        simulation._tick = counted  # type: ignore[method-assign]
        simulation.run()
        calls += count
    assert calls[1] < 5 * calls[0]


def test_a_lost_workers_chunks_are_in_the_order_in_which_it_took_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held = list[int]()
    monkeypatch.setattr(job.SimulatedJob, "lose_worker", lambda _, chunks: held.extend(one.index for one in chunks))
    with pytest.raises(UsageError, match="would never be done"):
        run(replace(SLEEPING, slots=200, failures=[Failure("worker", 0.01)]), USUAL)
    assert len(held) >= 100
    assert held == sorted(held)


def test_several_things_fail_one_after_the_other() -> None:
    failures = [Failure("worker", 0.5), Failure("link", 0.1, 0.4, worker=0)]
    outcome = run(replace(SLEEPING, failures=failures), USUAL)
    assert outcome.rows_by_time[-1][1] == SLEEPING.rows
    assert outcome.chunks_again > 9, "more than one of them held"


def test_a_worker_that_dies_while_it_is_cut_off_does_not_come_back() -> None:
    scenario = replace(SLEEPING, rows=1_200)
    dead = run(replace(scenario, failures=[Failure("worker", 0.1)]), USUAL)
    both = run(replace(scenario, failures=[Failure("worker", 0.1), Failure("link", 0.05, 0.3)]), USUAL)
    assert both.rows_by_time[-1][1] == scenario.rows
    assert both.seconds == pytest.approx(dead.seconds, rel=0.1)


def test_the_slots_of_a_slow_worker_take_as_many_times_as_long() -> None:
    usual, outcome = run(SLEEPING, USUAL), run(replace(SLEEPING, slower={1: 3.0}), USUAL)
    # A slot and a third of one, of each two; and at the end slow ones that others wait for.
    assert 1.45 * usual.seconds < outcome.seconds < 1.5 * usual.seconds + 2 * 3.0 * SLEEPING.row_seconds


def test_small_payloads_ride_in_messages_and_large_ones_go_by_redis() -> None:
    inline = Costs(Work(), inline_mib=Work(redis_ms=1_000.0))
    stored = Costs(Work(), stored_mib=Work(redis_ms=1_000.0))
    small, large = (replace(SLEEPING, row_bytes=size) for size in (2**16, 2**20))

    assert run(small, inline).used["brokers"] > 10 * run(small, stored).used["brokers"]
    assert run(large, stored).used["brokers"] > 10 * run(large, inline).used["brokers"]


def test_a_large_data_set_goes_on_as_its_beginning_does() -> None:
    scenario = Scenario(rows=60_000, row_seconds=0.01, slots=4, chunk_rows=1, variation=0.1)
    found = forecast(scenario, USUAL)

    assert found.simulated_rows < scenario.rows
    assert found.seconds == pytest.approx(run(scenario, USUAL).seconds, rel=0.01)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few chunks are simulated, so that a whole data set can be simulated beside that."""
    monkeypatch.setattr(forecast_of, "SIMULATED_CHUNKS", 1_000)
    monkeypatch.setattr(forecast_of, "SIMULATED_CHUNKS_PER_SLOT", 20)


@pytest.mark.usefixtures("few")
def test_of_chunks_that_their_bytes_limit_no_more_are_simulated_than_of_others() -> None:
    scenario = Scenario(rows=1_000_000, row_seconds=0.01, slots=4, workers=2, row_bytes=3e6, variation=0.1)
    found = forecast(scenario, USUAL)
    assert (found.chunk_rows, found.chunks) == (1, 1_000_000)
    assert found.simulated_rows == 1_000


@pytest.mark.usefixtures("few")
def test_slots_that_share_cores_have_chunks_of_what_they_take_there() -> None:
    scenario = Scenario(rows=100_000, row_seconds=0.005, slots=16, workers=2, cores_per_host=1, variation=0.1)
    found = forecast(scenario, USUAL)
    assert found.limit == "cores"
    assert found.chunk_seconds == pytest.approx(0.25, rel=0.4)
    assert found.chunk_seconds == pytest.approx(8 * found.chunk_rows * scenario.row_seconds, rel=0.4)
    assert found.simulated_rows == pytest.approx(1_000 * found.chunk_rows, rel=0.4)
    assert found.used["cores"] <= 1


@pytest.mark.usefixtures("few")
def test_the_chunks_that_are_not_simulated_are_as_large_as_full_ones() -> None:
    scenario = Scenario(rows=1_500_000, row_seconds=0.0025, slots=32, workers=2, producers=8, variation=0.1)
    found, whole = forecast(scenario, USUAL), run(scenario, USUAL)
    assert found.simulated_rows < 0.1 * scenario.rows
    assert found.seconds == pytest.approx(whole.seconds, rel=0.02)
    assert found.chunks == pytest.approx(whole.chunks, rel=0.01)
    assert (found.chunk_rows, found.chunk_seconds) == pytest.approx((100, 0.25), rel=0.03)


def test_a_last_chunk_that_is_smaller_makes_the_others_no_smaller() -> None:
    found = forecast(replace(SLEEPING, rows=10, slots=2, chunk_rows=3), USUAL)
    assert (found.chunks, found.chunk_rows, found.chunk_seconds) == (4, 3, pytest.approx(0.75))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("brokers", "failures"),
    [
        (2, [Failure("worker", 0.9), Failure("broker", 0.3)]),
        (4, [Failure("worker", 0.9)]),  # 20 s until what lies with its broker is sent again
        (1, [Failure("link", 0.3, 0.6)]),
    ],
)
def test_of_a_larger_data_set_what_lasts_for_a_share_of_it_is_longer_alone(
    brokers: int, failures: list[Failure]
) -> None:
    scenario = Scenario(rows=10_000, row_seconds=0.25, slots=16, workers=4, brokers=brokers, chunk_rows=1)
    found = forecast(replace(scenario, failures=failures), USUAL)
    whole = run(replace(scenario, failures=failures), USUAL).seconds
    assert found.simulated_rows == 1_000
    assert found.failure_seconds == pytest.approx(whole - run(scenario, USUAL).seconds, abs=6.0)
    assert found.seconds == pytest.approx(whole, rel=0.03)


@pytest.mark.parametrize(
    ("limit", "scenario", "option"),
    [
        ("producers", Scenario(rows=20_000, row_seconds=0.1, slots=1_000, workers=50, chunk_rows=1), "--producers"),
        ("main processes", Scenario(rows=4_000, row_seconds=0.1, slots=200, chunk_rows=1), "--workers"),
    ],
)
def test_what_is_told_to_change_lifts_the_limit(limit: str, scenario: Scenario, option: str) -> None:
    found = forecast(scenario, USUAL)
    assert found.limit == limit
    longer, more = found.advice
    assert longer.startswith("longer chunks: --chunk-rows ")
    chunk_rows = int(longer.split()[3].replace(",", ""))
    found_longer = forecast(replace(scenario, rows=scenario.rows * chunk_rows, chunk_rows=chunk_rows), USUAL)
    assert found_longer.slots_busy > found.slots_busy
    assert found_longer.used[limit] < found.used[limit]
    count = int(more.split(option)[1].split()[0].replace(",", ""))
    found_more = forecast(replace(scenario, **{option.removeprefix("--"): count}), USUAL)
    assert found_more.slots_busy > 1.3 * found.slots_busy


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"slots": 0, "workers": 0}, "slots is 0"),
        ({"row_seconds": math.nan}, "row_seconds is nan"),
        ({"row_bytes": -1}, "row_bytes is -1"),
        ({"rows": 10**400}, "rows is more than 1,000,000,000,000,000"),
        ({"slots": 2_000_000}, "slots is more than 50,000"),
        ({"row_seconds": 1e300}, "row_seconds is more than 1,000,000"),
        ({"row_bytes": 1e12}, "row_bytes is more than 536,870,912"),
        ({"cores_per_host": 0}, "cores_per_host is 0"),
        ({"chunk_rows": 0}, "chunk_rows is 0"),
        ({"workers": 17}, "17 workers have only 16 slots"),
        ({"brokers": 3}, "3 brokers have only 2 workers"),
        ({"producers": 401}, "401 producers have only 400 rows"),
        ({"workers": 1, "failures": [Failure("worker", 0.5)]}, "2 workers at least: 1 of them"),
        ({"workers": 1, "failures": [Failure("link", 0.2, 0.5)]}, "2 workers at least: 1 of them"),
        ({"failures": [Failure("worker", 0.5), Failure("link", 0.4, 0.6, 0)]}, "3 workers at least: 2 of them"),
        ({"failures": [Failure("worker", 0.5, worker=2)]}, "worker 2 is to fail: there are 2"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(SLEEPING, **wrong)  # type: ignore[arg-type]


def test_a_job_sends_and_collects_as_many_at_once_as_the_real_one() -> None:
    assert (job.BATCH_CHUNKS, job.BATCH_BYTES) == (dispatcher.BATCH_CHUNKS, dispatcher.BATCH_BYTES)
    assert (job.ANSWERS_AT_ONCE, job.COLLECT_SECONDS) == (broker_channel.ANSWERS_AT_ONCE, runner.COLLECT_SECONDS)


def test_costs_are_what_they_were_when_they_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs = replace(USUAL, measured={"cores": 2})
    path.write_text(costs.as_json())
    assert read_costs(path) == costs


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chunk": {}}', '{"chunk": {"cpu_ms": 1}}', '{"chunk": 1}', "\xff"])
def test_what_is_no_file_of_costs_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"no costs of a capacity plan: .*capacity_costs --write writes them"):
        read_costs(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk": 1},
        {"wake": None},
        {"chunk": {}},
        {"chunk": vars(USUAL.chunk) | {"producer_ms": "x"}},
        {"chunk": vars(USUAL.chunk) | {"producer_ms": math.nan}},
        {"chunk": vars(USUAL.chunk) | {"hop_ms": "a"}},
        {"hop_ms": -5},
        {"job_ms": math.inf},
        {"job_ms": 10**400},
        {"hop_ms": True},
        {"spam": 1},
    ],
)
def test_costs_that_are_none_are_told(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(json.loads(USUAL.as_json()) | wrong))
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"{path}: no costs of a capacity plan: .*({name}|the file)[ .].*must be"):
        read_costs(path)


def test_the_packaged_costs_are_measured_ones_that_name_no_machine() -> None:
    costs = read_costs()
    assert min(vars(costs.chunk).values()) > 0.01
    assert set(costs.measured) >= {"at", "cpu", "cores", "others", "versions"}
    assert set(json.loads(capacity_costs.PACKAGED.read_text())) == set(vars(costs))
