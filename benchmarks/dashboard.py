"""What does a dashboard of 100 jobs and 1,000 slots cost, and how soon is its page there?

The jobs and workers are played: their records change in a real Redis each second, as those of real ones would. A
browser opens the page several times, with nothing kept from before; ready means that all that goes on is drawn. Memory
and processor seconds are those of the dashboard's process: while nobody looks, while three pages look, and while one of
a job is open beside them. Processor seconds count, not time, so other programs on the machine do little to them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil
import pytest

from benchmarks.harness import DISTURBED
from benchmarks.meter import Load, PeakMemory, wait_until_idle
from benchmarks.report import Finding, at_most, report
from benchmarks.stage import ask
from tests import browser
from tests.dashboards import Dashboard, Events, dashboard
from tests.played import Play
from tests.systems import RedisServer

PAGES = 3
READY = "document.body.dataset.ready === 'yes'"
# Without what starting a browser costs it, which is over by then.
READY_AT = {"ready": "Number(document.body.dataset.readyAt)"}
MOST_READY_MILLISECONDS, MOST_MIB, MOST_PERCENT = 1_000.0, 100.0, 5.0


def question(quick: bool) -> bool:
    """Measure it; return whether the machine was quiet while pages were opened."""
    watched_seconds, rounds = (8.0, 2) if quick else (60.0, 5)
    with tempfile.TemporaryDirectory(prefix="celeriac-") as name, ExitStack() as stack:
        place = Path(name)
        server = RedisServer(place, secured=False).start()
        stack.callback(server.stop)
        play = Play(server.admin())
        stack.enter_context(play.going_on())
        board = stack.enter_context(dashboard(server.url, place))
        memory = PeakMemory(board.process.pid, 0.2)
        unwatched = _percent(board, watched_seconds)
        for _ in range(PAGES):
            _look(stack, board, "/events")
        watched = _percent(board, watched_seconds)
        _look(stack, board, f"/jobs/{play.job_ids[0]}/events")
        of_job = _percent(board, watched_seconds)
        ready, others = _open_pages(board, place, rounds)
        peak = memory.stop()
    void = others > DISTURBED
    findings = [
        Finding("while nobody looks, of a core", f"{unwatched:.2f} %"),
        at_most(f"while {PAGES} pages look", watched, MOST_PERCENT, "%"),
        at_most("while a job is looked at, too", of_job, MOST_PERCENT, "%"),
        at_most("memory at its peak (RSS)", peak.rss / 2**20, MOST_MIB, "MiB"),
        Finding("the same (PSS)", f"{peak.pss / 2**20:.1f} MiB"),
    ]
    if ready:
        findings.append(at_most("page ready, median", median(ready), MOST_READY_MILLISECONDS, "ms"))
    else:
        findings.append(Finding("page ready", "not measured", note="there is no browser"))
    sizes = {"jobs": play.jobs, "slots": play.workers * play.slots, "seconds": watched_seconds, "rounds": rounds}
    measured = {"ready_milliseconds": ready, "others": others, "peak": vars(peak)}
    report("dashboard", sizes, findings, void=void, quick=quick, measured=measured)
    return not void


def _open_pages(board: Dashboard, place: Path, rounds: int) -> tuple[list[float], float]:
    """Milliseconds from the navigation until the page is drawn; the most of the processors that others took."""
    try:
        browser.check_there_is_one()
    except pytest.skip.Exception:
        return [], 0.0
    ready, others = [], 0.0
    for _ in range(rounds):
        wait_until_idle()
        load = Load()
        seen = browser.look_at(board.page, place / "page.png", ready=READY, ask=READY_AT, whole=False)
        ready.append(float(seen.values["ready"]))
        others = max(others, load.since()[1])
    return ready, others


def _percent(board: Dashboard, seconds: float) -> float:
    """What it takes of a core."""
    process = psutil.Process(board.process.pid)
    time.sleep(2.0)  # after what looking begins with
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


def _look(stack: ExitStack, board: Dashboard, path: str) -> None:
    """Take what a page is told, until the end."""
    events = stack.enter_context(board.looking(path))
    events.next()
    threading.Thread(target=_take, args=(events,), daemon=True).start()


def _take(events: Events) -> None:
    try:
        while True:
            events.next()
    except (OSError, ValueError, AttributeError):
        return  # the measurement is over


if __name__ == "__main__":
    ask(question, __doc__)
