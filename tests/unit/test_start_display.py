"""What somebody sees who waits for a start: a line that lives on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import types

import pytest

from producer.cli import describing
from producer.requests import start_display
from producer.requests.start_display import StartDisplay
from tests.unit.test_terminal import Terminal

STEPS = ["starting Redis", "starting a worker", "making a snapshot of digits"]
TRIALS = [f"trying executors for digits, {number} of 5" for number in (1, 2, 3)]


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(start_display, "time", clock)
    return clock


def start(clock: Clock, display: StartDisplay, steps: list[str], seconds: int = 20) -> None:
    """Each step takes so long, and is shown each second."""
    with display:
        for step in steps:
            for _ in range(seconds):
                display.show(step)
                clock.now += 1.0


def test_a_terminal_has_one_line_with_the_step_and_its_seconds_which_goes_away(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    start(clock, StartDisplay(), STEPS)
    drawn = screen.getvalue()
    for text in ("celeriac: starting Redis, 2 s", "celeriac: making a snapshot of digits, 59 s"):
        assert text in drawn
    assert "starting Redis, 0 s" not in drawn, "what is over at once is not shown"
    assert drawn.count("\n") == 0
    assert screen.lines() == [""]
    assert caplog.messages == ["ready after 60 s; what was prepared is kept for later starts"]


def test_how_long_it_takes_is_told_as_soon_as_it_is_known(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    start(clock, StartDisplay(), TRIALS)
    drawn = screen.getvalue()
    assert "1 of 5, 19 s, about" not in drawn
    assert "2 of 5, 20 s, about 80 s left" in drawn
    assert "3 of 5, 50 s, about 50 s left" in drawn


def test_a_log_has_a_line_for_each_step_that_lasts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    start(clock, StartDisplay(), STEPS)
    assert caplog.messages == [
        "starting Redis, 6 s",
        "starting a worker, 0 s",
        "making a snapshot of digits, 0 s",
        "ready after 60 s; what was prepared is kept for later starts",
    ]
    caplog.clear()
    start(clock, StartDisplay(), ["loading models into 2 children"], seconds=100)
    assert [line.rpartition(", ")[2] for line in caplog.messages[:-1]] == ["6 s", "37 s", "68 s", "99 s"]


def test_a_short_start_and_a_quiet_one_say_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    start(clock, StartDisplay(), STEPS, seconds=1)
    start(clock, StartDisplay(quiet=True), STEPS)
    assert caplog.messages == []


def test_a_notebook_is_as_good_as_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(Terminal):
        __module__ = "ipykernel.iostream"

        def isatty(self) -> bool:
            return False

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "stderr", screen := Stream())
    start(clock, StartDisplay(), STEPS)
    assert "celeriac: starting a worker, 25 s" in screen.getvalue()


def test_steps_of_a_process_are_shown_and_what_it_writes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[str]()
    monkeypatch.setattr(StartDisplay, "show", lambda _, step: seen.append(step))
    code = """
import sys
print("an object")
print("step: making a snapshot of digits", file=sys.stderr, flush=True)
print("celeriac: no", file=sys.stderr, flush=True)
sys.exit(5)
"""
    done = describing.run_showing([sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (5, "an object\n", "celeriac: no\n")
    assert set(seen) <= {"importing TensorFlow", "making a snapshot of digits"}
    assert seen
