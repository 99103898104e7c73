"""Stands in for workers, in a process of its own: answers chunks at once, many together, so that a producer is busy.

queue --messages, up to 64--> rows of each, as its outputs --answers, one push--> the jobs' lists

What it sends is what children send, to the byte but for what they measured; its slots are copies of a real one, whose
worker has ended.
"""

from __future__ import annotations

import multiprocessing
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.chunk_args import from_args
from tasks.protocol.messages import STAGES, ChunkMessage, InlineRef, Outputs, pack
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import Sealer, answer_context, checksum, outputs_context, rows_context
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots, register_slots
from worker_config.retry_policy import HEARTBEAT_SECONDS

_AT_ONCE = 64


@contextmanager
def stand_in(url: str, slot: SlotRecord, slots: int) -> Iterator[None]:
    """As many slots as asked for, all like this one, which answer until the block ends."""
    copies = [msgspec.structs.replace(slot, slot=number) for number in range(slots)]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(url, copies), daemon=True)
    process.start()
    try:
        with connect(url) as client:
            while len([one for one in read_slots(client) if one.worker == slot.worker]) < slots:
                time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.join()


@dataclass
class Answering:
    """Makes answers of a slot, whose model gives rows back after so many seconds, as it says."""

    slot: SlotRecord
    seconds: float = 0.25
    sealer: Sealer = field(default_factory=Sealer)

    def answer(self, raw: bytes) -> tuple[str, bytes]:
        """The job of a message, and the answer to it."""
        body = msgspec.msgpack.decode(b64decode(msgspec.json.decode(raw)["body"]))
        message = from_args(body[0], self.slot.queue, self.sealer)
        return message.job, self._outputs(message)

    def _outputs(self, message: ChunkMessage) -> bytes:
        job, index = message.job, message.index
        payload = self.sealer.open(rows_context(job, index), cast("InlineRef", message.ref).payload)
        sealed = b"".join(self.sealer.seal(outputs_context(job, index), [payload]))
        answer = Outputs(
            job=job,
            index=index,
            start=message.start,
            stop=message.stop,
            slot=f"{self.slot.worker}/{self.slot.slot}",
            seconds=self.seconds,
            ref=InlineRef(sealed),
            models=message.models,
            checksum=checksum([sealed]),
            begun_at=time.time(),
            stages=dict.fromkeys(STAGES, 0.001),
        )
        return self.sealer.seal_bytes(answer_context(job), pack(answer))


def _serve(url: str, slots: list[SlotRecord]) -> None:
    client, answering, told_at = connect(url), Answering(slots[0]), -HEARTBEAT_SECONDS
    queue = keys.queue(slots[0].queue)
    while True:
        if time.monotonic() - told_at > HEARTBEAT_SECONDS:
            register_slots(client, slots)
            told_at = time.monotonic()
        raw = cast("list[bytes] | None", client.rpop(queue, _AT_ONCE)) or _wait(client, queue)
        by_job: dict[str, list[bytes]] = defaultdict(list)
        for job, answer in map(answering.answer, raw):
            by_job[job].append(answer)
        for job, answers in by_job.items():
            client.rpush(keys.results(job), *answers)


def _wait(client: redis.Redis, queue: str) -> list[bytes]:
    found = cast("tuple[bytes, bytes] | None", client.brpop([queue], timeout=1))
    return [found[1]] if found else []
