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
