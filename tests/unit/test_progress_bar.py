"""The pace of a job, how it is shown, and what becomes of a notebook's bar without a notebook."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tqdm import tqdm

from producer.job.progress_bar import ProgressReporter, follow, paced
from producer.records.job_store import JobState
from producer.records.progress import Pace, Progress, details_of, line_of

RUNNING = Progress(JobState.RUNNING, 6000, predicted=1150, failed=30, in_flight=7, slots=2, seconds=2.5, skipped=20)


def pace_of(samples: list[tuple[float, int]]) -> Pace:
    pace = Pace()
    for seconds, rows in samples:
        pace.add(seconds, rows)
    return pace


def test_a_slow_start_does_not_count_for_ever() -> None:
    # Ten seconds without a row, then 100 rows a second.
    samples = [(second, max(0, second - 10) * 100) for second in range(31)]
    assert pace_of(samples).rows_per_second == 100


def test_what_an_earlier_run_has_done_is_no_pace() -> None:
    assert pace_of([(0, 50_000)]).rows_per_second == 0
    assert pace_of([(0, 50_000), (1, 50_010), (2, 50_020)]).rows_per_second == 10
    assert pace_of([]).rows_per_second == 0


def test_a_pace_follows_the_slots_and_keeps_little() -> None:
    pace = Pace()
    for step in range(100_000):
        seconds = step / 2
        pace.add(seconds, int(10 * seconds if seconds < 20_000 else 200_000 + 20 * (seconds - 20_000)))
    assert pace.rows_per_second == pytest.approx(20, rel=0.01)
    assert len(pace._samples) < 500


def test_a_line_has_all_that_is_known() -> None:
    line = line_of(replace(RUNNING, sent_again=1), 480.0)
    expected = "1,200 of 6,000 rows, 480 rows/s, 00:10 left, slots 2/2, 7 in flight, 30 failed"
    assert line == f"{expected}, 1 sent again"
    assert line_of(replace(RUNNING, rows=None, failed=0), 0.0).startswith("1,170 of ? rows, 0 rows/s, slots 2/2")


def test_no_more_slots_are_busy_than_there_are_chunks() -> None:
    assert details_of(replace(RUNNING, in_flight=1, failed=0)) == "slots 1/2, 1 in flight"


def test_a_bar_s_time_left_is_that_of_the_pace() -> None:
    screen = io.StringIO()
    bar = paced(tqdm)(total=6000, initial=1000, unit=" rows", file=screen)
    bar.n, bar.rows_per_second = 1200, 480.0
    bar.refresh()
    assert "1200/6000" in screen.getvalue()
    assert "<00:10, 480.00 rows/s" in screen.getvalue()
    bar.close()


@pytest.mark.parametrize("over_by", ["state", "event", "nobody"])
def test_a_job_is_followed_to_its_end_and_its_end_is_shown(over_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.job.progress_bar.LOOK_SECONDS", 0.0)
    shown: list[int] = []
    is_over = threading.Event()

    def states() -> Iterator[Progress | None]:
        yield RUNNING
        yield None if over_by == "nobody" else replace(RUNNING, predicted=5950, state=JobState(end))

    end = JobState.DONE if over_by == "state" else JobState.RUNNING
    looks = states()

    def show(progress: Progress, _: float) -> None:
        shown.append(progress.done)
        if over_by == "event":
            is_over.set()

    follow(lambda: next(looks), show, is_over)
    assert shown == ([1200] if over_by == "nobody" else [1200, 6000])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    reporter = ProgressReporter(None, 1000)
    reporter.show(RUNNING, 480.0)
    reporter.say("a word in between")
    reporter.close()
    assert "1200/6000" in screen.getvalue(), "how many rows there are may be known later"
    assert "slots 2/2, 7 in flight" in screen.getvalue()
    assert "a word in between\n" in screen.getvalue()


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ProgressReporter(6000)
    for seconds in (2.5, 10.0, 12.0, 19.9, 20.0):
        reporter.show(replace(RUNNING, seconds=seconds), 480.0)
    reporter.close()
    assert capsys.readouterr().err.count("1,200 of 6,000 rows, 480 rows/s") == 2


def test_a_job_that_is_watched_has_its_own_line_at_once_and_none_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ProgressReporter(6000, line=lambda progress, _: "" if progress.state is JobState.DONE else "it runs")
    for seconds in (0.5, 5.0, 5.5):
        reporter.show(replace(RUNNING, seconds=seconds), 480.0)
    reporter.show(replace(RUNNING, seconds=99.0, state=JobState.DONE), 480.0)
    assert capsys.readouterr().err == "it runs\nit runs\n"


def test_a_notebook_keeps_the_bar_s_last_state_as_html_and_as_text_and_needs_no_widgets() -> None:
    code = """
import sys, types
sys.modules["ipywidgets"] = None
import IPython.display as shown
from producer.records import notebook_bar
seen, updates = [], []
class Handle:
    def update(self, data, raw): updates.append(data)
shown.display = lambda data, raw, display_id: seen.append(data) or Handle()
from producer.job.progress_bar import paced
assert not notebook_bar.is_notebook()
import IPython
IPython.get_ipython = lambda: types.SimpleNamespace(kernel=1)
assert notebook_bar.is_notebook()
bar = paced(notebook_bar.NotebookBar)(total=6000, unit=" rows", dynamic_ncols=True)
bar.n, bar.rows_per_second = 6000, 480.0
bar.refresh()
bar.close()
print(len(seen), seen[0]["text/plain"])
print(updates[-1]["text/plain"])
print(updates[-1]["text/html"])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, last, html = done.stdout.splitlines()
    assert first.startswith("1   0%|")
    assert "6000/6000" in last
    assert html.startswith('<progress max="6000" value="6000"></progress> 6000/6000 [')
