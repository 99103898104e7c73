"""One reporter of a job's progress, in three forms: a bar on a terminal or below a notebook's cell, lines in a log.

Job.progress --every half second--> Pace --> ProgressReporter --> bar or line
record in Redis (`celeriac watch`) --------> ProgressReporter --> bar or line
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from tqdm import tqdm

from producer.job.job_handle import JobHandle
from producer.records.job_store import JobState
from producer.records.notebook_bar import NotebookBar, is_notebook
from producer.records.progress import Pace, Progress, details_of, line_of

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0
# Of a job that somebody watches from elsewhere.
WATCH_LINE_SECONDS = 5.0

# A job's progress and its rows per second --> what is done with it.
Show: TypeAlias = Callable[[Progress, float], None]


class ProgressReporter:
    """Shows one job on stderr.

    Args:
        rows: of the data set, as far as is known.
        done_rows: those that were done before, and are no pace.
        kind: tqdm's bar; that of a notebook is shown without a terminal too.
        line: of a job that is watched from elsewhere, what a log gets, at once and then every few seconds, nothing
            where it is empty; a bar then has no details of slots and chunks.
    """

    def __init__(
        self,
        rows: int | None,
        done_rows: int = 0,
        *,
        kind: type[Any] = tqdm,
        line: Callable[[Progress, float], str] | None = None,
    ) -> None:
        self._bar: Any = None
        if kind is NotebookBar or sys.stderr.isatty():
            self._bar = paced(kind)(total=rows, initial=done_rows, unit=" rows", dynamic_ncols=True)
        self._line = line
        self._line_seconds, self._line_at = (LINE_SECONDS, 0.0) if line is None else (WATCH_LINE_SECONDS, -math.inf)

    def show(self, progress: Progress, rows_per_second: float) -> None:
        """Draw the bar anew, or write a line if one is due."""
        if self._bar is not None:
            self._bar.n, self._bar.rows_per_second = progress.done, rows_per_second
            if progress.rows is not None:
                self._bar.total = progress.rows
            if self._line is None:
                self._bar.set_postfix_str(details_of(progress), refresh=False)
            self._bar.refresh()
        elif progress.seconds - self._line_at >= self._line_seconds:
            self._line_at = progress.seconds
            if text := (self._line or line_of)(progress, rows_per_second):
                self.say(text)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


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
def shown(job: JobHandle, rows: int | None, quiet: bool, done_rows: int = 0) -> Iterator[None]:
    """Show a job while the block runs: a bar on a terminal or below a notebook's cell, else lines, nothing if quiet."""
    if quiet:
        yield
        return
    is_over = threading.Event()
    thread = _follow_in_thread(job.progress, ProgressReporter(rows, done_rows, kind=_kind_of_bar()), is_over)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def show_until_end(look: Callable[[], Progress | None], rows: int | None, done_rows: int) -> Callable[[], None]:
    """Show a job from a thread of its own: a bar below the cell of a notebook; else as `shown`.

    What is returned shows the end at once, and waits for that.
    """
    is_over = threading.Event()
    thread = _follow_in_thread(look, ProgressReporter(rows, done_rows, kind=_kind_of_bar()), is_over)

    def end() -> None:
        is_over.set()
        thread.join(LOOK_SECONDS)

    return end


def _kind_of_bar() -> type[Any]:
    return NotebookBar if is_notebook() else tqdm


def paced(kind: type[Any]) -> type[Any]:
    """A bar whose rate, and so whose time left, is `rows_per_second` once that is set."""

    class Paced(kind):  # type: ignore[misc]
        rows_per_second = 0.0

        @property
        def format_dict(self) -> dict[str, Any]:
            values: dict[str, Any] = super().format_dict
            return {**values, "rate": self.rows_per_second or values["rate"]}

    return Paced


def _follow_in_thread(
    look: Callable[[], Progress | None], reporter: ProgressReporter, is_over: threading.Event
) -> threading.Thread:
    def run() -> None:
        try:
            follow(look, reporter.show, is_over)
        finally:
            reporter.close()

    thread = threading.Thread(target=run, name="celeriac-progress", daemon=True)
    thread.start()
    return thread
