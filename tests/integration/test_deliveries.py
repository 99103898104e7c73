"""A chunk whose child is connected to another Redis than the one that its message is from goes back to the queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from celery.exceptions import Reject

from producer.records import job_store
from tasks.child import execute_chunk
from tasks.child.bootstrap import Child
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.model_cache import ModelCache
from tasks.protocol import keys
from tasks.protocol.chunk_args import to_args
from tasks.protocol.messages import MESSAGE_VERSION, Answer, ChunkMessage, Failure, ModelRef
from tasks.protocol.records import JobRecord
from tests.seals import SEALER, opened_answer, rows_ref
from tests.systems import RedisServer

JOB, TAG, QUEUE = "0123456789ab", "tag", "celeriac.q"
ROWS = np.zeros((1, 4), np.float32)


@pytest.fixture
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    yield from _server(tmp_path_factory)


@pytest.fixture
def old_primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    yield from _server(tmp_path_factory)


def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    server = RedisServer(tmp_path_factory.mktemp("r")).start()
    with server.admin() as client:
        yield client
    server.stop()


@pytest.mark.parametrize("job_is_known", [False, True])
def test_a_chunk_is_not_run_for_a_redis_that_does_not_hold_its_message(
    primary: redis.Redis, old_primary: redis.Redis, job_is_known: bool
) -> None:
    _begin(primary)
    if job_is_known:  # as to an old primary with what it had
        _begin(old_primary)
        old_primary.delete(keys.UNACKED)

    with pytest.raises(Reject, match=r"chunk 0/1 rows 0-1 .* is not held by the Redis") as rejected:
        _run(_child(old_primary))

    assert rejected.value.requeue
    assert not old_primary.exists(keys.deliveries(JOB), keys.results(JOB))
    assert "does not hold model none" in _run(_child(primary))
    assert isinstance(_answer(primary), Failure)


def test_an_answer_that_went_to_another_redis_is_given_once_more(
    primary: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begin(primary)
    run_chunk = execute_chunk.run_chunk

    def lose_message(*args: Any) -> Answer:
        primary.delete(keys.UNACKED)
        return run_chunk(*args)

    monkeypatch.setattr(execute_chunk, "run_chunk", lose_message)
    with pytest.raises(Reject, match="is not held by the Redis"):
        _run(_child(primary))


def _begin(server: redis.Redis) -> None:
    """A job of one chunk, whose message is held for who runs it."""
    job_store.create(server, JobRecord(JOB, ["none"], "?", "redis", 1, 0.0, 0.0, "?", {}), SEALER, 60)
    server.hset(keys.UNACKED, TAG, "")


def _child(server: redis.Redis) -> Child:
    return Child("here", 0, ModelCache([]), server, PayloadStore(server, 60, Places()))


def _run(child: Child) -> str:
    message = ChunkMessage(MESSAGE_VERSION, JOB, 0, 0, 1, 1, [ModelRef("none", "digest")], rows_ref(JOB, 0, ROWS))
    return execute_chunk.run_message(child, to_args(message, QUEUE, SEALER), QUEUE, TAG)


def _answer(server: redis.Redis) -> Answer:
    sealed = server.lpop(keys.results(JOB))
    assert isinstance(sealed, bytes)
    return opened_answer(JOB, sealed)
