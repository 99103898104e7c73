"""What a loader was asked for, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass

from producer.scheduling.error_budget import make_policy
from tasks.protocol.messages import OnError
from worker_config.errors import UsageError


@dataclass(frozen=True)
class LoaderOptions:
    """What a loader was asked for, as in `Loader`; UsageError where it cannot be done."""

    step: str
    batch_rows: int
    shuffle: bool | int = False
    seed: int = 0
    epochs: int | None = 1
    shard: tuple[int, int] = (0, 1)
    ordered: bool = True
    on_error: OnError = "skip"
    max_failed: int | str | None = None
    chunk_rows: int | None = None

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise UsageError(f"batch_rows is {self.batch_rows}; it must be at least 1")
        if self.shuffle < 0:
            raise UsageError(f"shuffle is {self.shuffle}; give True, False, or the rows of a shuffle buffer")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; it must be at least 0")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}; it must be at least 1, or None for passes without end")
        if len(self.shard) != 2 or not 0 <= self.shard[0] < self.shard[1]:
            raise UsageError(f"shard is {self.shard}; it is (index, count), with index from 0 up to count - 1")
        make_policy(self.on_error, self.max_failed)
