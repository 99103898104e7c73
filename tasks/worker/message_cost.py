"""Makes what kombu and Celery do for each message in a worker's main process cheaper, and nothing of it less sure.

a chunk ends --> acknowledged, here --the next message comes, or 50 ms have passed--> acknowledged in Redis

When a chunk ends its child wants another one, of which Redis is told in any case: both are one command. Of a worker
that is killed in between one chunk more comes again, and is dropped.

kombu makes a client, with its table of all commands, for each transaction: here a channel keeps one, and a connection
for what it does with each message, as redis-py takes twice as long to find one as to use it. A message is kept in Redis
as it came, not encoded anew. Celery has the system look at the pipes of all children for each message, and then forget
them all: here at those alone that may take it, and those that it knows. And it keeps the timer of a chunk's time limit,
0.5 KB, until that time, however long ago the chunk has ended: here until the next look.
"""

from __future__ import annotations

import heapq
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from multiprocessing.util import Finalize
from types import SimpleNamespace
from typing import Any

import redis
from celery.concurrency import asynpool
from kombu.transport import redis as transport
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from tasks.protocol import keys
from tasks.transport import scripts
from tasks.transport.connection import LOST, PASSING
from tasks.worker.refused import AsItCame

LONGEST_SECONDS = 0.05
LOOK_AT_TIMERS_SECONDS = 5.0


