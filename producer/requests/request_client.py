"""Sends requests of all threads of a process, and gives each its answer; no thread of its own.

thread --list of what is to be sent--> one command for all that wait to be sent --> Redis
Redis --channel--> the thread that reads for all, until it has its own answer and hands the reading on --> threads
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import redis

from producer.requests.shards import ShardFinder, least_waiting
from producer.requests.small import NeedsJobError, make, outputs_of, rows_for
from producer.requests.targets import Find, Target, Targets
from producer.requests.waiting import Waiting, WaitingList, by_queue, lost
from producer.rows.returned import Form
from producer.rows.source import BatchSource, Source
from producer.scheduling.error_budget import ErrorBudget
from tasks.datasets.rows import Rows
from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tasks.protocol.seal import Sealer
from tasks.transport import request_queue
from tasks.transport.connection import connect
from tasks.transport.request_queue import QueueFullError
from worker_config.broker import address_of
from worker_config.errors import BusyError, RequestTimeoutError
from worker_config.retry_policy import REQUEST_TIMEOUT_SECONDS

# Longest that the reading thread waits before it looks around.
READ_SECONDS = 1.0


class RequestClients:
    """The requests of one client to all shards.

    Args:
        url: of the broker.
        sealer: seals requests and opens answers.
        find: the models, and the slots that hold them; waits for a worker.
    """

    def __init__(self, url: str, sealer: Sealer, find: Find) -> None:
        self._finder = ShardFinder(url, find)
        self._clients = [RequestClient(one, sealer, self._finder.on(at)) for at, one in enumerate(self._finder.urls)]

    def predict(
        self, names: list[str], source: Source | BatchSource, policy: ErrorBudget, until: float | None, form: Form
    ) -> Any:
        """The outputs for some rows; as `RequestClient.predict`."""
        slots = self._finder.slots(names, until)
        shard = least_waiting(slots, lambda one: self._clients[one].waiting)
        return self._clients[shard].predict(names, source, policy, until, form)

    def close(self) -> None:
        """Give up the connections; what is asked for later connects again."""
        for client in self._clients:
            client.close()


class RequestClient:
    """The requests of one client to one server; safe to share among threads, and with processes that are forked later.

    Args:
        url: of the broker.
        sealer: seals requests and opens answers.
        find: the models, and the slots that hold them; waits for a worker.
    """

    targets: Targets

    def __init__(self, url: str, sealer: Sealer, find: Find) -> None:
        self.targets = Targets(find)
        self._sealer = sealer
        self._client = connect(url, retries=0, timeout_seconds=REQUEST_TIMEOUT_SECONDS)
        self._database = address_of(url).database
        self._begin()

    @property
    def waiting(self) -> int:
        """Requests that wait for their answers."""
        return len(self._waiting.by_id)

    def _begin(self) -> None:
        """With nothing of another process."""
        self._pid = os.getpid()
        self._caller = secrets.token_hex(8)
        self._pubsub: Any = None
        self._waiting = WaitingList()
        self._unsent: deque[tuple[Waiting, bytes]] = deque()
        self._sending, self._reading = threading.Lock(), threading.Lock()

    def predict(
        self, names: list[str], source: Source | BatchSource, policy: ErrorBudget, until: float | None, form: Form
    ) -> Any:
        """The outputs for some rows.

        Args:
            until: when the caller's time is up, by `time.monotonic`.

        Raises:
            NeedsJobError: only a job can do it, or tell what is wrong.
            RequestTimeoutError: the time was up.
            BusyError: too many requests wait.
            InputError: the rows do not fit the model.
            RowsFailedError: rows have no prediction.
            UnknownModelError, NoWorkerError: no worker holds the model.
        """
        if self._pid != os.getpid():
            self._begin()
        target = self.targets.of(names, until)
        rows, count = rows_for(target, source, policy)
        return outputs_of(target.infos[0], self._ask(target, rows, count, policy, until), count, policy, form)

    def _ask(self, target: Target, rows: Rows, count: int, policy: ErrorBudget, until: float | None) -> Answer:
        info = target.infos[0]
        id_, element = make(info, rows, count, policy, until, self._caller, self._sealer)
        woken = threading.Lock()
        woken.acquire()
        one = Waiting(id_, target, partial(_release, woken))
        try:
            self._subscribe()
            self._waiting.by_id[id_] = one
            self._send(one, element)
            self._wait(one, woken, until)
        except QueueFullError as error:
            raise busy(target, error.waiting, count) from None
        except redis.RedisError as error:
            one.end(None, error)  # without a word to Redis
            if until is not None and time.monotonic() >= until:
                raise RequestTimeoutError(f"no answer from Redis within the time limit: {error}") from None
            raise NeedsJobError from None  # which waits for Redis, or says what is wrong with it
        finally:
            self._waiting.by_id.pop(id_, None)
            if not one.done:  # nobody waits for it any more
                self._withdraw(one)
        if not one.done:
            raise RequestTimeoutError(f"no answer from model {info.name} within the time limit; the request is dropped")
        if one.answer is None:
            raise NeedsJobError
        return one.answer

    def close(self) -> None:
        """Give up the connections; what is asked for later connects again."""
        self._waiting.end_all()
        with self._reading:
            if self._pubsub is not None:
                self._pubsub.close()
                self._pubsub = None
        self._client.close()

    def _subscribe(self) -> None:
        if self._pubsub is not None:
            return
        with self._reading:
            if self._pubsub is None:
                pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
                pubsub.subscribe(keys.answers_channel(self._caller, self._database))
                ends_at = time.monotonic() + REQUEST_TIMEOUT_SECONDS
                while (message := pubsub.get_message(timeout=READ_SECONDS)) is None or message["type"] != "subscribe":
                    if time.monotonic() >= ends_at:
                        raise redis.TimeoutError("it does not answer")
                self._pubsub = pubsub

    def _send(self, one: Waiting, element: bytes) -> None:
        """Send what all threads have to send by now; whoever sends, sends for all."""
        self._unsent.append((one, element))
        with self._sending:
            unsent = []
            while self._unsent:  # else another thread has sent it
                unsent.append(self._unsent.popleft())
            for queue, pairs in by_queue(unsent).items():
                try:
                    request_queue.submit(self._client, queue, [pair[1] for pair in pairs])
                except (redis.RedisError, QueueFullError) as error:
                    for waiting, _ in pairs:
                        waiting.end(None, error)

    def _wait(self, one: Waiting, woken: threading.Lock, until: float | None) -> None:
        """Until it is done, or its time is up; read for all as long as nobody else does."""
        while not one.done:
            left = READ_SECONDS if until is None else min(until - time.monotonic(), READ_SECONDS)
            if left <= 0:
                return
            if not self._reading.acquire(blocking=False):
                woken.acquire(timeout=left)
                continue
            try:
                while not one.done and (until is None or time.monotonic() < until):
                    self._read(READ_SECONDS if until is None else min(until - time.monotonic(), READ_SECONDS))
            finally:
                self._reading.release()
                self._hand_on()
        if one.error is not None:
            raise one.error

    def _hand_on(self) -> None:
        """Wake somebody who waits, to read on."""
        for other in list(self._waiting.by_id.values()):
            if not other.done:
                other.wake()
                return

    def _read(self, seconds: float) -> None:
        """Take what comes within some time."""
        try:
            message = self._pubsub.get_message(timeout=seconds)
        except redis.RedisError:
            self._waiting.end_all()
            raise
        if message is not None:
            self._waiting.take(message, self._caller, self._sealer)
        if overdue := self._waiting.overdue():
            self._look_for(overdue)

    def _look_for(self, overdue: Sequence[Waiting]) -> None:
        """End the waiting for requests that whoever took them is gone with."""
        missing = lost(self._client, self.targets, overdue)
        self._waiting.missed(one for one in overdue if one.id in missing)

    def _withdraw(self, one: Waiting) -> None:
        try:
            request_queue.withdraw(self._client, one.target.queue, [one.id])
        except redis.RedisError:
            return  # whoever takes it sees that its time is up


def busy(target: Target, waiting: int, rows: int) -> BusyError:
    """What a caller is told whose request is not taken."""
    seconds = target.wait_seconds(waiting, rows)
    wait = "" if seconds is None else f", about {seconds:.1f} s of work for its {target.slots} slots"
    return BusyError(
        f"{waiting} requests for model {target.infos[0].name} wait already{wait}; try again later, "
        "or start more workers"
    )


def _release(lock: threading.Lock) -> None:
    with suppress(RuntimeError):  # somebody else did
        lock.release()
