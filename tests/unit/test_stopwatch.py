"""A child's seconds are those of its stages, with nothing between them."""

from __future__ import annotations

from tasks.stopwatch import STAGES, Stopwatch


def test_the_stages_have_all_seconds() -> None:
    now = 100.0
    watch = Stopwatch(lambda: now)
    for stage, seconds in ("wait", 2.0), ("infer", 3.0), ("wait", 0.5), ("infer", 1.0):
        watch.enter(stage)
        assert watch.stage == stage
        now += seconds
    assert watch.take() == {"wait": 2.5, "infer": 4.0}
    now += 7.0
    watch.enter("answer")
    assert watch.take() == {"infer": 7.0, "answer": 0.0}
    assert {"wait", "infer", "answer"} <= set(STAGES)


def test_a_listener_is_told_of_every_stage_that_ends() -> None:
    now, told = 1.0, []
    watch = Stopwatch(lambda: now)
    watch.listener = lambda *stage: told.append(stage)
    watch.enter("fetch")
    now = 3.0
    watch.enter("wait")
    assert told == [("wait", 1.0, 1.0), ("fetch", 1.0, 3.0)]
