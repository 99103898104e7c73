"""The rival of `small_chunks`: the barest Celery task, with Celeriac's own settings for Celery.

`celery -A benchmarks.bare_task worker` runs it; its queue has a name of its own, so that both workers share a Redis.
"""

from __future__ import annotations

from functools import cache

import redis
from celery import Celery

from tasks.transport.connection import connect
from worker_config.celery_app import make_app
from worker_config.settings import Settings

TASK = "bench.push"
NUMBERS = "bench:numbers"
QUEUE = "bench"

settings = Settings.from_env()


def make_bare_app(settings: Settings) -> Celery:
    """The app, for the worker and for who publishes."""
    app = make_app(settings)
    app.conf.task_default_queue = QUEUE
    return app


app = make_bare_app(settings)


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def push(number: int) -> None:
    """Push the number onto the list."""
    _client().rpush(NUMBERS, number)


@cache
def _client() -> redis.Redis:
    # Celery's children are forked before they first come here.
    return connect(settings.broker_url or "")
