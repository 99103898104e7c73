"""Two copies of a chunk: outputs of one are never taken for those of the other, and none stay that nobody fetches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import redis

from producer.broker.job_channel import JobChannel
from producer.records import job_store
from tasks.child import execute_chunk
from tasks.child.bootstrap import Child
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.child.model_cache import ModelCache
from tasks.protocol import codec, keys
from tasks.protocol.chunk_args import to_args
from tasks.protocol.keys import JobField
from tasks.protocol.messages import MESSAGE_VERSION, Answer, ChunkMessage, ModelRef, Outputs
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import checksum
from tests.seals import SEALER, push, rows_ref
from tests.systems import SIGNING_KEYS, RedisServer
from worker_config.retry_policy import UNANSWERED_TTL_SECONDS
from worker_config.settings import Settings

JOB, TAG, QUEUE, ROWS, TTL_SECONDS = "0123456789ab", "tag", "celeriac.q", 20_000, 86_400
MODEL = ModelRef("m", "0" * 64)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("r")).start()
    yield server
    server.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """One of a job of one chunk, whose message is held."""
    with server.admin() as client:
        record = JobRecord(JOB, ["m"], "?", "redis", ROWS, 0.0, 0.0, "?", {})
        job_store.create(client, record, SEALER, TTL_SECONDS)
        client.hset(keys.UNACKED, TAG, "")
        yield client


@pytest.fixture
def producer(server: RedisServer) -> Iterator[JobChannel]:
    with closing(JobChannel(server.url, Settings(signing_key=SIGNING_KEYS), JOB)) as producer:
        yield producer


def message() -> ChunkMessage:
    return ChunkMessage(MESSAGE_VERSION, JOB, 0, 0, ROWS, 1, [MODEL], rows_ref(JOB, 0, [1]), reply="redis")


def stored(client: redis.Redis, value: float, by_executor: list[str] | None = None) -> Outputs:
    """A copy's answer that is not given yet, with outputs in Redis."""
    parts = codec.encode_parts(np.full((ROWS, 1), value))
    ref = PayloadStore(client, TTL_SECONDS, Places(), SEALER).store(message(), parts)
    of_it = {"models": [MODEL], "checksum": checksum(parts), "by_executor": by_executor or []}
    return Outputs(JOB, 0, 0, ROWS, "w/0", 0.1, ref, **of_it)  # type: ignore[arg-type]


def run(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, run_chunk: Callable[..., Answer]) -> str:
    """Run the chunk in a child that makes its answers so."""
    monkeypatch.setattr(execute_chunk, "run_chunk", run_chunk)
    child = Child("w", 0, ModelCache([]), client, PayloadStore(client, TTL_SECONDS, Places(), SEALER))
    return execute_chunk.run_message(child, to_args(message(), QUEUE, SEALER), QUEUE, TAG)


def outputs_left(client: redis.Redis) -> list[Any]:
    return [client.ttl(key) for key in client.scan_iter(keys.output(JOB, "*"))]


def joined(producer: JobChannel) -> list[float]:
    """The value of each answer, whose outputs are those that it was given for."""
    values = []
    for answer in producer.take_answers(1.0):
        assert isinstance(answer, Outputs)
        content = producer.load(answer)
        assert content is not None
        assert checksum([content]) == answer.checksum
        values.append(float(codec.decode(content)[0, 0]))  # type: ignore[index,call-overload]
    return values


def test_a_copy_that_stores_outputs_before_it_hears_that_they_are_void_changes_no_others(
    client: redis.Redis, producer: JobChannel
) -> None:
    push(client, stored(client, 1.0), TTL_SECONDS)
    stored(client, -1.0)

    assert joined(producer) == [1.0]


def test_two_copies_that_answer_before_either_is_loaded_keep_their_own(
    client: redis.Redis, producer: JobChannel
) -> None:
    for answer in [stored(client, 1.0), stored(client, 2.0)]:
        push(client, answer, TTL_SECONDS)

    assert joined(producer) == [1.0, 2.0]
    assert not outputs_left(client)


def test_outputs_of_an_answer_that_is_void_go_and_those_of_the_one_that_counts_stay(
    client: redis.Redis, producer: JobChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.hset(keys.job(JOB), JobField.OWN_GRAPH + "m", "{}")

    def run_chunk(*args: Any) -> Answer:
        own_graph: Collection[str] = args[-1]
        return stored(client, 1.0) if "m" in own_graph else stored(client, -1.0, ["m"])

    run(client, monkeypatch, run_chunk)

    (seconds,) = outputs_left(client)
    assert seconds > UNANSWERED_TTL_SECONDS
    assert joined(producer) == [1.0]
    assert not outputs_left(client)


def test_outputs_of_a_child_that_dies_before_it_answers_go_soon(client: redis.Redis) -> None:
    stored(client, 1.0)

    (seconds,) = outputs_left(client)
    assert 0 < seconds <= UNANSWERED_TTL_SECONDS
