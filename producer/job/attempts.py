"""A job's runs, one after another, as its caller sees them: as one.

    run --an executor has differed, earlier outputs are void--> another run, by the models' own graphs --> parts

It begins again where nobody has seen what is void, or where whoever has can throw it away; else the job ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from producer.job.part_queue import Restarted
from producer.job.runner import Runner
from producer.rows.part import Part
from worker_config.errors import CeleriacError


class Attempts:
    """The runs of one job.

    Args:
        first: the first one.
        make: from a run that must begin again, and the row to begin at: the next one; None where the data set cannot be
            read once more.
        first_row: where the job begins.

    Attributes:
        run: the last one.
        first_row: where it began.
    """

    def __init__(self, first: Runner, make: Callable[[Runner, int], Runner | None], first_row: int) -> None:
        self.run = first
        self.first_row = first_row
        self._make = make
        self._next: Runner | None = None
        self._again_from = first_row
        self._on_again: Callable[[], None] | None = None
        self._cancelled = False
        self._changed = threading.Condition()
        first.begin_again = self._begin_again

    def work(self) -> None:
        """Run to the end: the body of the job's thread."""
        while True:
            self.run.run()
            self.run.begin_again = _never
            with self._changed:
                if self._next is None:
                    return
                self.run, self._next, self.first_row = self._next, None, self._again_from
                if self._cancelled:
                    self.run.cancel(wake=False)
                self._changed.notify_all()

    def take(self) -> Part | None:
        """Wait for the next part; None after the last one.

        Raises:
            CeleriacError: how the job ended.
        """
        while True:
            run = self.run
            try:
                return run.part_queue.take()
            except Restarted:
                with self._changed:
                    self._changed.wait_for(lambda run=run: self.run is not run)  # type: ignore[misc]
                if self._on_again is not None:
                    self._on_again()

    def allow_again(self, on_again: Callable[[], None] | None, first_row: int | None = None) -> None:
        """From now on parts may be taken that are void later: `on_again` is then called by who takes the next one.

        Args:
            on_again: throws away what was taken; None where that is no longer possible.
            first_row: where the parts then begin; where the job began, if left out.
        """
        self._on_again = on_again
        self._again_from = self.first_row if first_row is None else first_row
        self.run.part_queue.may_be_void = on_again is not None

    def cancel(self, *, wake: bool) -> None:
        """End the job, whichever run it is at."""
        with self._changed:
            self._cancelled = True
            self.run.cancel(wake=wake)

    def _begin_again(self) -> bool:
        """Make the next run, if that may be; called by the run that must begin again."""
        if not self.run.part_queue.void():
            return False
        try:
            self._next = self._make(self.run, self._again_from)
        except CeleriacError:
            return False
        if self._next is None:
            return False
        self._next.begin_again = self._begin_again
        self._next.part_queue.may_be_void = self._on_again is not None
        return True


def _never() -> bool:
    return False
