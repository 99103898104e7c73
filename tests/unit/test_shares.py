"""What a job's priority means: its weight, and how many chunks of it are in flight beside other jobs."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from click.testing import CliRunner

from producer.cli.predict import predict
from producer.scheduling.job_options import JobOptions
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.priority import WEIGHTS, Priority, priority_name, weight_of
from producer.scheduling.window import CHUNKS_PER_SLOT, SMALL_CHUNKS_PER_SLOT, Window
from tasks.transport import scripts
from tests.unit.test_scheduling import LARGE, fill, slot
from worker_config.errors import UsageError


@pytest.mark.parametrize(("name", "weight"), WEIGHTS.items())
def test_a_class_is_a_weight_and_a_weight_is_a_class(name: str, weight: float) -> None:
    assert weight_of(name) == weight_of(str(weight)) == weight_of(weight) == weight
    assert priority_name(weight) == name


def test_any_other_number_is_one_too() -> None:
    assert weight_of("2.5") == weight_of(2.5) == 2.5
    assert priority_name(2.5) == "2.5"


@pytest.mark.parametrize("wrong", ["urgent", "", "Bulk", -1, "-4", 0, 1e9, "nan", "inf", None, True, [4]])
def test_what_is_no_priority_is_refused_with_those_that_are(wrong: Priority) -> None:
    told = rf"priority is .*{re.escape(str(wrong))}.*(interactive, normal, bulk|bulk is 1)"
    with pytest.raises(UsageError, match=told):
        weight_of(wrong)
    if wrong is not None:
        with pytest.raises(UsageError, match="priority is"):
            JobOptions(priority=wrong)


def test_the_default_is_normal_and_bulk_of_what_nobody_waits_for() -> None:
    assert [JobOptions(detach=detach).weight for detach in (False, True)] == [weight_of("normal"), weight_of("bulk")]
    assert JobOptions(detach=True, priority="interactive").weight == weight_of("interactive")


def test_predict_refuses_a_class_that_there_is_not() -> None:
    done = CliRunner().invoke(predict, ["m", "rows.npy", "-o", "out.npy", "--priority", "urgent"])
    assert isinstance(done.exception, UsageError)
    assert "interactive, normal, bulk, or a number" in str(done.exception)


# --- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "chunks"), [(1.0, 16), (0.8, 13), (0.5, 8), (0.1, 2), (0.01, 1)])
def test_beside_others_a_job_has_its_share_of_the_window_and_a_chunk_at_least(share: float, chunks: int) -> None:
    window = Window(4)
    window.share = share
    assert fill(window, LARGE) == chunks


def test_it_does_not_wait_until_half_of_its_share_is_answered_unless_chunks_are_short() -> None:
    window, short = Window(4), Window(4)
    for one, seconds in ((window, 0.25), (short, 0.001)):
        one.share = 0.5
        one.sent(LARGE)
        one.answered(LARGE, seconds)
        assert fill(one, LARGE) == 8
        one.answered(LARGE, seconds)
    assert window.admits(0, LARGE)
    assert not short.admits(0, LARGE)


def test_chunks_that_are_held_back_count_for_the_whole_window_alone() -> None:
    window = Window(4)
    window.share = 0.125
    assert fill(window, LARGE, held_back=10) == 2
    assert not window.admits(16, LARGE)


def test_while_too_few_chunks_wait_for_all_slots_a_job_has_more_than_its_share() -> None:
    window = Window(4)
    window.share = 0.25
    assert fill(window, LARGE) == 4
    for _ in range(2):
        window.waiting(1)
    assert fill(window, LARGE) == 6
    for _ in range(99):
        window.waiting(0)
    assert fill(window, LARGE) == 6, "never more than alone"
    for _ in range(9):
        window.waiting(12)
    assert fill(window, LARGE) == 0
    for _ in range(13):
        window.answered(LARGE, 0.25)
    assert fill(window, LARGE) == 1, "its share, as others have chunks enough"


def test_chunks_go_where_the_job_has_more_of_the_slots() -> None:
    slots = [slot("a", digits="1"), slot("b", digits="2")]
    queues = LoadBalancer(slots)
    queues.update(slots, {slots[0].queue: 0.75, slots[1].queue: 0.25})
    chosen = Counter(queues.choose() for _ in range(100))
    assert [chosen[one.queue] for one in slots] == [75, 25]


def test_detached_jobs_have_the_same_window_as_attached_ones() -> None:
    assert (
        f"local CHUNKS_PER_SLOT, MOST_CHUNKS_PER_SLOT = {CHUNKS_PER_SLOT}, {SMALL_CHUNKS_PER_SLOT}\n"
        in scripts.text_of("refill")
    )
