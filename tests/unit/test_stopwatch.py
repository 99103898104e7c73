"""A child's seconds are those of its stages, with nothing between them."""

from __future__ import annotations

from tasks.protocol.messages import STAGES
from tasks.telemetry.stopwatch import CELLS, Stopwatch, seconds_in


def test_the_stages_have_all_seconds() -> None:
    now = 100.0
    watch = Stopwatch(lambda: now)
    for stage, seconds in ("wait", 2.0), ("infer", 3.0), ("wait", 0.5), ("infer", 1.0):
        watch.enter(stage)
        assert watch.stage == stage
        now += seconds
    assert watch.lap() == {"wait": 2.5, "infer": 4.0}
    now += 7.0
    watch.enter("answer")
    assert watch.lap() == {"infer": 7.0, "answer": 0.0}
    assert {"wait", "infer", "answer"} <= set(STAGES)


def test_what_a_chunk_took_that_got_no_answer_was_waiting_to_the_next_one() -> None:
    now = 100.0
    watch = Stopwatch(lambda: now)
    watch.enter("answer")
    watch.lap()
    now += 0.25  # it leaves
    watch.enter("wait")
    for seconds in (2.0, 3.0):
        now += 1.0
        watch.begin()
        now += seconds
    assert watch.lap() == {"answer": 0.25, "wait": 4.0, "fetch": 3.0}
    watch.enter("wait")


def test_a_listener_is_told_of_every_stage_that_ends() -> None:
    now, told = 1.0, []
    watch = Stopwatch(lambda: now)
    watch.listener = lambda *stage: told.append(stage)
    watch.enter("fetch")
    now = 3.0
    watch.enter("wait")
    assert told == [("wait", 1.0, 1.0), ("fetch", 1.0, 3.0)]


def test_its_cells_have_all_seconds_up_to_now_of_one_stopwatch_after_the_other() -> None:
    now, cells = 100.0, [0.0] * CELLS
    watch = Stopwatch(lambda: now, cells)
    assert sum(seconds_in(cells, now).values()) == 0
    now += 2.0
    watch.enter("infer")
    now += 3.0
    told = seconds_in(cells, now)
    assert (told["wait"], told["infer"]) == (2.0, 3.0)
    watch.lap()
    now += 4.0  # its process dies, and another one comes
    watch = Stopwatch(lambda: now, cells)
    now += 1.0
    told = seconds_in(cells, now)
    assert (told["wait"], told["infer"]) == (3.0, 7.0)
    assert sum(told.values()) == now - 100.0
    watch.enter("fetch")
    assert seconds_in(cells, now) == told
