"""Tells Celery's tools of tasks only while somebody listens: `celery events`, Flower, an exporter.

before each heartbeat, which is an event too --no events--> Redis --> heard by so many --> on, off

Events are 40 % of what a chunk costs the main process. Celery's own switch for them, `enable_events`, stays on once
somebody has used it, and a listener need not use it. What is switched by hand stays so until the first listener comes,
or the last one goes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import redis
from celery import signals
from celery.worker.control import Panel
from kombu.utils.json import dumps

_GROUP, _ROUTING_KEY = "task", "task.multi"


class TaskEvents:
    """Whether a worker tells of its tasks; made once."""

    def __init__(self) -> None:
        self._is_heard = False
        # It is about to be sent, every 2 seconds.
        signals.heartbeat_sent.connect(lambda sender, **_: self._look(sender.eventer), weak=False)
        Panel.data["heartbeat"] = self._looking_first(Panel.data["heartbeat"])

    def _look(self, dispatcher: Any) -> None:
        """Begin to tell of tasks where the first listener has come, end where the last one has gone."""
        # Not connected; or on for good, by --task-events.
        if dispatcher is None or dispatcher.producer is None or not dispatcher.groups:
            return
        was_heard = self._is_heard
        with suppress(redis.RedisError):  # asked again soon
            self._is_heard = _hearers(dispatcher) > 0
        if self._is_heard and not was_heard:
            dispatcher.groups.add(_GROUP)
        elif was_heard and not self._is_heard:
            dispatcher.groups.discard(_GROUP)

    def _looking_first(self, command: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Listeners ask for one when they begin."""

        @wraps(command)
        def heartbeat(state: Any) -> Any:
            self._look(state.consumer.event_dispatcher)
            return command(state)

        return heartbeat


def _hearers(dispatcher: Any) -> int:
    """How many would hear of a task, by an empty list of events; what kombu publishes tells nobody how many."""
    channel, exchange = dispatcher.producer.channel, dispatcher.exchange.name
    message = channel.prepare_message("[]", content_type="application/json", content_encoding="utf-8")
    channel._inplace_augment_message(message, exchange, _ROUTING_KEY)
    with channel.conn_or_acquire() as client:
        return int(client.publish(channel._get_publish_topic(exchange, _ROUTING_KEY), dumps(message)))
