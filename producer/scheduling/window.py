"""Bounds what is in flight: so many chunks, so many bytes, whatever the size of the data set.

    chunk sent --> in flight --> answered --> held back for order --> handed over

A chunk counts from being sent to being handed over in order; its bytes until it is answered.

A queue is first in, first out: what a job has of its slots is what it has of the chunks that lie there. So a job that
shares its queue with others has its share of the window, and more only while too few chunks lie there for all slots.
"""

from __future__ import annotations

from tasks.protocol.messages import MAX_INLINE_BYTES

# Each slot runs one chunk, has one waiting in its worker, and finds another in the queue.
CHUNKS_PER_SLOT = 4
# Chunks that ride in their messages may be more, so that they can be published many at a time: a second's work, at most
# so many.
SMALL_CHUNKS_PER_SLOT = 16
# Of payloads and of the outputs that will come back, wherever they wait.
MAX_BYTES = 64 * 2**20
# Each slot's share of that is at least so many chunks.
LEAST_CHUNKS_PER_SLOT = 2
# From answer to answer: more frequent ones are worth collecting before they are taken.
SHORT_SECONDS = 0.01


class Window:
    """How many chunks are in flight, and the bytes of their payloads and of the outputs that they will have.

    Attributes:
        slots: children that can run the job.
        max_bytes: of all in flight; less where Redis has less room.
        bytes_in_flight: of payloads that are not answered, and of their outputs.
        share: chunks that the job may have beside others, for each of `CHUNKS_PER_SLOT` that it would have alone; more
            than 1 where its chunks are shorter than theirs.
        mean_seconds: of a chunk in its slot, of late; None where none was answered.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.max_bytes: float = MAX_BYTES
        self.bytes_in_flight: int = 0
        self.share: float = 1.0
        self.mean_seconds: float | None = None
        self._more = 0  # than its share, in chunks
        self._chunks = 0
        self._chunk_seconds = 1.0
        self._filling = True

    def admits(self, held_back: int, chunk_bytes: int) -> bool:
        """Whether one more chunk may leave, when `held_back` answered chunks wait for an earlier one.

        Once full it admits none until half of the chunks are answered, so that chunks leave several at a time; beside
        other jobs it would be without its share meanwhile, and it does so with short chunks alone.
        """
        most = self._max_chunks(chunk_bytes)
        of_share = max(1, round(CHUNKS_PER_SLOT * self.slots * self.share)) + self._more
        limit = most if self.share == 1 else min(most, of_share)
        # Those held back lie in no queue.
        room = min(limit, most - held_back) - self._chunks
        waits = self.share == 1 or self._chunk_seconds <= SHORT_SECONDS
        self._filling = room > 0 if self._filling or not waits else room >= limit - limit // 2
        # One chunk may always be in flight, however large it is.
        return self._filling and (not self._chunks or self.bytes_in_flight + chunk_bytes <= self.max_bytes)

    @property
    def is_short(self) -> bool:
        """Whether answers are awaited urgently, since chunks may leave as soon as they come."""
        return self._filling or self._chunk_seconds / max(1, self.slots) > SHORT_SECONDS

    @property
    def chunk_bytes(self) -> float:
        """The most that one chunk may have, if each slot is to have its share."""
        return self.max_bytes / (LEAST_CHUNKS_PER_SLOT * max(1, self.slots))

    def _max_chunks(self, chunk_bytes: int) -> int:
        per_slot = float(CHUNKS_PER_SLOT)
        if chunk_bytes <= MAX_INLINE_BYTES:
            per_slot = min(max(1 / self._chunk_seconds, CHUNKS_PER_SLOT), SMALL_CHUNKS_PER_SLOT)
        return max(1, self.slots) * int(per_slot)

    def waiting(self, chunks: int) -> None:
        """So many chunks, of whomever, wait in the job's queues now; one for each slot keeps all at work."""
        self._more = max(0, min(self._more + self.slots - chunks, CHUNKS_PER_SLOT * self.slots))

    def leave_room(self, redis_room: float) -> None:
        """Hold back before Redis refuses: `redis_room` is what it can still take."""
        self.max_bytes = min(MAX_BYTES, self.bytes_in_flight + redis_room)

    def sent(self, chunk_bytes: int) -> None:
        """Count a chunk in."""
        self._chunks += 1
        self.bytes_in_flight += chunk_bytes

    def answered(self, chunk_bytes: int, seconds: float) -> None:
        """Count a chunk out, which took so long in its slot."""
        self.dropped(chunk_bytes)
        self._chunk_seconds = max(seconds, 1e-6)
        self.mean_seconds = seconds if self.mean_seconds is None else 0.8 * self.mean_seconds + 0.2 * seconds

    def dropped(self, chunk_bytes: int) -> None:
        """Count a chunk out that nobody waits for any more."""
        self._chunks -= 1
        self.bytes_in_flight -= chunk_bytes

    def __len__(self) -> int:
        return self._chunks
