"""The front door for event loops, as of FastAPI: what `Client` does, awaited.

small predictions --AsyncChannel of the loop that runs--> Redis          all else --jobs, in threads--> Redis
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar, Unpack, overload

from producer.client import Client
from producer.job.job import Job
from producer.requests.async_channel import AsyncChannel
from producer.requests.by_job import outputs_by_job
from producer.requests.forks import tell_of_forks
from producer.requests.loop_rows import LoopRows
from producer.requests.shards import ShardFinder, least_waiting
from producer.requests.small import NeedsJobError, failing_of, is_request
from producer.requests.targets import Targets
from producer.rows.part import OutputTree
from producer.rows.returned import Form, Frame, Returns
from producer.rows.source import frame_of
from producer.scheduling.admission import ModelNames, check_names
from producer.scheduling.error_budget import make_policy
from producer.scheduling.job_options import MAX_WAITING_BYTES, JobOptions, PredictOptions, SubmitOptions
from producer.sources import open_source
from tasks.protocol.messages import OnNonfinite
from tasks.protocol.seal import Sealer
from worker_config.errors import CeleriacError, RequestTimeoutError
from worker_config.retry_policy import WORKER_TIMEOUT_SECONDS
from worker_config.settings import Settings

# Jobs and streams of one process at a time, each of which has a thread that waits for it; others wait for these.
MAX_THREADS = 128

T = TypeVar("T")

# Of loops of a parent, in a process that was forked: to close these would close the parent's.
_PARENTS: list[object] = []


class AsyncClient:
    """A producer for event loops: `Client`, whose methods are awaited.

    One is enough for all loops, threads and tasks of a process; one that was forked connects anew. Making it asks Redis
    for a moment; so make it before the loop runs, or when the application starts.

    Args:
        broker_url, worker_timeout_seconds, settings: as for `Client`.

    Raises:
        ConfigError, BrokerError: as `Client`.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        worker_timeout_seconds: float = WORKER_TIMEOUT_SECONDS,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings.from_env()
        self._client = Client(broker_url, worker_timeout_seconds=worker_timeout_seconds, settings=settings)
        self._sealer = Sealer(settings.signing_key)
        self._begin()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In a process that was forked, threads are gone, and connections are the parent's."""
        _PARENTS.append(self._channels)
        self._begin()

    def _begin(self) -> None:
        self._finder = ShardFinder(self._client.broker_url, self._client._find)
        self._targets = [Targets(self._finder.on(shard)) for shard in range(len(self._finder.urls))]
        self._threads = ThreadPoolExecutor(MAX_THREADS, "celeriac-async")
        self._channels: dict[asyncio.AbstractEventLoop, dict[int, AsyncChannel]] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what still runs, and wait until nothing of it is left behind."""
        channels, self._channels = self._channels, {}
        own = channels.pop(asyncio.get_running_loop(), None)
        for loop, its in channels.items():
            for channel in its.values():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(channel.end)
        for channel in (own or {}).values():
            await channel.close()
        await asyncio.to_thread(self._client.close)
        self._threads.shutdown(wait=False)

    @overload
    async def predict(
        self, models: ModelNames, data: Frame, *, returns: Literal["frame"], **options: Unpack[PredictOptions]
    ) -> Frame: ...

    @overload
    async def predict(
        self, models: ModelNames, data: object, *, returns: Literal["arrays"] = ..., **options: Unpack[PredictOptions]
    ) -> OutputTree: ...

    async def predict(
        self,
        models: ModelNames,
        data: object,
        *,
        keep: str | Sequence[str] = (),
        returns: Returns = "arrays",
        timeout_seconds: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Predictions for all rows of `data`, as `Client.predict` gives them.

        A task that is cancelled meanwhile takes its request back, or cancels its job.

        Args:
            models, data, keep, returns, timeout_seconds, options: as for `Client.predict`.

        Raises:
            CeleriacError: whatever `Client.predict` raises.
        """
        limit = asyncio.timeout(timeout_seconds)
        try:
            async with limit:
                return await self._predict(models, data, keep, returns, timeout_seconds, options)
        except TimeoutError as error:
            if isinstance(error, CeleriacError) or not limit.expired():
                raise
            raise RequestTimeoutError(
                f"no answer from {models} within the time limit of {timeout_seconds} s; what was asked for is dropped"
            ) from None

    async def _predict(
        self,
        models: ModelNames,
        data: object,
        keep: str | Sequence[str],
        returns: Returns,
        timeout_seconds: float | None,
        options: SubmitOptions,
    ) -> Any:
        names = check_names(models)
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        if not keep and is_request(data, options):
            data, policy = open_source(data), make_policy(**failing_of(options))
            try:
                form = Form(returns, frame_of(data))
                return await (await self._channel(names)).predict(names, data, policy, until, form)
            except NeedsJobError:
                pass  # the job is none of its `except` clause: errors would tell of it
        running = _Running()

        def outputs() -> Any:
            source = open_source(data)
            form = Form(returns, frame_of(source), keep)

            def begin() -> Job:
                return running.begin(self._client.submit(names, source, **options))

            if until is not None:
                self._client._find(names, until)  # the task's end does not end the thread's wait
            return outputs_by_job(begin, names, source, keep, None, form)

        try:
            return await self._in_thread(outputs)
        finally:
            running.cancel()

    async def submit(self, models: ModelNames, data: object, **options: Unpack[SubmitOptions]) -> Job:
        """Begin a job, as `Client.submit` does; `await job` gives its result, and a task that is cancelled ends it.

        Args:
            models, data, options: as for `Client.submit`.

        Raises:
            CeleriacError: whatever `Client.submit` raises.
        """
        running = _Running()
        try:
            return await self._in_thread(lambda: running.begin(self._client.submit(models, data, **options)))
        except asyncio.CancelledError:
            running.cancel()
            raise

    async def stream(
        self,
        models: ModelNames,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        chunk_rows: int | None = None,
        max_delay: float = 0.05,
        on_nonfinite: OnNonfinite = "warn",
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> AsyncIterator[Any]:
        """Predictions for the rows of an iterable that may never end: one for each row, in order.

        Args:
            models: as for `Client.submit`.
            rows: single rows, as for `Client.stream`; what is no async iterable is read by a thread.
            chunk_rows, max_delay, on_nonfinite, max_waiting_bytes: as for `Client.stream`.

        Closing the iterator cancels what is in flight; `contextlib.aclosing` does it at the end of a block, where
        `break` alone leaves that to the loop.
        """
        source = LoopRows(rows) if isinstance(rows, AsyncIterable) else rows
        options = JobOptions(policy=make_policy("raise", None, on_nonfinite), max_waiting_bytes=max_waiting_bytes)
        begin = partial(self._client._begin_stream, check_names(models), source, chunk_rows, max_delay, options)
        running = _Running()
        try:
            job = await self._in_thread(lambda: running.begin(begin()))
            parts = job.parts()
            while (part := await self._in_thread(partial(next, parts, None))) is not None:
                for outputs in part.each():
                    yield outputs
        finally:
            running.cancel()
            if isinstance(source, LoopRows):
                source.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _channel(self, names: list[str]) -> AsyncChannel:
        """That of the loop that runs, to a shard whose workers hold these models."""
        loop = asyncio.get_running_loop()
        slots = self._finder.known(names)
        if slots is None:
            slots = await self._in_thread(partial(self._finder.slots, names))
        channels = self._channels.setdefault(loop, {})
        shard = least_waiting(slots, lambda one: channels[one].waiting if one in channels else 0)
        if shard not in channels or channels[shard].has_ended:
            for other in [other for other in self._channels.copy() if other.is_closed()]:
                del self._channels[other]
            url, targets = self._finder.urls[shard], self._targets[shard]
            channels[shard] = AsyncChannel(url, self._sealer, targets, self._threads)
        return channels[shard]


class _Running:
    """A job that a thread begins and a task may cancel, before it has begun too."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._is_cancelled = False

    def begin(self, job: Job) -> Job:
        """It has begun."""
        self._job = job
        if self._is_cancelled:
            job.cancel()
        return job

    def cancel(self) -> None:
        """Nobody waits for it; harmless when it has ended."""
        self._is_cancelled = True
        if self._job is not None:
            self._job.cancel()
