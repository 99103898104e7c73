"""This module sends chunks: takes rows from the feed, stores them, publishes, and keeps each until it is answered.

feed --rows--> encode --> put --> publish (a few at once) --> open until answered --> sent again, if need be
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import msgspec

from producer.job.broker_channel import BrokerChannel
from producer.job.chunk_feeds import Feed
from producer.records.timeline import Timeline
from producer.scheduling.chunk_sizer import Chunk, ChunkSizer
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.window import Window
from tasks.protocol import codec
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, FileRef, InlineRef, ModelRef, RowsRef, SliceRef
from worker_config.errors import InputError, PayloadError

logger = logging.getLogger(__name__)

# Published together: more would let slots wait for their first chunk.
BATCH_CHUNKS = 16
BATCH_BYTES = 2**20
# Why a chunk is sent again.
_OVERDUE = "its answer is overdue"
_LOST = "it came back without outputs, or Redis may have lost it"
_WORKER_GONE = "the worker that had it is gone"


@dataclass(slots=True)
class OpenChunk:
    """A chunk that is not answered, and the queue that it was sent to.

    Attributes:
        payload: its rows; empty where they can be had again.
        sent_at: when it was last published, or tried to be, by this process's monotonic clock.
        published: whether Redis has its message for sure.
        copies: deliveries that may still answer.
        came_back: deliveries that have come to nothing.
        spent: payloads of earlier deliveries, which a child may still read.
    """

    message: ChunkMessage
    queue: str
    payload: bytes
    times_sent: int = 1
    sent_at: float = 0.0
    published: bool = False
    copies: int = 1
    came_back: int = 0
    spent: list[RowsRef] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.message.stop - self.message.start

    def goes_again(self, *, late: bool) -> None:
        """One more copy is on its way; if it is not only late, the others are gone."""
        self.times_sent += 1
        self.copies = self.copies + 1 if late else 1

    def is_back(self) -> bool:
        """A copy has come to nothing: whether it was the last one on its way.

        A row that kills would otherwise have several children at a time, for each of its copies.
        """
        self.came_back += 1
        self.copies -= 1
        return self.copies < 1


class Dispatcher:
    """The chunks of one job on their way out.

    Args:
        queues: those of the workers that can run the job.
        reply: the way of large outputs back.
        slice_ref: where the rows stand in a file, if workers read them there; else they are stored.
        compression: what payloads are packed with, both ways.
        policy: what a row does that fails, or is not finite.

    Attributes:
        open: the chunks that are not answered, in the order of their index.
        chunks_sent: for the first time.
        chunks_sent_again: once more.
        timeline: what happens to them.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        feed: Feed,
        window: Window,
        chunk_sizer: ChunkSizer,
        queues: LoadBalancer,
        job: str,
        models: Sequence[ModelRef],
        reply: Literal["redis", "files"],
        slice_ref: SliceRef | None = None,
        compression: codec.Compression | None = None,
        policy: ErrorBudget = ErrorBudget(),  # noqa: B008 - frozen
    ) -> None:
        self.open: dict[int, OpenChunk] = {}
        self.chunks_sent = 0
        self.chunks_sent_again = 0
        self.timeline = Timeline()
        self._channel = channel
        self._feed = feed
        self._window = window
        self._chunk_sizer = chunk_sizer
        self._queues = queues
        self._job = job
        self._models = list(models)
        self._reply = reply
        self._slice_ref = slice_ref
        self._compression = compression
        self._policy = policy

    def send(self, held_back: int) -> int:
        """Send chunks while the window admits them, up to one batch; return how many.

        Raises:
            BrokerError: Redis takes no more; what it may not have is in `open`, and not published.
        """
        sent: list[OpenChunk] = []
        size = 0
        while len(sent) < BATCH_CHUNKS and size < BATCH_BYTES:
            rows_left = None if self._feed.rows is None else self._feed.rows - self._feed.given
            wanted = self._chunk_sizer.next_rows(rows_left, self._window.slots, self._window.chunk_bytes)
            if not self._window.admits(held_back, self._chunk_sizer.bytes_in_flight(wanted)):
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
            opened = OpenChunk(self._message(chunk, total), self._queues.choose(), kept)
            self.open[chunk.index] = opened  # whatever Redis does with it
            self.chunks_sent += 1
            self.timeline.sent(chunk.index)
            self._chunk_sizer.sent(chunk.rows, payload_bytes)
            self._window.sent(chunk.index, self._chunk_sizer.bytes_in_flight(chunk.rows))
            if not self._slice_ref or parts:
                opened.message = msgspec.structs.replace(opened.message, ref=self._channel.put(chunk.index, parts))
            sent.append(opened)
            size += payload_bytes
        self._publish(sent)
        return len(sent)

    def _publish(self, chunks: list[OpenChunk], *, first: bool = False) -> None:
        for opened in chunks:
            opened.sent_at = time.monotonic()
        if chunks:
            self._channel.publish([(opened.queue, opened.message) for opened in chunks], first=first)
        for opened in chunks:
            opened.published = True

    def leave_out(self, models: Collection[str]) -> None:
        """Send chunks without these models from now on; those that are open keep theirs, also when sent again."""
        if models:
            self._models = [model for model in self._models if model.name not in models]

    def answered(self, index: int, seconds: float, output_bytes: int) -> None:
        """Close a chunk: its rows are not needed any more; `seconds` is 0 where nobody knows what it took."""
        opened = self.open.pop(index)
        self._queues.closed(opened.queue)
        self._window.answered(index, seconds)
        if seconds:
            self._chunk_sizer.answered(opened.rows, seconds, output_bytes)
        # Where another delivery may still read it, its file must not be written anew.
        end = self._channel.release if opened.times_sent == 1 else self._channel.forget
        end([opened.message.ref, *opened.spent])

    def drop(self, index: int) -> None:
        """Close a chunk without an answer; harmless where it is closed."""
        if opened := self.open.pop(index, None):
            self._queues.closed(opened.queue)
            self._window.dropped(index)
            self._channel.forget([opened.message.ref, *opened.spent])

    def is_back(self, index: int) -> bool:
        """A copy of an open chunk has come to nothing: whether it was the last one on its way."""
        return self.open[index].is_back()

    def send_again(
        self, indexes: Sequence[int], *, with_rows: bool, late: bool = False
    ) -> list[tuple[int, InputError]]:
        """Send open chunks once more, to the head of queues of workers that are up now.

        Args:
            indexes: of open chunks.
            with_rows: Redis, or the spool folder, may have lost them. By way of Redis, since not every worker may reach
                the file that others read.
            late: earlier copies may still be answered, or come back.

        Returns: those whose rows cannot be read any more.

        Raises:
            BrokerError: as `send`.
        """
        again: list[OpenChunk] = []
        unreadable: list[tuple[int, InputError]] = []
        for index in indexes:
            opened = self.open[index]
            message = opened.message
            opened.published = False
            if with_rows or isinstance(message.ref, FileRef):
                try:
                    self._put_again(index, opened)
                except InputError as error:
                    unreadable.append((index, error))
                    continue
            opened.goes_again(late=late)
            self._queues.closed(opened.queue)
            opened.queue = self._queues.choose()
            again.append(opened)
            self.timeline.sent_again(index, _OVERDUE if late else _LOST if with_rows else _WORKER_GONE)
        if again:
            self.chunks_sent_again += len(again)
            logger.warning("job %s: sends %s of its chunks again", self._job, len(again))
            self._publish(again, first=True)
        return unreadable

    def _put_again(self, index: int, opened: OpenChunk) -> None:
        message = opened.message
        rows = self._feed.take(Chunk(index, message.start, message.stop))
        ref = self._channel.put(index, [opened.payload] if rows is None else self._encode(rows), only_redis=True)
        if isinstance(message.ref, FileRef):
            opened.spent.append(message.ref)
        opened.message = msgspec.structs.replace(message, ref=ref, reply="redis")

    def doubt(self) -> None:
        """Redis may have lost whatever it was given."""
        self.timeline.doubt()
        for opened in self.open.values():
            opened.published = False

    def close(self) -> None:
        """Forget what is still open."""
        self._channel.forget([ref for opened in self.open.values() for ref in (opened.message.ref, *opened.spent)])

    def _encode(self, rows: object) -> list[bytes | memoryview]:
        return codec.encode_parts(cast("codec.Tree", rows), compression=self._compression)

    def _message(self, chunk: Chunk, total: int | None) -> ChunkMessage:
        return ChunkMessage(
            version=MESSAGE_VERSION,
            job=self._job,
            index=chunk.index,
            start=chunk.start,
            stop=chunk.stop,
            chunks=total,
            models=self._models,
            ref=self._slice_ref or InlineRef(b""),
            reply=self._reply,
            compression=self._compression,
            on_error=self._policy.on_error,
            on_nonfinite=self._policy.on_nonfinite,
        )
