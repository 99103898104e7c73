"""What else a lap has beside its job: a training loop that is fed, and detached jobs, each right to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import numpy as np

from producer.training import Loader
from tests.chaos.companions import Companion, Rows
from tests.chaos.scene import MODEL
from tests.waiting import wait_until
from worker_config.errors import BrokerError

CHUNK_ROWS = 160
MOST_CHUNKS = 20
BATCH_ROWS = 100
T = TypeVar("T")


class Training(Companion):
    """Epochs of a loader: every row's outputs come once, in some order."""

    def once(self, draw: random.Random) -> None:
        data, seed = _some_rows(self.ground, draw), draw.randrange(99)
        with Loader(
            self.client, MODEL, data, batch_rows=BATCH_ROWS, shuffle=True, seed=seed, chunk_rows=CHUNK_ROWS
        ) as loader:
            outputs = np.concatenate(list(loader))
        np.testing.assert_array_equal(_in_order(outputs), _in_order(self.ground.expected[: len(data)]))


class Detached(Companion):
    """Jobs that are left in Redis, attached to, fetched, and removed; each step again where Redis is away for long."""

    def once(self, draw: random.Random) -> None:
        data = _some_rows(self.ground, draw)
        job_id = _until_redis_answers(lambda: self.client.submit(MODEL, data, chunk_rows=CHUNK_ROWS, detach=True))
        job = _until_redis_answers(lambda: self.client.attach(job_id))
        self.ground.expect(_until_redis_answers(job.result))
        _until_redis_answers(job.cancel)


def _some_rows(ground: Rows, draw: random.Random) -> np.ndarray:
    """From the first on: a few chunks of them."""
    return ground.rows[: CHUNK_ROWS * draw.randint(1, MOST_CHUNKS)]


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
