"""This module bounds what is in flight: so many chunks, so many bytes, whatever the size of the data set.

    chunk sent --> in flight --> answered --> held back for order --> handed over

A chunk counts from being sent to being handed over in order; its bytes until it is answered.
"""

from __future__ import annotations

# Each slot runs one chunk, has one waiting in its worker, and finds another in the queue.
CHUNKS_PER_SLOT = 4
# Of payloads in Redis, and of outputs that the caller has not taken yet.
MAX_BYTES = 64 * 2**20


class Window:
    """Chunks in flight by index, with their payload's bytes.

    Attributes:
        slots: children that can run the job.
        max_bytes: of payloads in flight; less where Redis has less room.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.max_bytes: float = MAX_BYTES
        self._bytes: dict[int, int] = {}

    def admits(self, held_back: int) -> bool:
        """Whether one more chunk may leave, when `held_back` answered chunks wait for an earlier one."""
        room = len(self._bytes) + held_back < max(1, self.slots) * CHUNKS_PER_SLOT
        # One chunk may always be in flight, however large it is.
        return room and (not self._bytes or self.bytes_in_flight < self.max_bytes)

    @property
    def bytes_in_flight(self) -> int:
        """Of payloads that are not answered."""
        return sum(self._bytes.values())

    def leave_room(self, redis_room: float) -> None:
        """Hold back before Redis refuses: `redis_room` is what it can still take."""
        self.max_bytes = min(MAX_BYTES, self.bytes_in_flight + redis_room)

    def sent(self, index: int, payload_bytes: int) -> None:
        """Count a chunk in."""
        self._bytes[index] = payload_bytes

    def answered(self, index: int) -> None:
        """Count a chunk out; a second answer changes nothing."""
        self._bytes.pop(index, None)

    def __len__(self) -> int:
        return len(self._bytes)
