"""The producer's side of Redis and the spool folder: chunks out, answers in.

put rows (message, Redis, spool, or where they stand) --> publish chunks (one batch)
take answers from the job's list --> load their outputs --> forget what was answered
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

import redis

from producer.records.store_waits import StoreWait, waits_in
from producer.records.throughput import Throughput
from tasks.protocol import keys
from tasks.protocol.messages import (
    MAX_INLINE_BYTES,
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    InlineRef,
    Outputs,
    PartRef,
    PayloadRef,
    RedisRef,
    RowsRef,
    StoreName,
    unpack,
)
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import Parts, Sealer, answer_context, content_of, outputs_context, rows_context
from tasks.transport import backlog, spool
from tasks.transport.connection import broker_errors, connect
from tasks.transport.output_folder import forget_files
from tasks.transport.queues import share
from tasks.transport.spool import ReusableBuffer
from tasks.transport.task_message import task_message
from tasks.transport.worker_registry import read_all, seconds_left
from worker_config.errors import MessageError, PayloadError, SealError
from worker_config.retry_policy import (
    BLOCK_SECONDS,
    JOB_COMMAND_RETRIES,
    SHARD_COMMAND_RETRIES,
    SHARD_TIMEOUT_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
)
from worker_config.settings import Settings

logger: logging.Logger = logging.getLogger(__name__)

# Answers taken at once.
ANSWERS_AT_ONCE = 64
# Of Redis's memory limit; the rest is for answers and for what others put there meanwhile.
USABLE_SHARE = 0.75


class BrokerChannel:
    """Connections of one job to one server; used by the job's thread alone, but for its `measures`.

    Args:
        one_of_several: shards, so that a server that fails is not waited for.

    Attributes:
        headers: of the Celery messages; they name the trace that the job belongs to.
        folder: in which workers leave outputs as files, if they do.
        damaged: answers and outputs that were not as they had been written.
    """

    def __init__(
        self, url: str, settings: Settings, job: str, store: StoreName = "redis", *, one_of_several: bool = False
    ) -> None:
        self.url = url
        self.headers: dict[str, str] = {}
        retries, seconds = JOB_COMMAND_RETRIES, SOCKET_TIMEOUT_SECONDS
        if one_of_several:
            retries, seconds = SHARD_COMMAND_RETRIES, SHARD_TIMEOUT_SECONDS
        self.client: redis.Redis = connect(url, retries=retries, timeout_seconds=seconds)
        self.settings = settings
        self.sealer: Sealer = Sealer(settings.signing_key)
        self.damaged: int = 0
        self.folder = ""
        self._job = job
        self._left_over = False  # keys that could not be deleted
        self._shared_queues: set[str] = set()
        self.measures: Throughput = Throughput()
        self._shared = settings.spool  # outputs may come this way, whichever way the rows went
        self._puts_files = store == "files" and settings.spool is not None
        if settings.spool:
            spool.forget_old_jobs(settings.spool, settings.job_ttl_seconds)

    def put(self, index: int, parts: Parts, *, only_redis: bool = False) -> PayloadRef:
        """Store a chunk's payload, given in parts, or keep it for the message if it is small."""
        parts = self.sealer.seal(rows_context(self._job, index), parts)
        size = sum(map(len, parts))
        ref = InlineRef(b"".join(parts)) if size <= MAX_INLINE_BYTES else self._store(index, parts, only_redis)
        self.measures.put(ref, size)
        return ref

    def _store(self, index: int, parts: Parts, only_redis: bool) -> PayloadRef:
        if self._shared is not None and self._puts_files and not only_redis:
            try:
                return spool.write(self._shared, self._job, f"rows-{index}", parts)
            except OSError:
                self._puts_files = False  # full: Redis takes the rest
        key = keys.payload(self._job, index)
        with broker_errors(self.url):
            self.client.set(key, b"".join(parts), ex=self.settings.job_ttl_seconds)
        return RedisRef(key)

    def publish(self, messages: Sequence[tuple[str, ChunkMessage]], *, first: bool = False) -> None:
        """Send chunks, each to its queue, or to its head; one that is sent twice does no harm.

        Raises:
            BrokerError: Redis may have some of them.
        """
        by_queue = defaultdict(list)
        for queue, message in messages:
            by_queue[keys.queue(queue)].append(task_message(message, queue, self.sealer, self.headers))
        with broker_errors(self.url):
            for key, sent in by_queue.items():
                # Workers take from the right.
                (self.client.rpush if first else self.client.lpush)(key, *sent)

    def leave(self, messages: Sequence[tuple[str, ChunkMessage]], ttl_seconds: int) -> None:
        """Leave these chunks of a detached job, and no others, to go to their queues as the job's share allows.

        Raises:
            BrokerError: nothing has changed.
        """
        with broker_errors(self.url):
            backlog.stage(self.client, self._job, messages, self.sealer, self.headers, ttl_seconds)
            backlog.fill_queues(self.client, self._job, {queue for queue, _ in messages})

    def shares(self, queues: Iterable[str], weight: float, chunk_seconds: float | None) -> dict[str, float]:
        """How many chunks the attached job may have in each of these queues for each that it would have there alone."""
        self._shared_queues.update(queues)
        with broker_errors(self.url):
            return {queue: share(self.client, queue, self._job, weight, chunk_seconds) for queue in sorted(queues)}

    def queued(self, queues: Iterable[str]) -> int:
        """Messages that wait in these queues."""
        with broker_errors(self.url):
            return sum(int(self.client.llen(keys.queue(queue))) for queue in queues)

    def has_queued(self, queues: Iterable[str]) -> bool:
        """Whether a message of this job waits in one of these queues."""
        job = self._job.encode()
        with broker_errors(self.url):
            found = (cast("list[bytes]", self.client.lrange(keys.queue(queue), 0, -1)) for queue in queues)
            return any(job in message for messages in found for message in messages)

    def has_held(self) -> bool:
        """Whether a worker has a message of this job, or had it when it was gone: one that is not acknowledged."""
        job = self._job.encode()
        with broker_errors(self.url):
            held = cast("dict[bytes, bytes]", self.client.hgetall(keys.UNACKED))
            return any(job in message for message in held.values())

    def is_run(self) -> bool:
        """Whether a child was at a chunk of this job when its worker last told, every few seconds."""
        with broker_errors(self.url):
            *_, facts = read_all(self.client)
        return any(one.job == self._job for told in facts.values() for one in told.running.values())

    def take_answers(self, wait_seconds: float = BLOCK_SECONDS) -> list[Answer]:
        """The answers that have come, after waiting up to `wait_seconds` for the first."""
        if came := self.take_ready():
            return came
        with broker_errors(self.url):
            first = cast("tuple[bytes, bytes] | None", self.client.blpop([self.results], timeout=wait_seconds))
        return self.opened([first[1]] if first else [])

    def take_ready(self) -> list[Answer]:
        """The answers that have come."""
        with broker_errors(self.url):
            came = cast("list[bytes] | None", self.client.lpop(self.results, ANSWERS_AT_ONCE))
        return self.opened(came or [])

    @property
    def results(self) -> str:
        """The list of answers."""
        return keys.results(self._job)

    def opened(self, items: Iterable[bytes]) -> list[Answer]:
        """The answers that stand in items of the list."""
        return [answer for data in items if (answer := self._opened(data))]

    def _opened(self, data: bytes) -> Answer | None:
        """An answer; of one that was damaged, a failure that has its chunk sent again, if it can be seen which that is.

        The chunk of another one is late soon.
        """
        context = answer_context(self._job)
        try:
            answer: Answer = unpack(self.sealer.open(context, data), Answer)
        except SealError as error:
            self._is_damaged(error)
            self.invalidate()  # its outputs, if it has any, are where nobody knows
            try:
                answer = unpack(content_of(data), Answer)
            except MessageError:
                return None
            return Failure(self._job, answer.index, "", FailureRecord(0, 0, "fetch", type(error).__name__, str(error)))
        return answer

    def load(self, answer: Outputs, buffer: ReusableBuffer | None = None) -> memoryview | None:
        """The outputs of an answer, which are then gone from where they were; None if they are gone, or damaged.

        Those of a file stand in `buffer`, where one is given.
        """
        ref = answer.ref
        if isinstance(ref, PartRef):
            raise MessageError(f"chunk {answer.index} was answered by a file, which nobody asked for")
        if isinstance(ref, InlineRef):
            sealed: bytes | memoryview | None = ref.payload
        elif isinstance(ref, FileRef):
            sealed = self._load_file(ref, buffer)
        else:
            with broker_errors(self.url):
                sealed = cast("bytes | None", self.client.getdel(ref.key))
        self.measures.taken(ref, len(sealed or b""))
        if sealed is None:
            return None
        try:
            return self.sealer.open(outputs_context(self._job, answer.index), sealed)
        except SealError as error:
            self._is_damaged(error)
            return None

    def _is_damaged(self, error: SealError) -> None:
        self.damaged += 1
        logger.warning("job %s: %s", self._job, error)

    def _load_file(self, ref: FileRef, buffer: ReusableBuffer | None) -> bytes | memoryview | None:
        with suppress(PayloadError):
            payload = spool.read(self._shared, ref, buffer)
            self.release([ref])
            return payload
        return None

    def load_into(self, answer: Outputs, parts: Parts) -> bool:
        """The same, over arrays of the expected form, given by their `codec.encode_parts`; False if that cannot be."""
        ref, head = answer.ref, bytearray(self.sealer.head_bytes)
        if not (isinstance(ref, FileRef) and spool.read_into(self._shared, ref, head, parts)):
            return False
        try:
            self.sealer.check(outputs_context(self._job, answer.index), head, parts)
        except SealError:
            return False  # which `load` finds too
        self.measures.taken(ref, sum(map(len, parts)))
        self.release([ref])
        return True

    def release(self, refs: Iterable[RowsRef | PartRef]) -> None:
        """Give away payloads that are done with: what a child that is late makes of them is dropped."""
        self._end(refs, spool.release)

    def forget(self, refs: Iterable[RowsRef | PartRef]) -> None:
        """Delete payloads that a child may still read, whose answer would be taken."""
        self._end(refs, spool.forget)

    def _end(self, refs: Iterable[RowsRef | PartRef], end_files: Callable[[spool.Place, list[FileRef]], None]) -> None:
        refs = list(refs)
        if stored := [ref.key for ref in refs if isinstance(ref, RedisRef)]:
            try:
                self.client.unlink(*stored)
            except redis.RedisError:
                self._left_over = True  # no reason to do the work again
        if self.folder and (parts := [ref.name for ref in refs if isinstance(ref, PartRef)]):
            forget_files(self.folder, parts, [self.folder])
        if self._shared is not None:
            end_files(self._shared, [ref for ref in refs if isinstance(ref, FileRef)])

    def workers(
        self,
    ) -> tuple[dict[str, list[SlotRecord]], dict[str, float], dict[str, Preparing], list[StoreWait]]:
        """Every worker that is up, with its slots, none while its only child is being replaced.

        And after how many seconds each counts as gone, should no sign of life come; those that prepare models; and
        slots that wait for a store of objects, whichever job's chunk they have.
        """
        with broker_errors(self.url):
            workers, preparing, facts = read_all(self.client)
            return workers, seconds_left(self.client, workers), preparing, waits_in(facts)

    def redis_room(self) -> float:
        """Bytes that Redis can still take for payloads; infinite where it has no limit."""
        with broker_errors(self.url):
            return room_of(self.client)

    def run_id(self) -> str:
        """What tells one life of the server from the next."""
        with broker_errors(self.url):
            return str(cast("dict[str, str]", self.client.info("server")).get("run_id"))

    def invalidate(self) -> None:
        """Redis was away: keys may be there that nobody remembers."""
        self._left_over = True

    def forget_job(self) -> None:
        """Delete answers that came too late, with their outputs, and whatever else the job left but its record."""
        with broker_errors(self.url):
            late = cast("list[bytes]", self.client.lrange(keys.results(self._job), 0, -1))
            self.client.unlink(keys.results(self._job), keys.deliveries(self._job))
            for queue in self._shared_queues:
                self.client.hdel(keys.sharing(queue), f"job:{self._job}")
            if self._left_over:
                for pattern in (keys.payload(self._job, "*"), keys.output(self._job, "*")):
                    for key in self.client.scan_iter(pattern, count=1_000):
                        self.client.unlink(key)
        for data in late:
            with suppress(MessageError, SealError):
                answer: Answer = unpack(self.sealer.open(answer_context(self._job), data), Answer)
                # A part may be that of an answer that counts and came twice; it goes with its folder.
                if isinstance(answer, Outputs) and not isinstance(answer.ref, PartRef):
                    self.forget([answer.ref])
        if self._shared is not None:
            spool.forget_job(self._shared, self._job)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def room_of(client: redis.Redis) -> float:
    """Bytes that Redis can still take for payloads; infinite where it has no limit."""
    memory = cast("dict[str, int]", client.info("memory"))
    limit = memory.get("maxmemory", 0)
    return USABLE_SHARE * limit - memory.get("used_memory", 0) if limit else math.inf
