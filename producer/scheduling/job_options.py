"""How a job is to be done: the keywords of `Client.submit` as one frozen record, which all parts of the job read.

Client.submit --keywords--> JobOptions --with models, slots and store--> JobSpec --> the job, from first chunk to last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from producer.rows.kept import KeptColumns
from producer.scheduling import model_pinning
from producer.scheduling.chunk_sizer import CHUNK_SECONDS
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.priority import Priority, weight_of
from tasks.protocol.codec import Array, Compression, check_installed
from tasks.protocol.messages import FolderReply, InPlaceRef, ModelRef, OnError, OnNonfinite, StoreName
from tasks.protocol.plan import LeftOutput
from tasks.protocol.records import ModelInfo, SlotRecord
from tasks.protocol.split_ref import SplitRef
from worker_config.errors import UsageError
from worker_config.retry_policy import LEAST_TTL_SECONDS

# Predictions are mostly small: a job of ordinary size ends by itself before anybody asks for its result.
MAX_WAITING_BYTES = 256 * 2**20
MAX_NAME_CHARACTERS = 256


class JobName(str):
    """A job's name; and what tells its data set from others, in plain values, where path or rows shall not."""

    source: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, source: Mapping[str, Any]) -> JobName:
        """A name with what the caller tells of the data set."""
        named = cls(name)
        named.source = source
        return named


def check_name(name: str | None) -> str | None:
    """The name; raises UsageError unless a job may have it."""
    if name is not None and not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise UsageError(f"the job's name has {len(name)} characters; 1 to {MAX_NAME_CHARACTERS} are allowed")
    return name


class SubmitOptions(TypedDict, total=False):
    """Keywords of `Client.submit` for a job that this process joins; for type checkers."""

    chunk_rows: int | None
    chunk_seconds: float
    store: StoreName | None
    compression: Compression | None
    first_row: int
    fail_together: bool
    on_error: OnError
    max_failed: int | str | None
    on_nonfinite: OnNonfinite
    ordered: bool
    max_waiting_bytes: int
    priority: Priority | None


class PredictOptions(SubmitOptions, total=False):
    """Keywords of `Client.predict`, but for the form of what it gives; for type checkers."""

    keep: str | Sequence[str]
    timeout_seconds: float | None


class DetachOptions(TypedDict, total=False):
    """Keywords of `Client.submit` for a job that is left; for type checkers."""

    chunk_rows: int | None
    store: StoreName | None
    compression: Compression | None
    on_nonfinite: OnNonfinite
    priority: Priority | None
    ttl_seconds: int | None
    job: str | None


@dataclass(frozen=True)
class JobOptions:
    """What a job keeps to from its first chunk to its last; the names are those of `Client.submit`.

    Attributes:
        failed_before, dropped_before, nonfinite_before: how many rows before `first_row` were so.
        policy: what becomes of rows that fail, or are not finite.
        write_to: the folder in which workers leave outputs as files, with the output that a detached job makes of them;
            None where they send them.
        keep: columns of the data set that they put beside the outputs there.
        numbers: which rows of a larger data set its rows are, in ascending order, for its failures.

    Raises:
        UsageError: an option is out of bounds.
        ConfigError: the compression is not installed.
    """

    chunk_rows: int | None = None
    chunk_seconds: float = CHUNK_SECONDS
    store: StoreName | None = None
    compression: Compression | None = None
    first_row: int = 0
    fail_together: bool = False
    policy: ErrorBudget = field(default_factory=ErrorBudget)
    failed_before: int = 0
    dropped_before: int = 0
    nonfinite_before: tuple[int, int] = (0, 0)
    ordered: bool = True
    max_waiting_bytes: int = MAX_WAITING_BYTES
    priority: Priority | None = None
    detach: bool = False
    ttl_seconds: int | None = None
    job: str | None = None
    write_to: FolderReply | LeftOutput | None = None
    keep: Sequence[str] = ()
    numbers: Array | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.compression:
            check_installed(self.compression)
        _ = self.weight  # which is refused if it is none
        if self.max_waiting_bytes < 1:
            raise UsageError(
                f"max_waiting_bytes is {self.max_waiting_bytes}; it must be at least 1, or no part would come"
            )
        if self.keep and not self.write_to:
            raise UsageError("keep is for outputs that workers write to files; `Client.predict` has it for all others")
        if self.write_to and self.detach != isinstance(self.write_to, LeftOutput):
            raise UsageError("of a detached job write_to is a LeftOutput, which whoever fetches it completes")
        if self.ttl_seconds is not None and not self.detach:
            raise UsageError("ttl_seconds is for a detached job; an attached one ends with its producer")
        if self.job is not None and not self.detach:
            raise UsageError(
                "job is for detach=True, whose outputs every process can take; an attached job's are its producer's"
            )
        if not self.detach:
            return
        check_name(self.job)
        if not self.ordered:
            raise UsageError("ordered=False is for an attached job; the outputs of a detached one are read in order")
        if self.ttl_seconds is not None and self.ttl_seconds < LEAST_TTL_SECONDS:
            raise UsageError(f"ttl_seconds is {self.ttl_seconds}; the least is {LEAST_TTL_SECONDS}")
        if self.store == "files":
            raise UsageError(
                "the rows of a detached job cannot wait in the spool folder, which not every machine sees and nobody "
                "would tidy; leave the store out"
            )

    @property
    def weight(self) -> float:
        """What the job has of its queues, against others there."""
        return weight_of(("bulk" if self.detach else "normal") if self.priority is None else self.priority)


@dataclass(frozen=True)
class JobSpec:
    """A job that can be started.

    Attributes:
        options: how it is to be done.
        infos: its models, in the versions that it is pinned to.
        slots: those that hold them all.
        store: the way of its rows.
        in_place: where the rows stand in files, if workers read them there.
        kept: columns that workers put beside the outputs; those of rows that are sent go with these.
        kept_in_place: where the columns stand, if workers read the rows in their files.
    """

    options: JobOptions
    infos: Sequence[ModelInfo]
    slots: Sequence[SlotRecord]
    store: StoreName
    in_place: InPlaceRef | None = None
    kept: KeptColumns | None = None
    kept_in_place: SplitRef | None = None

    @property
    def models(self) -> list[ModelRef]:
        """As messages name them."""
        return model_pinning.refs(self.infos)

    @property
    def skips_rows(self) -> bool:
        """Whether rows may be left out of the outputs."""
        return self.options.policy.on_error == "skip" or any(info.drops_rows for info in self.infos)
