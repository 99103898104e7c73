"""How far a job is and how fast it goes, as numbers and in a line.

counts of a running job, or its record in Redis --> Progress --> Pace, rows per second --> a line
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from producer.records.job_store import JobState
from tasks.protocol.records import JobRecord

# A producer writes its job's record every second.
SILENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: of the data set; None where nobody knows.
        predicted: rows that have a prediction, those before the job's first row included.
        failed: rows that have a failure record instead.
        in_flight: chunks sent and not answered.
        slots: children that work for it.
        seconds: since it was submitted, up to its end.
        skipped: rows that were left out on purpose.
        sent_again: times that a chunk was sent once more.
        waits: for which store of objects workers wait with its chunks, in words; empty where none does.
    """

    state: JobState
    rows: int | None
    predicted: int
    failed: int
    in_flight: int
    slots: int
    seconds: float
    skipped: int = 0
    sent_again: int = 0
    waits: str = ""

    @property
    def done(self) -> int:
        """Rows of which it is known what became of them."""
        return self.predicted + self.failed + self.skipped

    @property
    def busy(self) -> int:
        """Slots that have a chunk, as far as the job knows."""
        return min(self.slots, self.in_flight)


def progress_of(state: JobState, record: JobRecord, slots: int = 0) -> Progress:
    """How far a job is by its record in Redis; `slots` can run it, as far as the caller knows."""
    counts = {"predicted": 0, "failed": 0, "skipped": 0, "chunks_sent": 0, "chunks_answered": 0} | record.ledger
    running = state is JobState.RUNNING
    return Progress(
        state=state,
        rows=record.rows,
        predicted=counts["predicted"],
        failed=counts["failed"],
        in_flight=counts["chunks_sent"] - counts["chunks_answered"] if running else 0,
        slots=slots,
        seconds=(time.time() if running else record.updated_at) - record.submitted_at,
        skipped=counts["skipped"],
        sent_again=counts.get("chunks_sent_again", 0),
        waits=record.waits if running else "",
    )


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


def is_silent(state: JobState, record: JobRecord) -> bool:
    """Whether a producer that should gives no sign of life; a detached job has none."""
    return state is JobState.RUNNING and not record.plan and time.time() - record.updated_at > SILENCE_SECONDS


def rate_of(progress: Progress, rows_per_second: float) -> str:
    """Rows per second, and the time left where it is known: `480 rows/s, 00:10 left`."""
    rate = f"{rows_per_second:,.0f} rows/s"
    if progress.rows is None or not rows_per_second:
        return rate
    from tqdm import tqdm  # commands that only look at jobs do without

    return f"{rate}, {tqdm.format_interval((progress.rows - progress.done) / rows_per_second)} left"


def line_of(progress: Progress, rows_per_second: float) -> str:
    """All of it in one line, such as `1,200 of 6,000 rows, 480 rows/s, 00:10 left, slots 2/2, ...`."""
    rows = "?" if progress.rows is None else f"{progress.rows:,}"
    return f"{progress.done:,} of {rows} rows, {rate_of(progress, rows_per_second)}, {details_of(progress)}"


def details_of(progress: Progress) -> str:
    """What a bar has no place of its own for: slots that are busy, chunks in flight, rows failed, chunks sent again."""
    # Short: a terminal has 80 columns.
    words = [f"slots {progress.busy}/{progress.slots}", f"{progress.in_flight} in flight"]
    words += [f"{progress.failed:,} failed"] * bool(progress.failed)
    words += [f"{progress.sent_again} sent again"] * bool(progress.sent_again)
    words += ["a store is waited for"] * bool(progress.waits)
    return ", ".join(words)
