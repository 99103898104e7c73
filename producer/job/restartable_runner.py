"""A job's runs, one after another, as its caller sees them: as one.

    run --an executor has differed, earlier outputs are void--> another run, by the models' own graphs --> parts

It begins again where nobody has seen what is void, or where whoever has can throw it away; else the job ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from producer.job.part_queue import Restarted
from producer.job.runner import Runner
from producer.rows.part import OutputTree, Part
from worker_config.errors import CeleriacError


class RestartableRunner:
    """The runs of one job.

    Args:
        first: the first one.
        restart: from a run that must begin again, and the row to begin at: the next one; None where the data set cannot
            be read once more.
        first_row: where the job begins.

    Attributes:
        run: the last one.
        first_row: where it began.
    """

    def __init__(self, first: Runner, restart: Callable[[Runner, int], Runner | None], first_row: int) -> None:
        self.run = first
        self.first_row = first_row
        self._restart = restart
        self._next: Runner | None = None
        self._restart_row = first_row
        self._on_restart: Callable[[], None] | None = None
        self._gathers = False
        self._cancelled = False
        self._changed = threading.Condition()

    def work(self) -> None:
        """Run to the end: the body of the job's thread."""
        while True:
            self.run.run(self._prepare_next)
            with self._changed:
                if self._next is None:
                    return
                self.run, self._next, self.first_row = self._next, None, self._restart_row
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
            arrays = run.gather() if self._gathers else None
            try:
                part = run.part_queue.take()
            except Restarted:
                with self._changed:
                    self._changed.wait_for(lambda run=run: self.run is not run)  # type: ignore[misc]
                if self._on_restart is not None:
                    self._on_restart()
                continue
            if part is not None and arrays is not None:
                arrays.add(part)
            return part

    def gather(self) -> None:
        """Place all parts that are taken from now on in whole arrays, which a run that begins again throws away."""
        self._gathers = True
        self.run.gather()

    def result(self) -> OutputTree:
        """The whole arrays, when all parts have been taken."""
        return self.run.gather().result()

    def allow_restart(self, on_restart: Callable[[], None], first_row: int | None = None) -> None:
        """From now on parts may be taken that are void later: `on_restart` is then called by who takes the next one.

        Args:
            on_restart: throws away what was taken.
            first_row: where the parts then begin; where the job began, if left out.
        """
        self._on_restart = on_restart
        self._restart_row = self.first_row if first_row is None else first_row
        self.run.part_queue.may_be_void = True

    def cancel(self, *, wake: bool) -> None:
        """End the job, whichever run it is at."""
        with self._changed:
            self._cancelled = True
            self.run.cancel(wake=wake)

    def _prepare_next(self) -> bool:
        """Make the next run, if that may be; called by the run that must begin again."""
        if not self.run.part_queue.void():
            return False
        try:
            self._next = self._restart(self.run, self._restart_row)
        except CeleriacError:
            return False
        if self._next is None:
            return False
        self._next.part_queue.may_be_void = self._on_restart is not None
        return True
