"""This module shows how far a job is: a bar on a terminal and in a notebook, a line now and then in a log.

Job.progress --every half second--> Pace --> rows, rows per second, time left, slots, chunks on a bar or a line
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm import tqdm

from producer.records.job_store import JobState

if TYPE_CHECKING:
    from producer.job.job import Job, Progress

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0

# Takes a job's progress and its rows per second.
Show: TypeAlias = "Callable[[Progress, float], None]"


class Pace:
    """How fast rows get done, by the later half of the time so far: neither the start nor slots of then count for ever.

    On an even load the time left that follows from it is right as soon as some chunks are answered.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, seconds: float, rows: int) -> None:
        """So many rows are done so many seconds after the start."""
        samples = self._samples
        # However long it takes, some hundred samples will do.
        if len(samples) > 1 and samples[-1][0] - samples[-2][0] < seconds / 200:
            samples.pop()
        samples.append((seconds, rows))
        while len(samples) > 2 and samples[1][0] <= seconds / 2:
            samples.popleft()

    @property
    def rows_per_second(self) -> float:
        """0 where nothing is known yet."""
        if not self._samples:
            return 0.0
        (began, before), (ended, rows) = self._samples[0], self._samples[-1]
        return (rows - before) / (ended - began) if ended > began else 0.0


def follow(look: Callable[[], Progress | None], show: Show, is_over: threading.Event) -> None:
    """Show a job until it ends, `is_over` is set, or there is nothing to look at any more."""
    pace = Pace()
    while True:
        last = is_over.is_set()
        progress = look()
        if progress is None:
            return
        pace.add(progress.seconds, progress.done)
        show(progress, pace.rows_per_second)
        if last or progress.state is not JobState.RUNNING:
            return
        is_over.wait(LOOK_SECONDS)


@contextmanager
def shown(job: Job, rows: int | None, quiet: bool, done_rows: int = 0) -> Iterator[None]:
    """Show a job on stderr while the block runs: a bar on a terminal, else lines, nothing if quiet."""
    if quiet:
        yield
        return
    is_over = threading.Event()
    with _on_bar(tqdm, rows, done_rows) if sys.stderr.isatty() else _in_lines() as show:
        work = partial(follow, job.progress, show, is_over)
        thread = threading.Thread(target=work, name="celeriac-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def show_until_end(look: Callable[[], Progress | None], rows: int | None, done_rows: int) -> None:
    """Show a job from a thread of its own: a notebook's bar in a notebook, else as `shown`."""
    kind = bar_kind()
    is_notebook = any(base.__module__ == "tqdm.notebook" for base in kind.__mro__)
    # Made here: a notebook shows it below the cell that asks for it.
    display = _on_bar(kind, rows, done_rows) if is_notebook or sys.stderr.isatty() else _in_lines()
    show = display.__enter__()

    def run() -> None:
        try:
            follow(look, show, threading.Event())
        finally:
            display.__exit__(None, None, None)

    threading.Thread(target=run, name="celeriac-progress", daemon=True).start()


def bar_kind() -> type[Any]:
    """Tqdm's bar for a notebook, if this is one that has widgets; else that for text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # text is as good where there are no widgets
        from tqdm.auto import tqdm as kind
    return kind


def paced(kind: type[Any]) -> type[Any]:
    """A bar whose rate, and so whose time left, is told by `rows_per_second` once that is set."""

    class Paced(kind):  # type: ignore[misc]
        rows_per_second = 0.0

        @property
        def format_dict(self) -> dict[str, Any]:
            told: dict[str, Any] = super().format_dict
            return {**told, "rate": self.rows_per_second or told["rate"]}

    return Paced


def line_of(progress: Progress, rows_per_second: float) -> str:
    """All of it in one line, such as `1,200 of 6,000 rows, 480 rows/s, 00:10 left, slots 2/2, ...`."""
    rows = "?" if progress.rows is None else f"{progress.rows:,}"
    words = [f"{progress.done:,} of {rows} rows", f"{rows_per_second:,.0f} rows/s"]
    if progress.rows is not None and rows_per_second:
        words.append(f"{tqdm.format_interval((progress.rows - progress.done) / rows_per_second)} left")
    return ", ".join([*words, details_of(progress)])


def details_of(progress: Progress) -> str:
    """What a bar has no place of its own for: slots that are busy, chunks in flight, rows failed, chunks sent again."""
    # Short: a terminal has 80 columns.
    words = [f"slots {progress.busy}/{progress.slots}", f"{progress.in_flight} in flight"]
    words += [f"{progress.failed:,} failed"] * bool(progress.failed)
    words += [f"{progress.sent_again} sent again"] * bool(progress.sent_again)
    return ", ".join(words)


@contextmanager
def _on_bar(kind: type[Any], rows: int | None, done_rows: int) -> Iterator[Show]:
    bar = paced(kind)(total=rows, initial=done_rows, unit=" rows", dynamic_ncols=True)

    def show(progress: Progress, rows_per_second: float) -> None:
        bar.n, bar.rows_per_second = progress.done, rows_per_second
        bar.set_postfix_str(details_of(progress), refresh=False)
        bar.refresh()

    try:
        yield show
    finally:
        bar.close()


@contextmanager
def _in_lines() -> Iterator[Show]:
    told_at = 0.0

    def show(progress: Progress, rows_per_second: float) -> None:
        nonlocal told_at
        if progress.seconds - told_at >= LINE_SECONDS:
            told_at = progress.seconds
            print(line_of(progress, rows_per_second), file=sys.stderr, flush=True)

    yield show
