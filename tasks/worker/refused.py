"""Puts aside what lies in a queue and is no message, or no task that Celery can read; the worker goes on.

queue --item--> kombu: JSON? a message? --no--> celeriac:refused, the last hundred; the log says why

Celery ends the worker by it, and then the next one, which has the item given back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import redis
from kombu.transport import redis as transport

from tasks.protocol import keys
from worker_config.retry_policy import QUEUE_TTL_SECONDS

logger = logging.getLogger(__name__)

MOST_KEPT = 100
MOST_BYTES = 64 * 2**10

_RAW = "celeriac-refused"
# By which kombu marks what JSON has no form for.
_TYPED = '"__type__"'
# What Celery and kombu raise while they take apart what they believe to be a message.
_MALFORMED = (LookupError, TypeError, ValueError)


class AsItCame(dict[str, Any]):
    """A message, and the text that it is of."""

    def __init__(self, message: dict[str, Any], text: str) -> None:
        super().__init__(message)
        self.text = text


def put_aside(client: Callable[[], redis.Redis]) -> None:
    """Have this process put aside what it cannot read; `client` gives the Redis to keep it in, once there is one."""
    deliver, loads, restore = transport.Transport._deliver, transport.loads, transport.QoS.restore_by_tag

    def loads_anything(text: str) -> Any:
        with suppress(ValueError):  # msgspec's own; kombu's decoder takes five times as long, and has the last word
            if _TYPED not in text and isinstance(found := msgspec.json.decode(text), dict):
                return AsItCame(found, text)
        try:
            return loads(text)
        except ValueError:
            return {_RAW: text}  # which is no message

    def deliver_or_keep(self: Any, message: Any, queue: str) -> None:
        try:
            deliver(self, message, queue)
        except _MALFORMED as error:
            _keep(client(), message, f"an item of queue {queue} is no task: {type(error).__name__}: {error}")
            _forget(self, message)

    def restore_or_keep(self: Any, tag: str, *args: Any, **options: Any) -> None:
        try:
            restore(self, tag, *args, **options)
        except _MALFORMED as error:
            with self.channel.conn_or_acquire() as own:
                raw = own.hget(self.unacked_key, tag)
                own.hdel(self.unacked_key, tag)
                own.zrem(self.unacked_index_key, tag)
            _keep(client(), raw, f"a message of a worker that is gone cannot be read: {type(error).__name__}: {error}")

    transport.loads = loads_anything
    transport.Transport._deliver = deliver_or_keep
    transport.QoS.restore_by_tag = restore_or_keep


def _keep(client: redis.Redis, item: Any, why: str) -> None:
    logger.error("%s; it is in %s", why, keys.REFUSED)
    raw = item.get(_RAW) if isinstance(item, dict) and _RAW in item else item
    text = raw if isinstance(raw, str | bytes) else json.dumps(raw, default=repr)
    try:
        with client.pipeline() as pipe:
            pipe.lpush(keys.REFUSED, text[:MOST_BYTES])
            pipe.ltrim(keys.REFUSED, 0, MOST_KEPT - 1)
            pipe.expire(keys.REFUSED, QUEUE_TTL_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        logger.error("it could not be kept: %s", error)


def _forget(connection: Any, message: Any) -> None:
    """It was taken for delivered, perhaps, before anybody looked into it."""
    properties = message.get("properties") if isinstance(message, dict) else None
    tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
    for channel in connection.channels:
        if tag is not None and tag in channel.qos._delivered:
            channel.qos.ack(tag)
