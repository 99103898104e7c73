"""The rows of a chunk, from wherever they are; its outputs, to where the producer wants them.

ChunkMessage.ref --fetch--> rows        outputs, encoded --store--> PayloadRef, of the answer
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import redis

from tasks.datasets.kept import Kept, kept_rows, without_kept
from tasks.datasets.marked import all_fed, plain, unfed_of
from tasks.datasets.open_file import Opener
from tasks.datasets.rebatcher import count_rows
from tasks.datasets.split_reader import SplitReader
from tasks.protocol import codec, keys
from tasks.protocol.messages import (
    MAX_INLINE_BYTES,
    ChunkMessage,
    FileRef,
    InlineRef,
    MergeReply,
    PartRef,
    PartsReply,
    PayloadRef,
    RedisRef,
    SliceRef,
)
from tasks.protocol.seal import Parts, Sealer, outputs_context, rows_context
from tasks.protocol.split_ref import SplitRef, rows_in
from tasks.protocol.unfed_rows import with_unfed
from tasks.storage.read_ahead import ReadAhead
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport import spool
from tasks.transport.file_slices import read_slice
from tasks.transport.output_folder import forget_files
from tasks.transport.spool import ReusableBuffer
from worker_config.errors import PayloadError
from worker_config.files import Root
from worker_config.retry_policy import UNANSWERED_TTL_SECONDS


@dataclass(frozen=True)
class Places:
    """Where a worker may read rows and write outputs besides Redis, and how producers see that they share its spool."""

    spool: spool.Place | None = None
    spool_mark: str = ""
    data_roots: tuple[Root, ...] = ()
    output_roots: tuple[Root, ...] = ()


@dataclass(frozen=True)
class PayloadStore:
    """What a child reads rows from and writes outputs to."""

    client: redis.Redis
    job_ttl_seconds: int
    places: Places
    sealer: Sealer = field(default_factory=Sealer)
    scratch: ReusableBuffer = field(default_factory=ReusableBuffer)
    ahead: ReadAhead = field(default_factory=ReadAhead)

    @cached_property
    def splits(self) -> SplitReader:
        """What reads rows where they stand; it keeps the last file, of which the next chunk may be."""
        return SplitReader(Opener(self.places.data_roots), threads=False)

    @cached_property
    def beside(self) -> SplitReader:
        """The same for columns that are kept beside the outputs."""
        return SplitReader(Opener(self.places.data_roots), threads=False)

    def fetch(self, message: ChunkMessage, payload: bytes | memoryview | None, watch: Stopwatch) -> tuple[Any, Kept]:
        """The chunk's rows, wherever they are, and columns that are kept; `payload` is what Redis holds of them.

        Raises:
            PayloadError: they are not there, were damaged on their way, or are no payload.
            InputError: they cannot be read where they stand.
        """
        fetched = self._rows(message, payload, watch)
        if message.kept is None:
            return without_kept(fetched)
        label = ", ".join(span.path for span in message.kept.spans[:1])
        return fetched, kept_rows(self.beside.read(message.kept), message.kept.columns, label, message.start)

    def _rows(self, message: ChunkMessage, payload: bytes | memoryview | None, watch: Stopwatch) -> Any:
        ref = message.ref
        if isinstance(ref, SliceRef):
            return read_slice(ref, message.start, message.stop, self.places.data_roots, self.scratch, self.ahead)
        if isinstance(ref, SplitRef):
            return self._read_split(ref, message)
        if isinstance(ref, InlineRef):
            payload = ref.payload
        elif isinstance(ref, FileRef):
            # In memory that the next chunk is read into: nothing of a chunk outlives it.
            payload = spool.read(self.places.spool, ref, self.scratch)
        if payload is None:
            # It may have been answered by another delivery; the join then drops this failure.
            raise PayloadError("the payload is not in Redis any more")
        watch.enter("decode")
        return codec.decode(self.sealer.open(rows_context(message.job, message.index), payload), borrow=True)

    def _read_split(self, ref: SplitRef, message: ChunkMessage) -> Any:
        wanted = message.stop - message.start
        if rows_in(ref) != wanted:  # before anything is read
            raise PayloadError(f"the split has {rows_in(ref)} rows, not the {wanted} of its chunk; run the job again")
        rows = self.splits.read(ref)
        self.splits.fetch_ahead(ref)
        if message.on_error == "raise":
            all_fed(rows)
        if count_rows(rows) != wanted:
            raise PayloadError(f"the split had {count_rows(rows)} rows, not the {wanted} of its chunk; write it again")
        return with_unfed(plain(rows), unfed_of(rows))

    def store(self, message: ChunkMessage, parts: Parts) -> PayloadRef:
        """Put outputs, given in parts, where the producer reads them; into Redis, should the spool folder be full.

        No other copy of the chunk writes to the same place: what an answer refers to is what it was given for.
        """
        parts = self.sealer.seal(outputs_context(message.job, message.index), parts) if parts else parts
        if sum(map(len, parts)) <= MAX_INLINE_BYTES or message.reply == "answer":
            return InlineRef(b"".join(parts))
        if message.reply == "files" and self.places.spool is not None:
            with suppress(OSError):
                return spool.write(self.places.spool, message.job, f"output-{message.index}", parts)
        key = keys.output(message.job, f"{message.index}-{secrets.token_hex(4)}")
        self.client.set(key, b"".join(parts), ex=min(self.job_ttl_seconds, UNANSWERED_TTL_SECONDS))
        return RedisRef(key)

    def forget(self, message: ChunkMessage, ref: PayloadRef | PartRef, *, is_sure: bool = True) -> None:
        """Delete outputs that nobody will fetch, if that `is_sure`; else parts stay as long as their producer does."""
        if isinstance(ref, PartRef) and isinstance(message.reply, PartsReply | MergeReply):
            forget_files(message.reply.folder, [ref.name], self.places.output_roots, is_sure=is_sure)
        elif isinstance(ref, RedisRef):
            self.client.unlink(ref.key)
        elif isinstance(ref, FileRef) and self.places.spool is not None:
            spool.forget(self.places.spool, [ref])
