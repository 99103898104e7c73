"""What lies in a queue and is no message: it is put aside, and the worker takes the next one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client
from tasks.protocol import keys
from tasks.protocol.messages import TASK_NAME
from tests.held import write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, write_manifest(folder, write_held_models(folder)), 1) as system:
        yield system


@pytest.fixture
def server(system: System) -> Iterator[redis.Redis]:
    with system.admin() as server:
        yield server
        server.delete(keys.REFUSED)


def message(**changes: Any) -> dict[str, Any]:
    """What kombu takes for a message of a chunk, but for the changes; its body is no chunk."""
    tag = str(uuid.uuid4())
    properties = {"delivery_tag": tag, "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "q"}}
    properties |= {"body_encoding": "base64", "correlation_id": tag, "priority": 0}
    headers = {"task": TASK_NAME, "id": tag, "argsrepr": "?", "kwargsrepr": "{}"}
    whole = {"body": "", "content-encoding": "binary", "content-type": "application/x-msgpack", "headers": headers}
    return {**whole, "properties": properties, **changes}


MALFORMED = {
    "no JSON": b"{no json",
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "a number": b"7",
    "a list": b"[]",
    "an empty map": b"{}",
    "no properties": json.dumps({"body": "", "headers": {}}),
    "properties that are none": json.dumps(message(properties=[])),
    "a body that is no base64": json.dumps(message(body="?")),
    "headers without an id": json.dumps(message(headers={"task": TASK_NAME})),
}


@pytest.mark.parametrize("item", MALFORMED.values(), ids=MALFORMED)
def test_an_item_that_is_no_message_is_put_aside_and_the_worker_goes_on(
    system: System, server: redis.Redis, item: str | bytes
) -> None:
    server.lpush(keys.queue(system.slots()[0].queue), item)
    wait_until(lambda: server.llen(keys.REFUSED), "it is put aside")
    with Client(system.url) as client:
        np.testing.assert_array_equal(client.predict("held", ROWS), ROWS * 2)
    assert system.workers[0].process.poll() is None
    assert server.llen(keys.REFUSED) == 1
    assert server.ttl(keys.REFUSED) > 0
    wait_until(lambda: not server.exists("celeriac:unacked"), "nothing is left to be delivered again")
    assert f"it is in {keys.REFUSED}" in system.workers[0].output()


def test_a_message_of_a_worker_that_is_gone_and_cannot_be_read_is_put_aside(
    system: System, server: redis.Redis
) -> None:
    server.hset("celeriac:unacked", "tag", b"no json")
    server.zadd("celeriac:unacked_index", {"tag": 1.0})
    wait_until(lambda: server.llen(keys.REFUSED), "it is put aside", 30)
    assert not server.exists("celeriac:unacked", "celeriac:unacked_index")
    assert server.lrange(keys.REFUSED, 0, -1) == [b"no json"]
