"""What goes on beside the job of a schedule: threads that ask again and again, and what they get is right."""

from __future__ import annotations

import random
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from producer import Client
from tests.chaos.arena import NOW
from tests.chaos.pacing import WIDER

CALLERS, MOST_ROWS = 4, 3
END_SECONDS = 180.0


class Rows(Protocol):
    """What jobs are made of."""

    @property
    def rows(self) -> np.ndarray:
        """All rows."""

    @property
    def expected(self) -> np.ndarray:
        """What the paced model gives for them."""

    def expect(self, outputs: np.ndarray) -> None:
        """See that outputs are those of the rows from the first on, to the bit."""


class Companion(ABC):
    """Something that threads do again and again, each at least once.

    Attributes:
        done: how often it was done and was right.
        threads: how many do it.
    """

    threads = 1

    def __init__(self, client: Client, ground: Rows, seed: int) -> None:
        self.client, self.ground = client, ground
        self.done = 0
        self._ended = threading.Event()
        self._wrong: list[BaseException] = []
        name = type(self).__name__
        self._threads = [
            threading.Thread(target=self._repeat, args=(random.Random(f"{name} {seed} {number}"),), daemon=True)  # noqa: S311
            for number in range(self.threads)
        ]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def once(self, draw: random.Random) -> None:
        """Do it, and check what came of it."""

    def _repeat(self, draw: random.Random) -> None:
        done = 0
        try:
            while not (done and self._ended.is_set()):
                self.once(draw)
                done += 1
                self.done += 1
        except BaseException as error:
            error.add_note(f"{type(self).__name__}, after {done} that were right")
            self._wrong.append(error)

    def end(self) -> None:
        """The last ones are over; raises what went wrong."""
        self._ended.set()
        for thread in self._threads:
            thread.join(END_SECONDS)
        if self._wrong:
            raise self._wrong[0]
        frames = sys._current_frames()
        hanging = [frames[one.ident] for one in self._threads if one.is_alive() and one.ident]
        where = "\n".join("".join(traceback.format_stack(frame)) for frame in hanging)
        assert not hanging, f"{type(self).__name__} hangs, after {self.done} that were right:\n{where}"

    def abandon(self) -> None:
        """Begin nothing more."""
        self._ended.set()


class Requests(Companion):
    """Callers of few rows."""

    threads = CALLERS

    def once(self, draw: random.Random) -> None:
        rows, count = self.ground.rows, draw.randint(1, MOST_ROWS)
        first = draw.randrange(len(rows) - count)
        outputs = self.client.predict(NOW, rows[first : first + count])
        expected = self.ground.expected[first : first + count]
        np.testing.assert_allclose(outputs, expected[:, : expected.shape[1] // WIDER], rtol=1e-4, atol=1e-6)
