"""The plan of a detached job: the size of its chunks, and what all of it costs.

    models, row bytes --> chunk rows          rows, payloads, chunks --> bytes in Redis
    slots of each shard --> in which turn chunks go to the shards

Chunks are all of one size, since nobody is there to learn from the first ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from producer.broker.shards import shard_of
from producer.scheduling.chunk_sizer import CHUNK_SECONDS, MAX_REDIS_CHUNK_BYTES, ChunkSizer
from producer.scheduling.model_pinning import batch_seconds, fixed_chunk_rows, output_row_bytes
from tasks.protocol.records import ModelInfo, SlotRecord
from worker_config.errors import UsageError

# Where nobody has measured a model, a chunk is so many batches.
BATCHES = 8
# Each chunk costs a message that waits in Redis, so there are not many more than these, however many rows there are.
MAX_CHUNKS = 10_000
# Of a waiting chunk: the message in Celery's envelope, and the answer beside its outputs.
CHUNK_BYTES = 2_048
MIB = 2**20
# Turns after which chunks go to the same shards again; slots of more are dealt to in about their proportion.
MOST_TURNS = 256


def choose_chunk_rows(
    infos: Sequence[ModelInfo], rows: int | None, row_bytes: float, slots: int, *, fixed_rows: int | None, sliced: bool
) -> int:
    """Rows of a chunk: whole batches of about `CHUNK_SECONDS`, several chunks for each slot, all in the byte limits.

    Args:
        infos: the models that each chunk runs through.
        rows: of the data set; None where nobody knows.
        row_bytes: of one row.
        slots: children that can run the job.
        fixed_rows: the caller's own choice.
        sliced: workers read the rows in their file, so that only outputs travel through Redis.

    Raises:
        UsageError: `fixed_rows` is less than 1.
    """
    batch_rows = max(info.batch_rows for info in infos)
    least_batches = max(1, math.ceil((rows or 0) / MAX_CHUNKS / batch_rows))
    chunk_sizer = ChunkSizer(
        batch_rows,
        row_bytes,
        output_row_bytes=output_row_bytes(infos),
        batch_seconds=min(batch_seconds(infos) or CHUNK_SECONDS / BATCHES, CHUNK_SECONDS / least_batches),
        store="slices" if sliced else "redis",
        fixed_rows=fixed_chunk_rows(infos, fixed_rows),
    )
    # The sizer would share the rest out in two chunks for each slot; these are all that there will be.
    share_bytes = MAX_REDIS_CHUNK_BYTES * (1 if sliced else 2)  # outputs alone, or rows and outputs
    return chunk_sizer.next_rows(rows, 2 * slots, share_bytes)


def deal_of(slots: Sequence[SlotRecord]) -> tuple[int, ...]:
    """To which shards chunks go, one after another and then from the beginning: each as often as it has slots.

    The turns of a shard are spread as evenly as can be, so that few chunks are spread like many.
    """
    weights = Counter(shard_of(slot.queue) for slot in slots)
    total = sum(weights.values())
    if total > MOST_TURNS:
        weights = Counter({shard: max(1, round(count * MOST_TURNS / total)) for shard, count in weights.items()})
    divisor = math.gcd(*weights.values())
    turns = {shard: count // divisor for shard, count in sorted(weights.items())}
    due, deal = Counter[int](), list[int]()
    for _ in range(sum(turns.values())):
        due.update(turns)
        deal.append(max(turns, key=lambda shard: due[shard]))
        due[deal[-1]] -= sum(turns.values())
    return tuple(deal)


class RedisBudget:
    """What a detached job may keep in Redis.

    Args:
        label: the data set, for the error.
        infos: the models, whose outputs wait too.
        mib: what the setting allows.
        redis_room: bytes that Redis can still take.
    """

    def __init__(self, label: str, infos: Sequence[ModelInfo], mib: int, redis_room: float) -> None:
        self._label = label
        self._output_row_bytes = output_row_bytes(infos)
        self._mib = mib
        self._redis_room = max(0.0, redis_room)

    @property
    def limit(self) -> float:
        """The most bytes that the job may keep."""
        return min(self._mib * MIB, self._redis_room)

    def needed(self, rows: int, payload_bytes: float, chunks: int) -> float:
        """What so many rows, their payloads and chunks come to, with their outputs."""
        return payload_bytes + rows * self._output_row_bytes + chunks * CHUNK_BYTES

    def check(self, rows: int, payload_bytes: float, chunks: int, *, whole: bool) -> None:
        """See whether it fits; `whole` if these are all rows of the job, not those so far.

        Raises:
            UsageError: it does not; the text has the size, the limit, and what to do.
        """
        outputs, size = rows * self._output_row_bytes, self.needed(rows, payload_bytes, chunks)
        if size <= self.limit:
            return
        limit = f"a detached job may keep {self._mib} MiB there (CELERIAC_DETACHED_MIB)"
        if self._redis_room < self._mib * MIB:
            limit = f"Redis has room for {self._redis_room / MIB:.1f} MiB (maxmemory)"
        by_file = "put the data under CELERIAC_DATA_ROOTS of the workers as .npy, " if payload_bytes else ""
        raise UsageError(
            f"{self._label}: too large to be left: {rows:,} rows{'' if whole else ' so far'} need "
            f"{size / MIB:.1f} MiB in Redis, {payload_bytes / MIB:.1f} for themselves, {outputs / MIB:.1f} for their "
            f"outputs; {limit}: {by_file}raise that limit, or run the job attached"
        )
