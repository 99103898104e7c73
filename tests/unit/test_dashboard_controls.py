"""Which server is asked to control a worker that the dashboard shows."""

from __future__ import annotations

import pytest

from producer.dashboard.controls import shard_with

ONE, TWO = "redis://a:6379/0", "redis://b:6379/0"


@pytest.mark.parametrize(
    ("url", "node", "found"),
    [
        (ONE, "celery@host", (ONE, "celery@host")),
        (f"{ONE},{TWO}", "celery@host", (ONE, "celery@host")),
        (f"{ONE},{TWO}", "celery@host@1", (TWO, "celery@host")),
        # Neither is the name of a shard: Celery is to say that it knows no such worker.
        (f"{ONE},{TWO}", "celery@host@2", (ONE, "celery@host@2")),
        (ONE, "celery@host@1", (ONE, "celery@host@1")),
        (f"{ONE},{TWO}", "celery@1", (ONE, "celery@1")),
    ],
)
def test_a_worker_is_on_the_shard_of_its_number(url: str, node: str, found: tuple[str, str]) -> None:
    assert shard_with(url, node) == found
