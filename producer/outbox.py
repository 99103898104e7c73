"""This module sends chunks: takes rows from the feed, stores them, publishes, and keeps each until it is answered.

feed --rows--> encode --> put --> publish (a few at once) --> open until answered --> sent again, if need be
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import msgspec

from producer.feeds import Feed
from producer.queues import Queues
from producer.split import Chunk, Sizer
from producer.window import Window
from producer.wire import Wire
from tasks import codec
from tasks.messages import MESSAGE_VERSION, ChunkMessage, ModelRef, SliceRef
from worker_config.errors import InputError, PayloadError

logger = logging.getLogger(__name__)

# Published together: more would let slots wait for their first chunk.
BATCH_CHUNKS = 16
BATCH_BYTES = 2**20


@dataclass(slots=True)
class OpenChunk:
    """A chunk that is not answered, and the queue that it was sent to.

    `payload` is empty where its rows can be had again.
    """

    message: ChunkMessage
    queue: str
    payload: bytes
    times_sent: int = 1

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.message.stop - self.message.start


class Outbox:
    """The chunks of one job on their way out.

    Args:
        queues: those of the workers that can run the job.
        reply: the way of large outputs back.
        slice_ref: where the rows stand in a file, if workers read them there; else they are stored.
        compression: what payloads are packed with, both ways.
    """

    def __init__(
        self,
        wire: Wire,
        feed: Feed,
        window: Window,
        sizer: Sizer,
        queues: Queues,
        job: str,
        models: Sequence[ModelRef],
        reply: Literal["redis", "files"],
        slice_ref: SliceRef | None = None,
        compression: codec.Compression | None = None,
    ) -> None:
        self.open: dict[int, OpenChunk] = {}
        self._wire = wire
        self._feed = feed
        self._window = window
        self._sizer = sizer
        self._queues = queues
        self._job = job
        self._models = list(models)
        self._reply = reply
        self._slice_ref = slice_ref
        self._compression = compression

    def send(self, held_back: int) -> int:
        """Send chunks while the window admits them, up to one batch; return how many."""
        sent: list[OpenChunk] = []
        size = 0
        while len(sent) < BATCH_CHUNKS and size < BATCH_BYTES:
            rows_left = None if self._feed.rows is None else self._feed.rows - self._feed.given
            wanted = self._sizer.next_rows(rows_left, self._window.slots, self._window.chunk_bytes)
            if not self._window.admits(held_back, self._sizer.bytes_in_flight(wanted)):
                break
            given = self._feed.next_chunk(wanted)
            if given is None:
                break
            chunk, rows = given
            try:
                parts = [] if rows is None else self._encode(rows)
            except PayloadError as error:
                where = f"{self._feed.label}: rows {chunk.start}-{chunk.stop}"
                self._feed.end_by(InputError(f"{where}: {error}"))
                break
            payload_bytes = sum(map(len, parts))
            total = None if rows_left is None else chunk.index + max(1, math.ceil(rows_left / wanted))
            kept = b"" if self._feed.repeatable else b"".join(parts)
            opened = OpenChunk(self._message(chunk, parts, total), self._queues.choose(), kept)
            self.open[chunk.index] = opened
            self._sizer.sent(chunk.rows, payload_bytes)
            self._window.sent(chunk.index, self._sizer.bytes_in_flight(chunk.rows))
            sent.append(opened)
            size += payload_bytes
        if sent:
            self._wire.publish([(opened.queue, opened.message) for opened in sent])
        return len(sent)

    def leave_out(self, models: Collection[str]) -> None:
        """Send chunks without these models from now on; those that are open keep theirs, also when sent again."""
        if models:
            self._models = [model for model in self._models if model.name not in models]

    def answered(self, index: int, seconds: float, output_bytes: int) -> None:
        """Close a chunk: its rows are not needed any more."""
        opened = self.open.pop(index)
        self._queues.closed(opened.queue)
        self._window.answered(index, seconds)
        self._sizer.answered(opened.rows, seconds, output_bytes)
        self._wire.release([opened.message.ref])

    def drop(self, index: int) -> None:
        """Close a chunk without an answer; harmless where it is closed."""
        if opened := self.open.pop(index, None):
            self._queues.closed(opened.queue)
            self._window.dropped(index)
            self._wire.forget([opened.message.ref])

    def send_again(self, indexes: Sequence[int]) -> tuple[int, list[tuple[int, InputError]]]:
        """Send open chunks once more, with their rows: Redis, or the spool folder, may have lost them.

        By way of Redis, since not every worker may reach the file that others read; to queues of workers that are up
        now.
        """
        messages: list[tuple[str, ChunkMessage]] = []
        unreadable: list[tuple[int, InputError]] = []
        for index in indexes:
            opened = self.open[index]
            message = opened.message
            try:
                rows = self._feed.take(Chunk(index, message.start, message.stop))
                parts = [opened.payload] if rows is None else self._encode(rows)
            except InputError as error:
                unreadable.append((index, error))
                continue
            self._wire.forget([message.ref])
            ref = self._wire.put(index, parts, only_redis=True)
            opened.message = msgspec.structs.replace(message, ref=ref, reply="redis")
            opened.times_sent += 1
            self._queues.closed(opened.queue)
            opened.queue = self._queues.choose()
            messages.append((opened.queue, opened.message))
        if messages:
            logger.warning("job %s: sends %s of its chunks again", self._job, len(messages))
            self._wire.publish(messages)
        return len(messages), unreadable

    def close(self) -> None:
        """Forget what is still open."""
        self._wire.forget([opened.message.ref for opened in self.open.values()])

    def _encode(self, rows: object) -> list[bytes | memoryview]:
        return codec.encode_parts(cast("codec.Tree", rows), compression=self._compression)

    def _message(self, chunk: Chunk, parts: list[bytes | memoryview], total: int | None) -> ChunkMessage:
        return ChunkMessage(
            version=MESSAGE_VERSION,
            job=self._job,
            index=chunk.index,
            start=chunk.start,
            stop=chunk.stop,
            chunks=total,
            models=self._models,
            ref=self._slice_ref if self._slice_ref and not parts else self._wire.put(chunk.index, parts),
            reply=self._reply,
            compression=self._compression,
        )