class Acknowledgements(transport.QoS):  # type: ignore[misc]
    """The messages of one channel; those in `_dirty` are acknowledged, and Redis may not know it yet."""

    hub: Any = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_planned = False
        # kombu's own has the channel stay, with its connections, where it was not closed: as of a Redis that is full.
        self._on_collect: Finalize
        self._on_collect.cancel()
        self._on_collect = Finalize(self, _restore_of, [weakref.ref(self)], exitpriority=1)

    @cached_property
    def _client(self) -> redis.Redis:
        return redis.Redis(connection_pool=self.channel.pool)

    @cached_property
    def _connection(self) -> Any:
        return self.channel.pool.get_connection()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Have Redis hold a message, and hold those no more that are acknowledged."""
        delivery = message.delivery_info
        values = [time.time(), delivery_tag, _held(message._raw, delivery), *self._dirty]
        asked = "hold_message", [keys.UNACKED, keys.UNACKED_INDEX], values
        try:
            scripts.run_on(self._connection, *asked)
        except LOST:
            scripts.run(self._client, *asked)  # which tries again, and knows where the server is now
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge soon; where the connection is lost by then the message is given back, as all others are."""
        virtual.QoS.ack(self, delivery_tag)
        if not self._is_planned:
            self._is_planned = True
            self.hub.call_later(LONGEST_SECONDS, self._tell_in_time)

    def give_back(self, delivery_tag: str) -> None:
        """Put a message at the head of its queue, where it was; one that is rejected goes behind all later ones."""
        with self._letting_go(delivery_tag):
            self.restore_by_tag(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject a message that was not given back."""
        if delivery_tag not in self._delivered:
            return
        with self._letting_go(delivery_tag):
            if requeue:
                self.restore_by_tag(delivery_tag, leftmost=True)
            else:
                self._remove_from_indices(delivery_tag).execute()

    @contextmanager
    def _letting_go(self, delivery_tag: str) -> Iterator[None]:
        """Where it fails, connect again.

        The message must not be among those that are acknowledged: whoever holds it next, under the same tag, would lose
        it. Celery logs an error and goes on, as its loop sees by itself that a connection is lost. One that was refused
        alone is not, and the message would count as running for ever.
        """
        try:
            yield
        except PASSING as error:
            self.hub.call_soon(_raise, error)
            raise
        self._delivered.pop(delivery_tag, None)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give a message back as kombu does, but by a script: Redis lets it through with no memory left, too."""
        try:
            message, exchange, routing_key = loads(self._client.hget(keys.UNACKED, tag) or "")
        except (LookupError, TypeError, ValueError):  # it is not there, or is put aside (`refused`)
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
            return
        pushed: list[str] = []
        pipe = SimpleNamespace(lpush=lambda *words: pushed.extend(words), rpush=lambda *words: pushed.extend(words))
        self.channel._do_restore_message(message, exchange, routing_key, pipe, leftmost)
        lists = [keys.queue(name) for name in pushed[::2]]
        values = [tag, "LPUSH" if leftmost else "RPUSH", *pushed[1:2]]
        scripts.run(self._client, "give_back", [keys.UNACKED, keys.UNACKED_INDEX, *lists], values)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give messages back, as the connection ends; also those of which Redis cannot be told that they are done."""
        try:
            self._tell()
        except Exception:
            self._dirty.clear()
        try:
            super().restore_unacked_once(stderr)
        finally:
            if client := self.__dict__.get("_client"):
                client.connection_pool.disconnect()  # kombu has closed it before, and this has opened it again

    def _tell_in_time(self) -> None:
        self._is_planned = False
        self._tell()  # an error ends the connection: Celery's loop lets those of connections through

    def _tell(self) -> None:
        if tags := tuple(self._dirty):
            with self._client.pipeline() as pipe:
                pipe.zrem(keys.UNACKED_INDEX, *tags)
                pipe.hdel(keys.UNACKED, *tags)
                pipe.execute()
            self._flush()


def _restore_of(known: weakref.ref[Acknowledgements]) -> None:
    """Give its messages back at the process's end, if it is there by then."""
    if (qos := known()) is not None:
        qos.restore_unacked_once()


def make_cheap(hub: Any, pool: Any) -> None:
    """Do so for all connections of this process, for its event loop and its pool of children."""
    Acknowledgements.hub = hub
    transport.Channel.QoS = Acknowledgements
    transport.Channel._create_client = _keeping_client(transport.Channel._create_client)
    hub.remove_writer = _removing_known(hub.remove_writer, hub)
    asynpool.iterate_file_descriptors_safely = _sparing(asynpool.iterate_file_descriptors_safely, hub, pool)
    hub.call_repeatedly(LOOK_AT_TIMERS_SECONDS, _forget_cancelled, hub.timer._queue)


def _keeping_client(create: Callable[..., Any]) -> Callable[..., Any]:
    def kept(self: Any, asynchronous: bool = False) -> Any:
        if asynchronous:
            return create(self, asynchronous)
        client = self.__dict__.get("kept_client")
        if client is None or client.connection_pool is not self.pool:
            client = self.kept_client = create(self)
        return client

    return kept


def _held(raw: Any, delivery: Mapping[str, str]) -> str:
    """A message as kombu holds it: with where it was sent, to be given back."""
    place = [delivery["exchange"], delivery["routing_key"]]
    if isinstance(raw, AsItCame):
        return f"[{raw.text}, {dumps(place)[1:]}"
    return str(dumps([raw, *place]))


def _sparing(iterate: Callable[..., None], hub: Any, pool: Any) -> Callable[..., None]:
    """Of the pipes to children, which are those that are consolidated, add none of a child that is busy; remove none
    that is not there.
    """

    def iterate_few(fds: Any, source: Any, method: Any, *args: Any, **options: Any) -> None:
        if method == hub.remove_writer:
            fds = fds & hub.writers.keys()
        elif options.get("consolidate"):
            fds = fds - pool._pool._busy_workers
        if fds:
            iterate(fds, source, method, *args, **options)

    return iterate_few


def _removing_known(remove_writer: Callable[[Any], None], hub: Any) -> Callable[[Any], None]:
    def remove_known(fd: Any) -> None:
        if fd in hub.writers or not isinstance(fd, int):  # at a child's end it is the connection itself
            remove_writer(fd)

    return remove_known


def _forget_cancelled(timers: list[Any]) -> None:
    """Celery's loop holds on to this very list."""
    timers[:] = [one for one in timers if not one.entry.canceled]
    heapq.heapify(timers)


def _raise(error: Exception) -> None:
    raise error
