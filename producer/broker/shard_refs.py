"""Where the outputs of an answer are, among several shards; known to the process that took the answer alone.

answer --located--> its ref has the shard --shard_of_ref--> the channel that loads it
"""

from __future__ import annotations

import msgspec

from tasks.protocol.messages import Answer, Outputs, PartRef, RedisRef, RowsRef


class _ShardRef(RedisRef, frozen=True):
    """Outputs in the Redis of this shard; it does not travel."""

    shard: int


def located(answer: Answer, shard: int) -> Answer:
    """The answer, which remembers where its outputs are."""
    if shard and isinstance(answer, Outputs) and isinstance(answer.ref, RedisRef):
        return msgspec.structs.replace(answer, ref=_ShardRef(answer.ref.key, shard))
    return answer


def shard_of_ref(ref: RowsRef | PartRef, otherwise: int = 0) -> int:
    """The shard that has this; `otherwise` where it may be on any, and the first one where it is on none."""
    if isinstance(ref, _ShardRef):
        return ref.shard
    return otherwise if isinstance(ref, RedisRef) else 0
