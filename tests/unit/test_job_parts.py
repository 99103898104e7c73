"""What a job is of which each shard has a part, and which chunks each part has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from producer.broker.job_parts import JobParts
from producer.broker.jobs import ask_names
from producer.broker.shard_clients import ShardClients
from producer.broker.shards import on_shard
from producer.detached.plan import MOST_TURNS, deal_of
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from tasks.protocol.messages import FailureRecord, ModelRef, SliceRef
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord, SlotRecord
from tasks.transport.connection import connect
from worker_config.errors import BrokerError, UnknownJobError

URLS = ["redis://:secret@a:1/0", "redis://b:1/0", "redis://c:1/0"]
MODELS = [ModelRef("one", "0" * 64), ModelRef("two", "1" * 64)]
PLAN = Plan(100, 10, MODELS, None, None, 600, [], deal=(0, 1, 2))
AWAY = {1: BrokerError("away")}


def part(number: int, state: str = "done", plan: Plan = PLAN, **more: object) -> tuple[JobState, JobRecord]:
    ledger = Ledger(rows=100, predicted=len(plan.chunks_of(number)) * 10, chunks_sent=10).as_dict()
    record = JobRecord("0123456789ab", ["?"], "?", "redis", 100, 1.0, 2.0, "?", ledger, plan=replace(plan, part=number))
    return JobState(state), replace(record, **more)


def parts(*found: tuple[JobState, JobRecord], away: dict[int, BrokerError] | None = None) -> JobParts:
    numbers = [record.plan.part for _, record in found if record.plan]
    return JobParts(URLS, dict(zip(numbers, found, strict=True)), away or {})


def slots(*counts: int) -> list[SlotRecord]:
    numbers = [shard for shard, count in enumerate(counts) for _ in range(count)]
    return [SlotRecord("w", at, 1, 0.0, on_shard("q", shard), []) for at, shard in enumerate(numbers)]


def test_chunks_are_dealt_by_slots_and_evenly() -> None:
    assert deal_of(slots(4)) == (0,)
    assert deal_of(slots(2, 2, 2)) == (0, 1, 2)
    assert deal_of(slots(0, 3, 1)) == (1, 1, 2, 1)
    many = Counter(deal_of(slots(1000, 2000, 1)))
    assert sum(many.values()) <= MOST_TURNS + 1
    assert many[1] == pytest.approx(2 * many[0], rel=0.02)
    assert many[2] == 1


def test_each_chunk_is_of_one_part() -> None:
    shares = [PLAN.chunks_of(number) for number in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(10))
    assert PLAN.parts == {0, 1, 2}
    assert replace(PLAN, rows=15).parts == {0, 1}
    assert Plan(100, 10, MODELS, None, None, 600, []).chunks_of(0) == list(range(10))


def test_counts_are_those_of_all_parts() -> None:
    state, record = parts(part(0), part(1), part(2)).whole()
    assert (state, record.missing, record.error) == (JobState.DONE, "", "")
    ledger = Ledger(**record.ledger)
    assert (ledger.rows, ledger.predicted, ledger.chunks_sent, ledger.skipped) == (100, 100, 10, 0)


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (("done", "running", "done"), JobState.RUNNING),
        (("done", "cancelled", "running"), JobState.CANCELLED),
        (("failed", "cancelled", "running"), JobState.FAILED),
    ],
)
def test_the_state_is_that_of_the_worst_part(states: tuple[str, ...], whole: JobState) -> None:
    found = parts(*(part(number, state) for number, state in enumerate(states)))
    assert found.whole()[0] is whole
    assert found.whole()[1].error == ""
    assert found.has_ended_badly is (whole is not JobState.RUNNING)


def test_a_part_that_is_away_keeps_the_job_running() -> None:
    found = parts(part(0), part(2), away=AWAY)
    state, record = found.whole()
    assert state is JobState.RUNNING
    assert record.missing == "Redis at redis://b:1/0 is away: 3 of 10 chunks"
    assert found.out_of_reach == [AWAY[1]]


def test_a_part_that_is_lost_fails_the_job_unless_the_plan_makes_it_again() -> None:
    state, record = parts(part(1), part(2)).whole()
    assert state is JobState.FAILED
    assert record.error.startswith("Redis at redis://:***@a:1/0 has lost its part: 4 of 10 chunks")
    in_file = replace(PLAN, in_place=SliceRef("/data/rows.npy", 800, 0, 0, "<f8", (1,)))
    state, record = parts(part(1, plan=in_file), part(2, plan=in_file)).whole()
    assert (state, record.error) == (JobState.RUNNING, "")
    assert "has lost its part" in record.missing


def test_a_part_that_is_lost_is_not_left_where_another_one_is() -> None:
    in_file = replace(PLAN, in_place=SliceRef("/data/rows.npy", 800, 0, 0, "<f8", (1,)))
    found = {2: part(0, plan=in_file), 1: part(1, plan=in_file)}  # as of URLs in another order
    assert JobParts(URLS, found).lost == {2}
    assert JobParts(URLS, found).whole()[0] is JobState.FAILED


def test_parts_of_which_none_was_sent_are_no_job_without_the_others() -> None:
    found = parts(part(1, "running", unsent=True), part(2, "running", unsent=True))
    with pytest.raises(UnknownJobError, match="was not left"):
        found.whole()
    assert parts(part(1, "running"), part(2, "running", unsent=True)).whole()[0] is JobState.FAILED
    # Nobody knows yet.
    assert parts(part(0, "running", unsent=True), part(2), away=AWAY).whole()[0] is JobState.RUNNING


def test_models_that_failed_on_some_shards_have_failed_together() -> None:
    failed = [FailureRecord(0, 10, "predict", "ValueError", "no", model=ref.name) for ref in MODELS]
    one, two = ({one.model: one} for one in failed)
    state, record = parts(part(0, failed_models=one), part(1), part(2)).whole()
    assert (state, list(record.failed_models)) == (JobState.DONE, ["one"])
    assert parts(part(0, failed_models=one), part(1, failed_models=two), part(2)).whole()[0] is JobState.FAILED


def test_of_an_attached_job_the_newest_record_counts() -> None:
    old, new = (replace(part(0)[1], plan=None, updated_at=at) for at in (1.0, 3.0))
    found = JobParts(URLS, {0: (JobState.RUNNING, old), 2: (JobState.DONE, new)})
    assert found.whole() == (JobState.DONE, new)
    assert not found.missing


@pytest.mark.parametrize("count", [1, 2])
def test_that_names_cannot_be_asked_for_is_said_where_there_are_others(tmp_path: Path, count: int) -> None:
    urls = [f"unix://{tmp_path}/{number}" for number in range(count)]
    shards = ShardClients(urls, [connect(url, retries=0) for url in urls])
    with pytest.raises(BrokerError, match=f"Redis at {urls[0]} cannot be reached") as away:
        ask_names(shards, lambda client: client.ping())
    assert ("keeps the names" in str(away.value)) is (count == 2)
    shards.close()
