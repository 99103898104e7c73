"""The requests of one event loop: sent together, answered through one subscription; its tasks wait for futures.

task --list of what is to be sent--> sending task, one command for all that were asked in a tick --> Redis
Redis --channel--> reading task --> futures
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import Executor
from functools import partial
from typing import Any

import redis.asyncio

from producer.requests.request_client import READ_SECONDS, busy
from producer.requests.small import NeedsJobError, make, outputs_of, rows_for
from producer.requests.targets import Target, Targets
from producer.requests.waiting import Waiting, WaitingList, by_queue, lost
from producer.rows.returned import Form
from producer.rows.source import BatchSource, Source
from producer.scheduling.error_budget import ErrorBudget
from tasks.protocol import keys
from tasks.protocol.seal import Sealer
from tasks.transport import request_queue
from tasks.transport.async_connection import connect_async
from tasks.transport.connection import connect
from tasks.transport.request_queue import QueueFullError
from worker_config.broker import address_of
from worker_config.retry_policy import REQUEST_TIMEOUT_SECONDS

# A connection that a server does not close is left after so long.
CLOSE_SECONDS = 5.0


class AsyncChannel:
    """Made in the loop that it serves; of use until its connections are lost, or the loop ends.

    Args:
        url: of the broker.
        sealer: seals requests and opens answers.
        targets: where models are; shared by all loops of the process.
        threads: where what blocks is done.
    """

    def __init__(self, url: str, sealer: Sealer, targets: Targets, threads: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._url = url
        self._sealer = sealer
        self._targets = targets
        self._threads = threads
        self._caller = secrets.token_hex(8)
        self._channel = keys.answers_channel(self._caller, address_of(url).database)
        self._client = connect_async(url, timeout_seconds=REQUEST_TIMEOUT_SECONDS)
        self._waiting = WaitingList()
        self._unsent: list[tuple[Waiting, bytes]] = []
        self._dropped: list[Waiting] = []
        self._is_to_send, self._has_begun = asyncio.Event(), asyncio.Event()
        self._finding: dict[tuple[str, ...], asyncio.Future[Target]] = {}
        self._look: asyncio.Task[None] | None = None
        self._is_over = False
        self._work = self._loop.create_task(self._serve(), name="celeriac-requests")

    @property
    def has_ended(self) -> bool:
        """Whether it takes no requests any more."""
        return self._work.done()

    @property
    def waiting(self) -> int:
        """Requests that wait for their answers."""
        return len(self._waiting.by_id)

    async def predict(
        self, names: list[str], source: Source | BatchSource, policy: ErrorBudget, until: float | None, form: Form
    ) -> Any:
        """The outputs for some rows, as of `RequestClient`; a task that is cancelled takes its request back.

        Raises:
            NeedsJobError, CeleriacError: as `RequestClient.predict`, but for the time limit, which is the caller's.
        """
        target = self._targets.known(names) or await self._find(names)
        rows, count = rows_for(target, source, policy)
        if not self._has_begun.is_set():
            await self._has_begun.wait()
        id_, element = make(target.infos[0], rows, count, policy, until, self._caller, self._sealer)
        woken: asyncio.Future[None] = self._loop.create_future()
        one = Waiting(id_, target, partial(_wake, woken))
        if self.has_ended:
            raise NeedsJobError  # which waits for Redis, or says what is wrong with it
        self._waiting.by_id[id_] = one
        self._unsent.append((one, element))
        self._is_to_send.set()
        try:
            await woken
        finally:
            del self._waiting.by_id[id_]
            if not one.done:
                self._dropped.append(one)
                self._is_to_send.set()
        if isinstance(one.error, QueueFullError):
            raise busy(target, one.error.waiting, count) from None
        if one.answer is None:
            raise NeedsJobError
        return outputs_of(target.infos[0], one.answer, count, policy, form)

    def end(self) -> None:
        """Give up the connections; from its own loop."""
        self._is_over = True  # should what is awaited swallow that it is cancelled
        self._work.cancel()

    async def close(self) -> None:
        """The same, and wait until that is done."""
        self.end()
        await asyncio.wait([self._work], timeout=CLOSE_SECONDS)

    async def _find(self, names: list[str]) -> Target:
        """Where the models are; asked by one task for all."""
        key = tuple(names)
        finding = self._finding.get(key)
        if finding is None:
            finding = self._loop.run_in_executor(self._threads, self._targets.of, names)
            self._finding[key] = finding
            finding.add_done_callback(partial(self._found, key))
        return await asyncio.shield(finding)

    def _found(self, key: tuple[str, ...], finding: asyncio.Future[Target]) -> None:
        del self._finding[key]
        if not finding.cancelled():
            finding.exception()  # nobody may be left who asks

    async def _serve(self) -> None:
        """Until the connection is lost, and several tries to have it back were in vain."""
        sending = self._loop.create_task(self._send_all(), name="celeriac-requests-sent")
        sending.add_done_callback(lambda ended: ended.cancelled() or self._work.cancel())
        try:
            async with self._client, self._client.pubsub() as pubsub:
                try:
                    await pubsub.subscribe(self._channel)
                    while not self._is_over:
                        self._take(await pubsub.get_message(timeout=READ_SECONDS))
                finally:
                    sending.cancel()
        except redis.RedisError:
            pass  # jobs wait for it, or tell
        finally:
            if self._look is not None:
                self._look.cancel()
            self._has_begun.set()
            self._waiting.end_all()

    def _take(self, message: dict[str, Any] | None) -> None:
        """Give tasks what has come; look for what has not."""
        if message is not None:
            self._waiting.take(message, self._caller, self._sealer)
            self._has_begun.set()
        if (self._look is None or self._look.done()) and (overdue := self._waiting.overdue()):
            self._look = self._loop.create_task(self._look_for(overdue), name="celeriac-requests-overdue")

    async def _send_all(self) -> None:
        """Send what all tasks have asked for, and take back what they do not want any more."""
        while await self._is_to_send.wait() and not self._is_over:
            self._is_to_send.clear()
            dropped, self._dropped = self._dropped, []
            batch, self._unsent = self._unsent, []
            unwanted = {one.id for one in dropped}
            for queue, pairs in by_queue(pair for pair in batch if pair[0].id not in unwanted).items():
                await self._send(queue, pairs)
            for queue in {one.target.queue for one in dropped}:
                await self._withdraw(queue, [one.id for one in dropped if one.target.queue == queue])

    async def _send(self, queue: str, pairs: list[tuple[Waiting, bytes]]) -> None:
        try:
            await request_queue.submit_async(self._client, queue, [element for _, element in pairs])
        except (redis.RedisError, QueueFullError) as error:
            for one, _ in pairs:
                one.end(None, error)

    async def _withdraw(self, queue: str, ids: list[str]) -> None:
        try:
            await request_queue.withdraw_async(self._client, queue, ids)
        except redis.RedisError:
            return  # whoever takes them sees that their time is up

    async def _look_for(self, overdue: list[Waiting]) -> None:
        """End the waiting for requests that whoever took them is gone with."""

        def look() -> set[str]:
            with connect(self._url, retries=0, timeout_seconds=REQUEST_TIMEOUT_SECONDS) as client:
                return lost(client, self._targets, overdue)

        try:
            missing = await self._loop.run_in_executor(self._threads, look)
        except redis.RedisError:
            return  # the next look will tell, or the connection is lost
        self._waiting.missed(one for one in overdue if one.id in missing)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
