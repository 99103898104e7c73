"""Callers of few rows beside a job: each request is answered once, and right, whatever happens to the system."""

from __future__ import annotations

import random
import threading
from collections import Counter

import numpy as np

from producer import Client
from tests.chaos.arena import NOW, Arena, alone
from worker_config.settings import Settings

CALLERS = 4
MOST_ROWS = 3


class Callers:
    """Threads that ask, one request after the other, through one client."""

    def __init__(self, arena: Arena, seed: int, timeout_seconds: float) -> None:
        self._arena = arena
        settings = Settings(job_ttl_seconds=arena.job_ttl_seconds)
        self._client = Client(arena.url, worker_timeout_seconds=timeout_seconds, settings=settings)
        self._expected = alone(arena.model)[:, : len(alone(arena.model)[0]) // arena.wider]
        self._ended = threading.Event()
        self._wrong: list[BaseException] = []
        self.answered: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(seed, number)) for number in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int, number: int) -> None:
        draw = random.Random(f"{seed}/{number}")  # noqa: S311
        try:
            while not self._ended.is_set():
                count = draw.randint(1, MOST_ROWS)
                first = draw.randrange(len(self._arena.rows) - count)
                outputs = self._client.predict(NOW, self._arena.rows[first : first + count])
                np.testing.assert_allclose(outputs, self._expected[first : first + count], rtol=1e-4, atol=1e-6)
                self.answered[number] += 1
        except BaseException as error:
            error.add_note(f"caller {number}, after {self.answered[number]} answers")
            self._wrong.append(error)

    def end(self) -> None:
        """All have their answers; raises what went wrong."""
        self.abandon()
        if self._wrong:
            raise self._wrong[0]
        assert all(self.answered[number] for number in range(CALLERS)), self.answered

    def abandon(self) -> None:
        """No more requests."""
        self._ended.set()
        for thread in self._threads:
            thread.join(120)
        self._client.close()
