"""What a job notes of itself: each answer's fate, bounded and spread evenly; lanes in which no second is lost."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from producer.records import timeline, timeline_store
from producer.records.timeline import Entry, Outcome, RowsByTime, Timeline
from producer.report.timeline_lanes import AWAY, bars_of, clock_shifts, short_names, spans_of
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.scheduling.settings_text import job_settings
from tasks.protocol.messages import Failure, FailureRecord, InlineRef, Outputs
from tasks.protocol.records import SlotRecord
from worker_config.settings import Settings

JOB = "0123456789ab"
SLOT = "celery@host:abcd/1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def outputs(index: int, slot: str = SLOT, begun_at: float = 0.0, **stages: float) -> Outputs:
    return Outputs(JOB, index, index * 4, index * 4 + 4, slot, 0.1, InlineRef(b""), begun_at=begun_at, stages=stages)


def failure(index: int) -> Failure:
    return Failure(JOB, index, "", FailureRecord(index * 4, index * 4 + 4, "worker", "WorkerLostError", "died"))


def entry(
    index: int, slot: str = SLOT, sent: float = 0.0, begun: float = 1.0, answered: float = 9.0, **stages: float
) -> Entry:
    return Entry(index, index, index + 1, slot, sent, begun, answered, 1, "joined", stages)


def slot(worker: str, number: int, pid: int) -> SlotRecord:
    return SlotRecord(worker, number, pid, 0.0, "q", [])


def test_each_answer_has_its_fate_and_its_times() -> None:
    clock = Clock()
    seen = Timeline(clock)
    sent_at = clock.now
    clock.now += 2
    seen.answered(failure(1), Outcome.RESEND, sent_at, 1)
    seen.sent_again(1, "it came back")
    clock.now += 1
    seen.answered(outputs(1, infer=0.5), Outcome.JOINED, sent_at, 2)
    seen.answered(outputs(1), Outcome.DUPLICATE)
    seen.answered(failure(2), Outcome.FAILED, sent_at, 1)

    assert [(one.index, one.outcome, one.times_sent) for one in seen.entries] == [
        (1, "again", 1),
        (1, "joined", 2),
        (1, "duplicate", 0),
        (2, "failed", 1),
    ]
    joined = seen.entries[1]
    assert (joined.sent_at, joined.answered_at, joined.seconds) == (1_000.0, 1_003.0, 0.5)
    summary = seen.summarize()
    assert Counter(event.kind for event in summary.events) == Counter(
        ["came back", "sent again", "duplicate", "rows failed"]
    )
    assert summary.answers == 4
    assert sum(summary.bins) == 4, "rows of the one that was joined"
    assert [one.index for one in summary.slowest] == [1]


def test_entries_are_bounded_and_spread_evenly_and_sums_are_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_ENTRIES", 100)
    clock = Clock()
    seen = Timeline(clock)
    for index in range(1_000):
        clock.now += 0.01
        seen.answered(outputs(index, infer=float(index % 317)), Outcome.JOINED, clock.now, 1)
        assert len(seen.entries) <= 100
    summary = seen.summarize()
    indexes = [one.index for one in seen.entries]
    assert indexes == list(range(0, 1_000, summary.every))
    assert summary.every == 16
    assert sum(summary.bins) == 4_000
    assert [one.seconds for one in summary.slowest[:4]] == [316.0, 316.0, 316.0, 315.0]


def test_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_EVENTS", 5)
    seen = Timeline()
    for index in range(8):
        seen.sent_again(index, "x" * 10_000)
    summary = seen.summarize()
    assert (len(summary.events), summary.more_events) == (5, 3)
    assert len(summary.events[0].text) == timeline.LONGEST_TEXT


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)), max_size=80))
def test_rows_by_time_loses_no_row_and_stays_small(counts: list[tuple[float, int]]) -> None:
    rows = RowsByTime()
    for at, count in counts:
        rows.add(at, count)
    assert sum(rows.bins) == sum(count for _, count in counts)
    assert len(rows.bins) <= timeline.MOST_BINS


def test_children_that_go_and_come_are_seen() -> None:
    seen = Timeline()
    seen.look([slot("celery@a:1", 0, 10), slot("celery@a:1", 1, 11), slot("celery@b:2", 0, 20)])
    assert seen.summarize().events == []
    seen.look([slot("celery@a:1", 0, 10), slot("celery@a:1", 1, 12)])
    events = [(event.kind, event.slot, event.text) for event in seen.summarize().events]
    assert events == [
        ("slot gone", "celery@a:1/1", "child 11 is gone"),
        ("slot gone", "celery@b:2/0", "its worker is gone, or takes no more chunks"),
        ("slot came", "celery@a:1/1", "child 12 takes chunks"),
    ]
    assert seen.summarize().slots == {"celery@a:1": 2, "celery@b:2": 1}


def test_a_redis_that_is_away_costs_the_timeline_nothing_but_itself(tmp_path: Path) -> None:
    seen = Timeline()
    seen.answered(outputs(0), Outcome.JOINED, 1.0, 1)
    seen.reported_count = 1
    with redis.Redis(unix_socket_path=str(tmp_path / "none.sock")) as client:
        timeline_store.write(client, JOB, seen, 60)
    assert seen.reported_count == 0, "all of it is reported again"


def test_settings_are_told_without_the_broker() -> None:
    settings = Settings(broker_url="redis://:hunter2@host:6379/0")
    spec = JobSpec(JobOptions(policy=ErrorBudget("skip", most_share=0.05)), [], [], "redis")
    told = job_settings(settings, ChunkSizer(8, fixed_rows=64), spec)
    assert (told["chunk_rows"], told["on_error"], told["max_failed"]) == ("64", "skip", "5 % of the rows")
    assert "hunter2" not in str(told)


def test_a_clock_that_is_right_is_left_alone_and_one_that_is_not_is_moved_as_little_as_can_be() -> None:
    right = entry(0, "w@a/0", sent=1.0, begun=2.0, answered=4.0, infer=1.0)
    late = entry(1, "w@b/0", sent=1.0, begun=0.5, answered=9.0, infer=1.0)
    ahead = entry(2, "w@c/0", sent=1.0, begun=50.0, answered=4.0, infer=1.0)
    unsent = entry(3, "w@d/0", sent=0.0, begun=2.0, answered=3.0, infer=1.0)
    assert clock_shifts([right, late, ahead, unsent]) == {"w@a": 0.0, "w@b": 0.5, "w@c": -47.0, "w@d": 0.0}


def lane(count: int) -> list[Entry]:
    """Chunks of one slot that follow each other without a gap, from second 100 on."""
    stages = {"answer": 0.1, "wait": 0.2, "fetch": 0.3, "infer": 0.4, "store": 0.2}
    return [
        entry(index, sent=100.0, begun=100.3 + 1.2 * index, answered=102.0 + 1.2 * index, **stages)
        for index in range(count)
    ]


@pytest.mark.parametrize("count", [1, 7, 4_500])
def test_lanes_lose_no_second_however_many_chunks_are_drawn_together(count: int) -> None:
    bars = bars_of(spans_of(lane(count), 100.0))
    assert len(bars) <= 5 * 2_000
    by_kind: Counter[str] = Counter()
    for bar in bars:
        by_kind[bar.kind] += bar.seconds
    assert by_kind["computing"] == pytest.approx(0.4 * count)
    assert by_kind["waiting"] == pytest.approx(0.2 * count)
    assert AWAY not in by_kind
    for one, following in pairwise(bars):
        assert one.start + one.seconds == pytest.approx(following.start, abs=1e-3)
    assert bars[0].start == pytest.approx(0.0, abs=1e-6)
    assert bars[-1].start + bars[-1].seconds == pytest.approx(1.2 * count, rel=1e-3)


def test_what_a_lane_lacks_is_away_and_chunks_that_were_thinned_out_are_stood_for() -> None:
    entries = [one for one in lane(9) if one.index not in (4, 5)]
    away = [bar for bar in bars_of(spans_of(entries, 100.0)) if bar.kind == AWAY]
    assert [(round(bar.start, 3), round(bar.seconds, 3)) for bar in away] == [(4.8, 2.4)]

    kept = bars_of(spans_of(lane(9)[::2], 100.0), every=2)
    assert AWAY not in {bar.kind for bar in kept}
    assert math.fsum(bar.seconds for bar in kept) == pytest.approx(1.2 * 9)


def test_a_slot_did_not_wait_for_a_job_before_it_began() -> None:
    first = entry(0, sent=100.0, begun=100.5, answered=101.0, answer=3.0, wait=70.0, infer=0.4)
    bars = bars_of(spans_of([first], 100.0))
    assert [(bar.kind, round(bar.start, 3), round(bar.seconds, 3)) for bar in bars] == [
        ("waiting", 0.0, 0.5),
        ("computing", 0.5, 0.4),
    ]


def test_slots_have_short_names_as_long_as_these_tell_them_apart() -> None:
    names = short_names(["celery@a:1111/0", "celery@a:1111/1", "celery@b:2222/0", "celery@b:3333/0"])
    assert list(names.values()) == ["celery@a/0", "celery@a/1", "celery@b/0", "celery@b:3333/0"]
