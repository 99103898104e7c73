"""Chunks by hand: sent to a real worker without a producer's job, and sent again as a producer does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
import redis
import xxhash

from producer.broker.broker_channel import BrokerChannel
from producer.records import job_store
from tasks.protocol import codec, keys
from tasks.protocol.messages import (
    MESSAGE_VERSION,
    Answer,
    ChunkMessage,
    Failure,
    InlineRef,
    ModelRef,
    OnError,
    Outputs,
)
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import outputs_context
from tests.seals import SEALER, rows_ref
from tests.systems import System, Worker
from tests.waiting import wait_until

# As often as any chunk may need.
TIMES_SENT = 12


@dataclass
class Chunks:
    """The chunks of one job, which counts as running as long as the block lasts."""

    job: str
    queue: str
    channel: BrokerChannel
    server: redis.Redis
    refs: dict[str, ModelRef]
    answers: list[Answer] = field(default_factory=list)

    def message(
        self, models: str, rows: Any, on_error: OnError = "skip", index: int = 0, start: int = 0, **more: Any
    ) -> ChunkMessage:
        """A chunk of rows that begin at `start`."""
        column = next(iter(rows.values())) if isinstance(rows, dict) else rows
        refs = [self.refs[name] for name in models.split(",")]
        payload = rows_ref(self.job, index, rows)
        message = ChunkMessage(MESSAGE_VERSION, self.job, index, start, start + len(column), None, refs, payload)
        return msgspec.structs.replace(message, on_error=on_error, **more)

    def send(self, *messages: ChunkMessage) -> None:
        self.channel.publish([(self.queue, message) for message in messages])

    def next_answer(self) -> Answer:
        def came() -> Answer | None:
            self.answers += self.channel.take_answers(1.0)
            return self.answers.pop(0) if self.answers else None

        return cast("Answer", wait_until(came, "a chunk is answered"))

    def run(self, message: ChunkMessage) -> Answer:
        """The answer that counts: a chunk whose child died comes again, unless the child itself says so."""
        self.send(message)
        for _ in range(TIMES_SENT):
            answer = self.next_answer()
            if not (isinstance(answer, Failure) and answer.record.stage == "worker" and not answer.slot):
                return answer
            self.send(message)
        raise AssertionError(f"{message} dies for ever")

    def noted(self) -> dict[bytes, bytes]:
        """All that is known of deliveries."""
        return cast("dict[bytes, bytes]", self.server.hgetall(keys.deliveries(self.job)))


@contextmanager
def chunks_of(system: System, job: str) -> Iterator[Chunks]:
    """A job by hand for the models of the first slot."""
    slot = system.slots()[0]
    channel, server = BrokerChannel(system.url, system.settings(), job), system.admin()
    try:
        job_store.create(channel.client, JobRecord(job, ["?"], "?", "redis", None, 0.0, 0.0, "?", {}), SEALER, 600)
        refs = {model.name: ModelRef(model.name, model.digest) for model in slot.models}
        yield Chunks(job, slot.queue, channel, server, refs)
    finally:
        for key in (keys.job(job), keys.results(job), keys.deliveries(job)):
            server.delete(key)
        channel.close()
        server.close()


def outputs_of(answer: Answer) -> Any:
    """What a child made of a chunk that it could run; the checksum is right."""
    assert isinstance(answer, Outputs), answer
    assert isinstance(answer.ref, InlineRef)
    payload = SEALER.open(outputs_context(answer.job, answer.index), answer.ref.payload)
    assert answer.checksum == xxhash.xxh3_64_intdigest(payload)
    return codec.decode(payload)


def deaths(worker: Worker) -> int:
    """Children that have died so far, or were killed."""
    return len(re.findall(r"pid:\d+ exited with '", worker.output()))


def without_rows(rows: np.ndarray, bad: list[int]) -> np.ndarray:
    return np.delete(rows, bad, axis=0)
