"""Sends chunks: takes rows from the feed, stores them, publishes, and keeps each until it is answered.

feed --rows--> encode --> put --> publish (a few at once) --> open until answered --> sent again, if need be
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Sequence
from typing import cast

import msgspec

from producer.broker.shards import shard_of
from producer.job.job_context import JobContext
from producer.scheduling.chunk_sizer import Chunk, ChunkSizer
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.open_chunk import OpenChunk
from producer.scheduling.payload_route import choose_reply
from producer.scheduling.window import Window
from tasks.datasets.kept import with_kept
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.objects import odd_texts
from tasks.datasets.rows import Rows
from tasks.protocol import codec
from tasks.protocol.messages import (
    WRITTEN_VERSION,
    ChunkMessage,
    FileRef,
    FolderReply,
    InlineRef,
    RedisRef,
    SliceRef,
    cut_in_place,
)
from tasks.protocol.records import SlotRecord
from tasks.protocol.split_ref import SplitRef, cut
from tasks.protocol.unfed_rows import with_unfed
from worker_config.errors import CeleriacError, InputError, PayloadError

logger: logging.Logger = logging.getLogger(__name__)

# Published together: more would let slots wait for their first chunk.
BATCH_CHUNKS = 16
BATCH_BYTES = 2**20
# Why a chunk is sent again.
OVERDUE = "its answer is overdue"
_LOST = "it came back without outputs, or Redis may have lost it"
_WORKER_GONE = "the worker that had it is gone"


class Dispatcher:
    """The chunks of one job on their way out.

    Attributes:
        open: the chunks that are not answered, in the order of their index.
        waiting: those of them that may wait in their queue, by queue and index, as they were sent.
        stop: the first chunk that cannot be answered, and why: none is sent any more.
        window: what is in flight.
    """

    window: Window

    def __init__(self, context: JobContext, chunk_sizer: ChunkSizer) -> None:
        self.open: dict[int, OpenChunk] = {}
        self.waiting: defaultdict[str, OrderedDict[int, OpenChunk]] = defaultdict(OrderedDict)
        self.stop: tuple[int, CeleriacError] | None = None
        self._context = context
        self._channel = context.channel
        self._feed = context.feed
        self._chunk_sizer = chunk_sizer
        spec = context.spec
        self.window = Window(len(spec.slots))
        self._balancer = LoadBalancer(spec.slots, context.channel.is_up)
        self._models = spec.models
        self._sent_at_look = -1
        write_to = spec.options.write_to
        folder = write_to if isinstance(write_to, FolderReply) else None
        self._reply = folder or choose_reply(spec.store, spec.slots, context.channel.settings)

    def use(self, slots: Sequence[SlotRecord]) -> None:
        """Send to the workers of these slots from now on, as much as Redis has room for, and the job's share is."""
        counts = Counter(slot.queue for slot in slots)
        # Without chunks of its own since then, as when its rows are slow to come, it takes nothing from others.
        sent = self._context.ledger.chunks_sent
        wants, self._sent_at_look = self.open or sent != self._sent_at_look, sent
        weight, seconds = self._context.record.weight, self.window.mean_seconds
        shares = self._channel.shares(counts, weight, seconds) if wants else {}
        if shares:
            self.window.share = sum(shares[queue] * count for queue, count in counts.items()) / len(slots)
        self._balancer.update(slots, shares)
        self.window.slots = len(slots)
        self.window.leave_room(self._channel.redis_room(counts))

    def send(self, held_back: int) -> int:
        """Send chunks while the window admits them, up to one batch; return how many.

        Raises:
            BrokerError: Redis takes no more; what it may not have is in `open`, and not published.
        """
        batch: list[OpenChunk] = []
        size = 0
        while self.stop is None and len(batch) < BATCH_CHUNKS and size < BATCH_BYTES:
            rows_left = None if self._feed.rows is None else self._feed.rows - self._feed.next_row
            chunk_rows = self._chunk_sizer.next_rows(rows_left, self.window.slots, self.window.chunk_bytes)
            if not self.window.admits(held_back, self._chunk_sizer.bytes_in_flight(chunk_rows)):
                break
            following = self._feed.next_chunk(chunk_rows, fixed=self._chunk_sizer.fixed_rows is not None)
            if following is None:
                break
            chunk, rows = following
            try:
                parts = [] if rows is None else self._encode(rows, chunk)
            except InputError as error:
                self._feed.end_by(error)
                break
            payload_bytes = sum(map(len, parts))
            # Only chunks of one size can be counted ahead.
            is_known = rows_left is not None and self._chunk_sizer.fixed_rows is not None
            total = chunk.index + max(1, math.ceil((rows_left or 0) / chunk_rows)) if is_known else None
            opened = OpenChunk(
                self._message(chunk, total),
                self._balancer.choose(),
                payload=b"" if self._feed.repeatable else b"".join(parts),
            )
            self.open[chunk.index] = opened  # whatever Redis does with it
            self.waiting[opened.queue][chunk.index] = opened
            self._context.ledger.chunks_sent += 1
            self._chunk_sizer.sent(chunk.rows, payload_bytes)
            opened.bytes_in_flight = self._chunk_sizer.bytes_in_flight(chunk.rows)
            self.window.sent(opened.bytes_in_flight)
            if not self._context.spec.in_place or parts:
                ref = self._channel.put(chunk.index, parts, opened.queue)
                opened.message = msgspec.structs.replace(opened.message, ref=ref)
            batch.append(opened)
            size += payload_bytes
        self._publish(batch)
        return len(batch)

    def _publish(self, chunks: list[OpenChunk], *, first: bool = False) -> None:
        for chunk in chunks:
            chunk.published_at = time.monotonic()
        if chunks:
            self._channel.publish([(chunk.queue, chunk.message) for chunk in chunks], first=first)
        for chunk in chunks:
            chunk.published = True

    def leave_out(self, models: Collection[str]) -> None:
        """Send chunks without these models from now on; those that are open keep theirs, also when sent again."""
        if models:
            self._models = [model for model in self._models if model.name not in models]

    def answered(self, chunk: OpenChunk, seconds: float, output_bytes: int) -> None:
        """Close a chunk: its rows are not needed any more; `seconds` is 0 where nobody knows what it took."""
        self._close(chunk)
        self.window.answered(chunk.bytes_in_flight, seconds)
        if seconds:
            self._chunk_sizer.answered(chunk.rows, seconds, output_bytes)
        # Where another delivery may still read it, its file must not be written anew.
        end = self._channel.release if chunk.times_sent == 1 else self._channel.forget
        end(chunk.refs, chunk.queue)

    def stop_before(self, index: int, error: CeleriacError) -> None:
        """Send no more: this chunk has no answer, and the job ends by the error once those before it are answered."""
        if chunk := self.open.get(index):
            self._close(chunk)
            self.window.dropped(chunk.bytes_in_flight)
            self._channel.forget(chunk.refs, chunk.queue)
        error.with_traceback(None)  # whose frames have the job, which has the error: a cycle
        if self.stop is None or index < self.stop[0]:
            self.stop = index, error

    def _close(self, chunk: OpenChunk) -> None:
        del self.open[chunk.index]
        self.waiting[chunk.queue].pop(chunk.index, None)
        self._balancer.closed(chunk.queue)

    def resend(self, chunks: Sequence[OpenChunk], *, with_rows: bool = False, late: bool = False) -> None:
        """Send open chunks once more, to the head of queues of workers that are up now.

        One whose rows cannot be read any more ends the job, as `stop_before` says.

        Args:
            with_rows: Redis, or the spool folder, may have lost them. By way of Redis, since not every worker may reach
                the file that others read.
            late: earlier copies may still be answered, or come back.

        Raises:
            BrokerError: as `send`.
        """
        batch: list[OpenChunk] = []
        now = time.monotonic()
        for chunk in chunks:
            self.waiting[chunk.queue].pop(chunk.index, None)
            chunk.begin(now)
            chunk.overdue_since = now
        for chunk in chunks:
            chunk.published = False
            is_elsewhere = self._move(chunk)
            if with_rows or is_elsewhere or isinstance(chunk.message.ref, FileRef):
                try:
                    self._put_again(chunk)
                except InputError as error:
                    self.stop_before(chunk.index, error)
                    continue
            chunk.resend(late=late)
            batch.append(chunk)
            why = OVERDUE if late else _LOST if with_rows else _WORKER_GONE
            self._context.timeline.sent_again(chunk.index, why)
        if batch:
            self._context.ledger.chunks_sent_again += len(batch)
            logger.warning("job %s: sends %s of its chunks again", self._context.id, len(batch))
            self._publish(batch, first=True)

    def reads_in_place(self, chunk: OpenChunk) -> bool:
        """Whether workers read its rows themselves."""
        return isinstance(chunk.message.ref, SliceRef | SplitRef)

    def _move(self, chunk: OpenChunk) -> bool:
        """To a queue of workers that are up; whether its rows are on another shard, then."""
        before = chunk.queue
        self._balancer.closed(before)
        chunk.queue = self._balancer.choose()
        is_elsewhere = isinstance(chunk.message.ref, RedisRef) and shard_of(before) != shard_of(chunk.queue)
        if is_elsewhere:  # an earlier copy may still read them there
            self._channel.invalidate([shard_of(before)])
        return is_elsewhere

    def _put_again(self, chunk: OpenChunk) -> None:
        message = chunk.message
        rows = self._feed.take(Chunk(message.index, message.start, message.stop))
        parts = [chunk.payload] if rows is None else self._encode(rows, message)
        ref = self._channel.put(message.index, parts, chunk.queue, only_redis=True)
        if isinstance(message.ref, FileRef):
            chunk.spent.append(message.ref)
        reply = self._context.spec.options.write_to or "redis"
        chunk.message = msgspec.structs.replace(message, ref=ref, reply=reply, kept=None)

    def invalidate(self, shards: Collection[int]) -> None:
        """These may have lost whatever they were given."""
        for chunk in self.open.values():
            if shard_of(chunk.queue) in shards:
                chunk.published = False

    def close(self) -> None:
        """Forget what is still open."""
        for chunk in self.open.values():
            self._channel.forget(chunk.refs, chunk.queue)

    def _encode(self, rows: Rows, chunk: Chunk | ChunkMessage) -> list[bytes | memoryview]:
        """The payload of a chunk's rows; one that cannot travel fails alone, where rows may.

        Raises:
            InputError: one may not, or they are too large.
        """
        options, kept = self._context.spec.options, self._context.spec.kept
        tree = with_unfed(plain(rows), unfed_of(rows))
        if kept:
            tree = with_kept(tree, kept.of_chunk(chunk.start, chunk.stop))
        try:
            return codec.encode_parts(cast("codec.Tree", tree), compression=options.compression)
        except PayloadError as error:
            marked = odd_texts(rows)
            odd = sorted(unfed_of(marked).keys() - unfed_of(rows).keys())
            if odd and options.policy.goes_on:
                return self._encode(marked, chunk)
            if not odd:
                raise InputError(f"{self._feed.label}: rows {chunk.start}-{chunk.stop}: {error}") from error
            why = f"{unfed_of(marked)[odd[0]]}, or let such rows fail (on_error is 'raise')"
            raise InputError(f"{self._feed.label}: row {chunk.start + odd[0]}: {why}") from error

    def _message(self, chunk: Chunk, total: int | None) -> ChunkMessage:
        spec, options = self._context.spec, self._context.spec.options
        beside = spec.kept_in_place
        return ChunkMessage(
            version=WRITTEN_VERSION,
            job=self._context.id,
            index=chunk.index,
            start=chunk.start,
            stop=chunk.stop,
            chunks=total,
            models=self._models,
            ref=cut_in_place(spec.in_place, chunk.start, chunk.stop, self.window.slots) or InlineRef(b""),
            reply=self._reply,
            compression=options.compression,
            on_error=options.policy.on_error,
            on_nonfinite=options.policy.on_nonfinite,
            kept=cut(beside, chunk.start, chunk.stop) if beside else None,
        )
