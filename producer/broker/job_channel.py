"""One job's channels to all shards: a chunk goes by the shard of its queue, answers come from all of them.

chunk, queue --> the channel of the queue's shard --> message, payload --> its workers
answers <-- whichever shards have some
a shard that fails, or is full --> away; its chunks are lost, and go to others; asked by a thread until it is back
a shard that is merely full --> its answers are taken all the same, which makes room

With a single server its errors are the caller's; with several they are once none is left.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import redis

from producer.broker import redis_backoff
from producer.broker.blocked_pop import BlockedPop, wait_for_any
from producer.broker.broker_channel import BrokerChannel
from producer.broker.outage import Outage, wait_for_any_outage
from producer.broker.shard_refs import located, shard_of_ref
from producer.broker.shards import name_of, on_shard, shard_of, slots_on
from producer.records.store_waits import StoreWait
from producer.records.throughput import Throughput
from tasks.protocol import keys
from tasks.protocol.messages import Answer, ChunkMessage, Outputs, PartRef, PayloadRef, RedisRef, RowsRef, StoreName
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import Parts, Sealer
from tasks.transport.connection import broker_errors
from tasks.transport.spool import ReusableBuffer
from worker_config.broker import redacted, shard_urls
from worker_config.errors import BrokerError, BrokerFullError
from worker_config.retry_policy import BLOCK_SECONDS, LEAST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
from worker_config.settings import Settings

Answered = TypeVar("Answered")

logger: logging.Logger = logging.getLogger(__name__)


class JobChannel:
    """Used by the job's thread alone, but for its `measures`.

    Attributes:
        settings: the producer's.
        sealer: seals messages, and opens answers.
        lost: shards that have lost, perhaps, what they were given; set back by whoever has heeded it.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        job: str,
        store: StoreName = "redis",
        headers: Mapping[str, str] | None = None,
        folder: str = "",
    ) -> None:
        urls = shard_urls(url)
        self.settings = settings
        self.measures: Throughput = Throughput()
        self.lost: set[int] = set()
        self.damaged_elsewhere = 0
        self._job = job
        self._channels = [BrokerChannel(one, settings, job, store, one_of_several=len(urls) > 1) for one in urls]
        for channel in self._channels:
            channel.measures, channel.headers, channel.folder = self.measures, dict(headers or {}), folder
        self.sealer: Sealer = self._channels[0].sealer
        self._pops = [BlockedPop(channel.client, channel.results) for channel in self._channels]
        self._outages: dict[int, Outage] = {}
        self._cramped: set[int] = set()  # as of the last look at their room
        self._run_ids: dict[int, str] = {}

    @property
    def damaged(self) -> int:
        """Answers, outputs and, as workers told, rows that were not as they had been written."""
        return self.damaged_elsewhere + sum(channel.damaged for channel in self._channels)

    @property
    def is_whole(self) -> bool:
        """Whether no shard is away that may come back: one that has refused us for long is not counted on."""
        return all(outage.refused for outage in self._outages.values())

    def on_each(self, do: Callable[[redis.Redis], Answered]) -> dict[int, Answered]:
        """What it gives on each shard that is up; raises BrokerError if none is."""
        done: dict[int, Answered] = {}
        for shard in self._up():
            with self._trying(shard), broker_errors(self._channels[shard].url):
                done[shard] = do(self._channels[shard].client)
        return done

    def on_first(self, do: Callable[[redis.Redis], object]) -> None:
        """Do it on the first shard that is up, where people look first; raises BrokerError if none is."""
        shard = self._up()[0]
        with self._trying(shard), broker_errors(self._channels[shard].url):
            do(self._channels[shard].client)

    def is_up(self, queue: str) -> bool:
        """Whether a chunk may be sent to this queue."""
        return shard_of(queue) not in {*self._outages, *self._cramped}

    def put(self, index: int, parts: Parts, queue: str, *, only_redis: bool = False) -> PayloadRef:
        """Store a chunk's payload, given in parts, or keep it for the message if it is small."""
        shard = shard_of(queue)
        if shard not in self._outages:
            with self._trying(shard):
                return self._channels[shard].put(index, parts, only_redis=only_redis)
        return RedisRef(keys.payload(self._job, index))  # it is lost, as its message will be

    def publish(self, messages: Sequence[tuple[str, ChunkMessage]], *, first: bool = False) -> None:
        """Send chunks, each to its queue, or to its head; one that is sent twice does no harm.

        Raises:
            BrokerError: Redis may have some of them.
        """
        by_shard = defaultdict(list)
        for queue, message in messages:
            by_shard[shard_of(queue)].append((name_of(queue), message))
        for shard, its in by_shard.items():
            if shard in self._outages:
                self.lost.add(shard)
                continue
            with self._trying(shard):
                self._channels[shard].publish(its, first=first)

    def shares(self, queues: Iterable[str], weight: float, chunk_seconds: float | None) -> dict[str, float]:
        """How many chunks the attached job may have in each of these queues for each that it would have there alone."""
        found = dict.fromkeys(queues, 1.0)
        for shard, names in self._by_shard(found):
            with self._trying(shard):
                its = self._channels[shard].shares(names, weight, chunk_seconds)
                found |= {on_shard(name, shard): share for name, share in its.items()}
        return found

    def queued(self, queues: Iterable[str]) -> int:
        """Messages that wait in these queues."""
        waiting = 0
        for shard, names in self._by_shard(queues):
            with self._trying(shard):
                waiting += self._channels[shard].queued(names)
        return waiting

    def take_answers(self, wait_seconds: float = BLOCK_SECONDS) -> list[Answer]:
        """The answers that have come, after waiting up to `wait_seconds` for the first."""
        if len(self._channels) == 1:
            return self._channels[0].take_answers(wait_seconds)
        if came := self._ready_answers():
            return came
        pops = []
        for shard in self._readable():
            with self._trying(shard), broker_errors(self._channels[shard].url):
                self._pops[shard].send(BLOCK_SECONDS)
                pops.append(self._pops[shard])
        wait_for_any(pops, wait_seconds)
        return self._ready_answers()

    def _ready_answers(self) -> list[Answer]:
        came: list[Answer] = []
        for shard in self._readable():
            channel, pop = self._channels[shard], self._pops[shard]
            answers: list[Answer] = []
            with self._trying(shard):
                with broker_errors(channel.url):
                    item = pop.read() if pop.has_answer else None
                answers = channel.opened([item] if item else [])
                answers += channel.take_ready()
            came += [located(answer, shard) for answer in answers]
        return came

    def load(self, answer: Outputs, buffer: ReusableBuffer | None = None) -> memoryview | None:
        """The outputs of an answer, which are then gone from where they were; None if they are gone, or damaged.

        Those of a file stand in `buffer`, where one is given.
        """
        shard = shard_of_ref(answer.ref)
        if self.is_away(answer.ref):
            return None
        if isinstance(answer.ref, RedisRef):
            answer = msgspec.structs.replace(answer, ref=RedisRef(answer.ref.key))
        payload: memoryview | None = None
        with self._trying(shard):
            payload = self._channels[shard].load(answer, buffer)
        return payload

    def is_away(self, ref: RowsRef | PartRef) -> bool:
        """Whether this is on a shard that is away, where it may be once more."""
        return isinstance(ref, RedisRef) and self._is_away(shard_of_ref(ref))

    def load_into(self, answer: Outputs, parts: Parts) -> bool:
        """The same, over arrays of the expected form, given by their `codec.encode_parts`; False if that cannot be."""
        return self._channels[0].load_into(answer, parts)

    def release(self, refs: Iterable[RowsRef | PartRef], queue: str = "") -> None:
        """Give away payloads that are done with: what a child that is late makes of them is dropped.

        Those in Redis are where the answer that has them came from, or on the shard of this queue.
        """
        for shard, its in self._by_place(refs, queue):
            self._channels[shard].release(its)

    def forget(self, refs: Iterable[RowsRef | PartRef], queue: str = "") -> None:
        """Delete payloads that a child may still read, whose answer would be taken."""
        for shard, its in self._by_place(refs, queue):
            self._channels[shard].forget(its)

    def workers(
        self,
    ) -> tuple[dict[str, list[SlotRecord]], dict[str, float], dict[str, Preparing], list[StoreWait]]:
        """What `BrokerChannel.workers` tells, of all shards together."""
        workers: dict[str, list[SlotRecord]] = {}
        seconds_left: dict[str, float] = {}
        preparing: dict[str, Preparing] = {}
        waits: list[StoreWait] = []
        for shard in self._up():
            with self._trying(shard):
                its = self._channels[shard].workers()
                workers |= {name: slots_on(shard, slots) for name, slots in its[0].items()}
                seconds_left |= its[1]
                preparing |= its[2]
                waits += its[3]
        return workers, seconds_left, preparing, waits

    def redis_room(self, queues: Iterable[str] = ()) -> float:
        """Bytes that Redis can still take for chunks in these queues, or any; infinite where it has no limit.

        A shard that has no room, while others have some, is given no chunks.
        """
        shards = {shard_of(queue) for queue in queues} or self.all_shards()
        rooms: dict[int, float] = {}
        for shard in shards.intersection(self._up()):
            with self._trying(shard):
                rooms[shard] = self._channels[shard].redis_room()
        most = max(rooms.values(), default=0.0)
        self._cramped = {shard for shard, room in rooms.items() if room <= 0 < most}
        left = [room for shard, room in rooms.items() if shard not in self._cramped]
        return len(left) * min(left, default=0.0)

    def look(self) -> None:
        """See which shards are back, and which have begun another life, without what they had; see `lost`."""
        self._take_back()
        for shard in self._up():
            with self._trying(shard):
                run_id = self._channels[shard].run_id()
                if self._run_ids.setdefault(shard, run_id) != run_id:
                    self.lost.add(shard)
                self._run_ids[shard] = run_id

    def wait_until_up(self, tries: int, wake: threading.Event, is_over: Callable[[], bool]) -> None:
        """Until one shard does its part, or nobody waits any more; as `redis_backoff.wait_for_redis`."""
        if len(self._channels) == 1:
            return redis_backoff.wait_for_redis(self._channels[0].url, tries, wake, is_over)
        if len(self._outages) < len(self._channels):  # the last one is full
            wake.wait(min(LEAST_BACKOFF_SECONDS * 2**tries, LONGEST_BACKOFF_SECONDS))
            wake.clear()
            return self._take_back()
        wait_for_any_outage(self._outages.values(), wake, is_over)
        self._take_back()

    def invalidate(self, shards: Iterable[int]) -> None:
        """These were away: keys may be there that nobody remembers."""
        for shard in shards:
            self._channels[shard].invalidate()

    def all_shards(self) -> set[int]:
        """Each of them."""
        return set(range(len(self._channels)))

    def forget_job(self) -> None:
        """Delete answers that came too late, with their outputs, and whatever else the job left but its record."""
        if len(self._channels) > 1:
            late = [answer.ref for answer in self._ready_answers() if isinstance(answer, Outputs)]
            self.forget(ref for ref in late if not isinstance(ref, PartRef))
        for shard in self._readable():
            with self._trying(shard):
                self._channels[shard].forget_job()

    def close(self) -> None:
        """Close the connections."""
        for outage in self._outages.values():
            outage.give_up()
        for pop, channel in zip(self._pops, self._channels, strict=True):
            pop.close()
            channel.close()

    def _up(self) -> list[int]:
        up = [shard for shard in range(len(self._channels)) if shard not in self._outages]
        if not up:
            raise next(iter(self._outages.values())).error
        return up

    def _readable(self) -> list[int]:
        """Those that are up, and those that are merely full; raises BrokerError if there is none."""
        return [shard for shard in range(len(self._channels)) if not self._is_away(shard)] or self._up()

    def _is_away(self, shard: int) -> bool:
        return shard in self._outages and not self._outages[shard].is_full

    def _take_back(self) -> None:
        """Use shards again that do their part, and those that are merely full where no other is left."""
        is_none_left = len(self._outages) == len(self._channels)
        for shard, outage in list(self._outages.items()):
            if outage.is_over or (is_none_left and outage.is_full):
                self._outages.pop(shard).give_up()
                logger.warning("job %s: Redis at %s is back", self._job, redacted(self._channels[shard].url))

    @contextmanager
    def _trying(self, shard: int) -> Iterator[None]:
        """A shard that fails in the block is away from then on; a single server is the caller's to wait for.

        So is the last one that is left, where it is merely full.
        """
        try:
            yield
        except BrokerError as error:
            others = set(range(len(self._channels))) - {shard}
            if not others or (isinstance(error, BrokerFullError) and others <= self._outages.keys()):
                raise
            logger.warning("job %s goes on without a shard: %s", self._job, error)
            if shard in self._outages:  # which was merely full
                self._outages[shard].give_up()
            self._outages[shard] = Outage(self._channels[shard].url, error)
            self._pops[shard].close()
            self.lost.add(shard)
            self._take_back()
            self._up()

    def _by_shard(self, queues: Iterable[str]) -> list[tuple[int, list[str]]]:
        """These queues, by shards that are up, with the names that they have there."""
        found = defaultdict(list)
        for queue in queues:
            found[shard_of(queue)].append(name_of(queue))
        return [(shard, found[shard]) for shard in self._up() if shard in found]

    def _by_place(self, refs: Iterable[RowsRef | PartRef], queue: str) -> list[tuple[int, list[RowsRef | PartRef]]]:
        """These payloads by shards that are up; files, which are on none, are the first one's."""
        found = defaultdict(list)
        for ref in refs:
            shard = shard_of_ref(ref, shard_of(queue))
            if isinstance(ref, RedisRef) and self._is_away(shard):
                self._channels[shard].invalidate()
            else:
                found[shard].append(ref)
        return list(found.items())
