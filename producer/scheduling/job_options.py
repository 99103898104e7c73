"""This module is how a job is to be done: the options of `Client.submit`, which tells what they mean; and its terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from producer.scheduling.error_budget import ErrorBudget
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnError, OnNonfinite, SliceRef, StoreName

# Predictions are mostly small: a job of ordinary size ends by itself before anybody asks for its result.
MAX_WAITING_BYTES = 256 * 2**20


class AnyJobOptions(TypedDict, total=False):
    """Of every job."""

    chunk_rows: int | None
    store: StoreName | None
    compression: Compression | None
    on_nonfinite: OnNonfinite


class PredictOptions(AnyJobOptions, total=False):
    """Of `Client.predict`."""

    chunk_seconds: float
    on_error: OnError
    max_failed: int | str | None


class AttachedOptions(PredictOptions, total=False):
    """Of a job that this process joins."""

    first_row: int
    fail_together: bool
    failed_before: int
    dropped_before: int
    nonfinite_before: tuple[int, int]
    ordered: bool
    max_waiting_bytes: int


class DetachedOptions(AnyJobOptions, total=False):
    """Of a job that needs this process no more."""

    ttl_seconds: int | None


@dataclass(frozen=True)
class Terms:
    """What a job keeps to from its first chunk to its last; as in `Client.submit`.

    Attributes:
        slice_ref: where the rows stand in a file, if workers read them there.
    """

    slice_ref: SliceRef | None = None
    compression: Compression | None = None
    fail_together: bool = False
    policy: ErrorBudget = field(default_factory=ErrorBudget)
    failed_before: int = 0
    dropped_before: int = 0
    nonfinite_before: tuple[int, int] = (0, 0)
    ordered: bool = True
    max_waiting_bytes: int = MAX_WAITING_BYTES
