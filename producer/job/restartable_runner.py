"""A job's runs, one after another, as its caller sees them: as one.

    run --an executor has differed, earlier outputs are void--> another run, by the models' own graphs --> parts

It begins again where nobody has seen what is void, or where whoever has can throw it away; else the job ends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from producer.job.part_queue import PartQueue
from producer.job.runner import Runner
from worker_config.errors import CeleriacError


class RestartableRunner:
    """The runs of one job; its thread knows them alone, so that a job that nobody keeps can end.

    Args:
        first: the first one.
        part_queue: of all of them.
        restart: from a run that must begin again, and the row to begin at: the next one; None where the data set cannot
            be read once more.

    Attributes:
        run: the last one.
        on_end: called when it has ended.
    """

    def __init__(self, first: Runner, part_queue: PartQueue, restart: Callable[[Runner, int], Runner | None]) -> None:
        self.run: Runner = first
        self.part_queue: PartQueue = part_queue
        self._restart = restart
        self._restart_row = first.context.feed.first_row
        self._cancelled = False
        self.on_end: Callable[[], object] = lambda: None

    def work(self) -> None:
        """Run to the end: the body of the job's thread."""
        try:
            while (following := self.run.run(self._prepare_next)) is not None:
                self.run = following
                if self._cancelled:  # of the run before
                    following.cancel(wake=False)
                self.part_queue.restart()
        finally:
            on_end, self.on_end = self.on_end, lambda: None  # what it keeps is not kept by a job that has ended
            on_end()

    def allow_restart(self, on_restart: Callable[[], None], first_row: int | None = None) -> None:
        """Begin again though parts were taken, as `Job.allow_again` says."""
        if first_row is not None:
            self._restart_row = first_row
        self.part_queue.on_restart = on_restart

    def cancel(self, *, wake: bool) -> None:
        """End the job, whichever run it is at."""
        self._cancelled = True
        self.run.cancel(wake=wake)

    def _prepare_next(self) -> Runner | None:
        """The next run, if that may be."""
        with suppress(CeleriacError):
            return self._restart(self.run, self._restart_row) if self.part_queue.void() else None
        return None
