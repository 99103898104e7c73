"""Answers that were taken although the child that gave them cannot know: the part that counts stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection as Connection

from producer import Client
from producer.broker.broker_channel import BrokerChannel
from tasks.child.chunk_payload import PayloadStore, Places
from tasks.protocol import keys
from tasks.protocol.messages import Answer, ChunkMessage, InlineRef, ModelRef, Outputs, PartRef, PartsReply
from tasks.storage import objects
from tasks.transport.output_objects import WANTED
from tasks.transport.publish_answer import Pushed, push_answer
from tests.object_stores import ObjectStore
from tests.output_sets import assert_same
from tests.seals import SEALER, outputs_ref, sealed_answer
from tests.split_writes import predict, rows_with, stepped, writing
from tests.systems import System
from worker_config.object_urls import object_url

JOB = "0123456789ab"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with writing(tmp_path_factory.mktemp("w"), stepped("all_kinds")) as system:
        yield system


@pytest.mark.parametrize("part_bytes", [40_000, 10**9])
def test_a_part_whose_answer_came_twice_counts(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    """As of a child to which Redis took the answer, and did not come to say so; the last ones come after the end."""
    took: dict[str, list[Answer]] = {}
    take, forget = BrokerChannel.take_answers, BrokerChannel.forget_job

    def twice(channel: BrokerChannel, *words: Any) -> list[Answer]:
        answers = take(channel, *words)
        for answer in answers:
            took.setdefault(answer.job, []).append(answer)
        return [one for answer in answers for one in (answer, answer)]

    def once_more(channel: BrokerChannel) -> None:
        for answer in took[channel._job]:
            channel.client.rpush(keys.results(channel._job), sealed_answer(answer))
        forget(channel)

    data = rows_with([300], [5])
    predict(client, "all_kinds", data, out / "file.parquet", on_error="skip", in_parts=False)
    with monkeypatch.context() as patch:
        patch.setattr(BrokerChannel, "take_answers", twice)
        patch.setattr(BrokerChannel, "forget_job", once_more)
        summary = predict(client, "all_kinds", data, out / "set.parquet", on_error="skip", part_bytes=part_bytes)
    assert summary.ledger["duplicates"] > 0
    assert_same(out / "set.parquet", out / "file.parquet")


def _push(client: redis.Redis) -> Pushed:
    """An answer to a job of which Redis does not know, as it has lost its data, or as it is over."""
    return push_answer(client, Outputs(JOB, 0, 0, 1, "w/0", 0.1, outputs_ref(JOB, 0, [1])), 60, SEALER)


def test_a_child_knows_that_it_does_not_know(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Connection.read_response

    def lost(self: Any, *words: Any, **options: Any) -> Any:
        monkeypatch.setattr(Connection, "read_response", read)
        self.disconnect()
        raise redis.ConnectionError("the answer did not come")

    with system.admin(retries=3) as client:
        assert _push(client)[::3] == (False, True)
        monkeypatch.setattr(Connection, "read_response", lost)
        assert _push(client)[::3] == (False, False)
        assert _push(client)[::3] == (False, True)


def _forget(folder: str, *, is_sure: bool) -> None:
    places = Places(None, "", (), (folder if "://" in folder else Path(folder),))
    message = ChunkMessage(2, JOB, 0, 0, 1, 1, [ModelRef("m", "d")], InlineRef(b""), reply=PartsReply(folder))
    PayloadStore(None, 60, places, SEALER).forget(message, PartRef("0-1-00.part", 1, 1, []), is_sure=is_sure)  # type: ignore[arg-type]


def test_a_part_that_may_count_is_left_where_its_producer_looks_after_it(tmp_path: Path) -> None:
    part = tmp_path / "0-1-00.part"
    part.write_bytes(b"1")
    _forget(str(tmp_path), is_sure=False)
    assert part.exists()
    _forget(str(tmp_path), is_sure=True)
    assert not part.exists()


def test_an_object_that_may_count_is_left_as_long_as_it_is_wanted(object_store: ObjectStore) -> None:
    folder = "s3://rows/twice"
    with object_store.used_here():
        part, wanted = object_url(f"{folder}/0-1-00.part"), object_url(f"{folder}/{WANTED}")
        for url in (part, wanted):
            objects.put(url, b"1")
        _forget(folder, is_sure=False)
        assert objects.read_now(part) == b"1"
        objects.delete([wanted])
        _forget(folder, is_sure=False)
        assert objects.read_now(part) is None
