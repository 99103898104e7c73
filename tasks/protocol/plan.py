"""What a detached job is, so that anyone who reaches Redis can go on with it.

Plan --tasks/transport/resend_detached.py--> the message of any chunk, the same whoever makes it
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from tasks.protocol.messages import Count, InPlaceRef, JobId, ModelRef, OnError, OnNonfinite
from tasks.protocol.split_ref import SplitRef


class LeftOutput(msgspec.Struct, frozen=True):
    """A folder of files that is made of the parts which workers leave, by whoever fetches the job.

    Attributes:
        path: of the output, or its URL.
        folder: in which workers leave parts, as `PartsReply` has it.
        job: the id of the job, which the output's journal has noted.
        head: what that journal says is being done, and `rows` of how many rows; None where nobody had counted them.
        on_error: what a row that fails does.
        max_failed: how many may, or which share of all, as "5%"; looked at by whoever fetches.
        part_mib: of one file, about; None for the size of an attached job's.
        kept: where columns stand that workers put beside the outputs, if the rows do not bring them.
    """

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    folder: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    job: JobId
    head: dict[str, Any]
    rows: Count | None = None
    on_error: OnError = "raise"
    max_failed: int | str | None = None
    part_mib: Annotated[int, msgspec.Meta(ge=1)] | None = None
    kept: SplitRef | None = None


class Plan(msgspec.Struct, frozen=True):
    """What a detached job's chunks are made from, by anyone who reaches Redis.

    Attributes:
        rows: of the data set.
        chunk_rows: of every chunk; the last one has what is left.
        models: as the job is pinned to them.
        in_place: where the rows stand in files; None where they wait in Redis.
        compression: what payloads are packed with, both ways.
        ttl_seconds: how long Redis keeps the job after the last thing that happened to it.
        workers: those that held the models when the job was left.
        trace: headers that name the trace that the job belongs to.
        on_nonfinite: what a row with a NaN or an infinity does.
        output_name: what the model calls its single output; empty where there are several, or it has no name.
        output: the folder of files that the job writes; None where its outputs wait in Redis.
        deal: the parts of the job, one on each shard, to which its chunks go in turn, over and over.
        part: the one that this record is of; all others have the same plan.
    """

    rows: Count
    chunk_rows: Annotated[int, msgspec.Meta(ge=1)]
    models: Annotated[list[ModelRef], msgspec.Meta(min_length=1, max_length=100)]
    in_place: InPlaceRef | None
    compression: Literal["lz4", "zstd"] | None
    ttl_seconds: Annotated[int, msgspec.Meta(ge=1)]
    workers: list[str]
    trace: dict[str, str] = {}
    on_nonfinite: OnNonfinite = "warn"
    output_name: str = ""
    output: LeftOutput | None = None
    deal: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (0,)
    part: Count = 0

    @property
    def chunks(self) -> int:
        """How many chunks there are; zero rows are one."""
        return max(1, -(-self.rows // self.chunk_rows))

    @property
    def parts(self) -> set[int]:
        """Those that have chunks."""
        return set(self.deal[: self.chunks])

    def part_of(self, index: int) -> int:
        """The part that has this chunk."""
        return self.deal[index % len(self.deal)]

    def chunks_of(self, part: int) -> list[int]:
        """The chunks of a part, by their indexes in the job."""
        return [index for index in range(self.chunks) if self.part_of(index) == part]
