"""What goes on beside the job of each lap: a training loop that is fed, and detached jobs, each right to the bit."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import numpy as np

from producer import Client
from producer.training import Loader
from tests.chaos.arena import Arena
from tests.chaos.scene import MODEL
from tests.waiting import wait_until
from worker_config.errors import BrokerError
from worker_config.settings import Settings

CHUNK_ROWS = 160
MOST_CHUNKS = 20
BATCH_ROWS = 100
END_SECONDS = 180.0
T = TypeVar("T")


class Repeated(ABC):
    """Something that a thread does again and again, at least once.

    Attributes:
        done: how often it was done and was right.
    """

    def __init__(self, arena: Arena, seed: int, timeout_seconds: float) -> None:
        self.arena = arena
        self.done = 0
        settings = Settings(job_ttl_seconds=arena.job_ttl_seconds)
        self._client = Client(arena.url, worker_timeout_seconds=timeout_seconds, settings=settings)
        self._ended = threading.Event()
        self._wrong: BaseException | None = None
        self._draw = random.Random(f"{type(self).__name__} {seed}")  # noqa: S311
        self._thread = threading.Thread(target=self._repeat, name=type(self).__name__, daemon=True)
        self._thread.start()

    @abstractmethod
    def once(self, client: Client, rows: int, draw: random.Random) -> None:
        """Do it with so many of the first rows, and check what came of it."""

    def _repeat(self) -> None:
        try:
            while not (self.done and self._ended.is_set()):
                self.once(self._client, CHUNK_ROWS * self._draw.randint(1, MOST_CHUNKS), self._draw)
                self.done += 1
        except BaseException as error:
            error.add_note(f"{type(self).__name__}, after {self.done} that were right")
            self._wrong = error

    def end(self) -> None:
        """The last one is over; raises what went wrong."""
        self._ended.set()
        self._thread.join(END_SECONDS)
        if self._wrong:
            raise self._wrong
        assert not self._thread.is_alive(), f"{type(self).__name__} hangs, after {self.done} that were right"
        self._client.close()

    def abandon(self) -> None:
        self._ended.set()
        self._client.close()


class Training(Repeated):
    """Epochs of a loader: every row's outputs come once, in some order."""

    def once(self, client: Client, rows: int, draw: random.Random) -> None:
        data = self.arena.rows[:rows]
        with Loader(
            client, MODEL, data, batch_rows=BATCH_ROWS, shuffle=True, seed=draw.randrange(99), chunk_rows=CHUNK_ROWS
        ) as loader:
            outputs = np.concatenate(list(loader))
        np.testing.assert_array_equal(_in_order(outputs), _in_order(self.arena.expected[:rows]))


class Detached(Repeated):
    """Jobs that are left in Redis, attached to, fetched, and removed; each step again where Redis is away for long."""

    def once(self, client: Client, rows: int, draw: random.Random) -> None:
        data = self.arena.rows[:rows]
        job_id = _until_redis_answers(lambda: client.submit(MODEL, data, chunk_rows=CHUNK_ROWS, detach=True))
        job = _until_redis_answers(lambda: client.attach(job_id))
        self.arena.expect(_until_redis_answers(job.result))
        _until_redis_answers(job.cancel)


def _until_redis_answers(step: Callable[[], T]) -> T:
    """What a step gives; one that could not reach Redis has left nothing, and can be made again."""
    given: list[T] = []

    def made() -> bool:
        with suppress(BrokerError):
            given.append(step())
        return bool(given)

    wait_until(made, "Redis answers")
    return given[0]


def _in_order(rows: np.ndarray) -> np.ndarray:
    """The same rows in an order of their own, by their columns."""
    return rows[np.lexsort(rows.T)]
