"""This module is the producer's side of Redis and Celery: payloads and chunks out, answers in.

put payload (Redis, if over 64 KiB) --> publish chunks (one batch) --> ... --> take answers from the job's list
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tasks import keys
from tasks.connection import BLOCK_SECONDS, broker_errors, connect
from tasks.messages import (
    TASK_NAME,
    Answer,
    ChunkMessage,
    InlineRef,
    PayloadRef,
    RedisRef,
    SlotRecord,
    to_plain,
    unpack,
)
from tasks.slots import read_slots
from worker_config.broker_url import redacted
from worker_config.celery_app import make_app
from worker_config.errors import BrokerError
from worker_config.settings import Settings

# A larger payload in the message would pass through the worker's main process, twice over a pipe.
MAX_INLINE_BYTES = 64 * 2**10
# Answers taken at once, besides the one that was waited for.
ANSWERS_AT_ONCE = 64


class Wire:
    """Connections of one job; used by the job's thread alone."""

    def __init__(self, url: str, settings: Settings, job: str) -> None:
        self.url = url
        self.client: redis.Redis = connect(url, retries=10)
        self._app: Celery = make_app(settings)
        self._ttl_seconds = settings.job_ttl_seconds
        self._job = job

    def put(self, index: int, payload: bytes) -> PayloadRef:
        """Store a chunk's payload, or keep it for the message if it is small."""
        if len(payload) <= MAX_INLINE_BYTES:
            return InlineRef(payload)
        key = keys.payload(self._job, index)
        with broker_errors(self.url):
            self.client.set(key, payload, ex=self._ttl_seconds)
        return RedisRef(key)

    def publish(self, messages: Sequence[ChunkMessage]) -> None:
        """Send chunks to the workers; one that is sent twice does no harm."""
        try:
            with self._app.producer_pool.acquire(block=True) as producer, producer.batch():
                for message in messages:
                    self._app.send_task(
                        TASK_NAME,
                        args=[to_plain(message)],
                        argsrepr=str(message),
                        kwargsrepr="{}",
                        producer=producer,
                        ignore_result=True,
                    )
        except (OperationalError, redis.RedisError) as error:
            raise BrokerError(f"Redis at {redacted(self.url)} takes no chunks: {error}") from None

    def take_answers(self, wait_seconds: float = BLOCK_SECONDS) -> list[Answer]:
        """The answers that have come, after waiting up to `wait_seconds` for the first."""
        key = keys.results(self._job)
        with broker_errors(self.url):
            first = cast("tuple[bytes, bytes] | None", self.client.blpop([key], timeout=wait_seconds))
            if first is None:
                return []
            more = cast("list[bytes] | None", self.client.lpop(key, ANSWERS_AT_ONCE))
        return [unpack(data, Answer) for data in [first[1], *(more or [])]]

    def forget_payloads(self, refs: Collection[PayloadRef]) -> None:
        """Delete payloads that are answered."""
        if stored := [ref.key for ref in refs if isinstance(ref, RedisRef)]:
            with broker_errors(self.url):
                self.client.unlink(*stored)

    def slots(self) -> list[SlotRecord]:
        """Every slot that is up."""
        with broker_errors(self.url):
            return read_slots(self.client)

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
        self.client.close()
