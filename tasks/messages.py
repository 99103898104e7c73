"""This module defines what travels: a chunk to the workers, an answer back, and the records of slots and jobs.

    producer --ChunkMessage--> Celery --> child --Answer--> results list --> producer

All are plain msgpack maps, checked field by field when they are read; nothing is ever pickled.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from worker_config.errors import MessageError

MESSAGE_VERSION = 1
TASK_NAME = "celeriac.infer"
# A larger payload in the message would pass through the worker's main process, twice over a pipe.
MAX_INLINE_BYTES = 64 * 2**10

JobId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all: immutable, and strict about its fields."""


class ModelRef(_Value, frozen=True):
    """A model as a job is pinned to it: its name, and the SHA-256 of its files."""

    name: Name
    digest: Name

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:8]}"


class InlineRef(_Value, frozen=True, tag="inline"):
    """A payload small enough to ride in the message."""

    payload: bytes


class RedisRef(_Value, frozen=True, tag="redis"):
    """A payload that waits in Redis under `key`."""

    key: Name


class HashRef(_Value, frozen=True, tag="hash"):
    """A payload that waits in the Redis hash `key`, in the field of its chunk's index."""

    key: Name


class FileRef(_Value, frozen=True, tag="file"):
    """A payload in the spool folder that producer and workers share, as JOB/NAME."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}/[a-z0-9-]{1,60}$")]


class SliceRef(_Value, frozen=True, tag="slice"):
    """Rows that stand in a file as they are: `row_bytes` each, from `offset` on, of `dtype` and `row_shape`.

    `size` and `mtime_ns` tell whether it is still the file that the producer meant.
    """

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    size: Count
    mtime_ns: int
    offset: Count
    dtype: str
    row_shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)]


PayloadRef = InlineRef | RedisRef | FileRef
RowsRef = PayloadRef | SliceRef | HashRef
StoreName = Literal["redis", "files", "slices"]
# What a row that fails does: it ends the job, is left out of the outputs, or has a filler in its place.
OnError = Literal["raise", "skip", "fill"]


class ChunkMessage(_Value, frozen=True):
    """One chunk of one job: rows `[start, stop)` through `models`.

    `chunks` is how many the job has, as far as that is known when this one leaves; `reply` is the store for outputs
    over 64 KiB, or "answer" where they ride in the answer whatever their size, and `compression` what they are packed
    with. Where `on_error` is not "raise", the rows that fail are found, each for itself, and the others are predicted.
    """

    version: Annotated[int, msgspec.Meta(ge=MESSAGE_VERSION, le=MESSAGE_VERSION)]
    job: JobId
    index: Count
    start: Count
    stop: Count
    chunks: Count | None
    models: Annotated[list[ModelRef], msgspec.Meta(min_length=1, max_length=100)]
    ref: RowsRef
    reply: Literal["redis", "files", "answer"] = "redis"
    compression: Literal["lz4", "zstd"] | None = None
    on_error: OnError = "raise"

    def __str__(self) -> str:
        total = "?" if self.chunks is None else self.chunks
        models = ",".join(map(str, self.models))
        return f"chunk {self.index}/{total} rows {self.start}-{self.stop} of job {self.job}, {models}"


class FailureRecord(_Value, frozen=True):
    """What became of rows `[start, stop)` that have no prediction.

    Attributes:
        stage: where it happened: "fetch", "decode", "model", "preprocess", "infer", "postprocess", "encode", "memory",
            "worker" where the child died or was stopped, "killed" where that will not be tried again.
        type: the error's class.
        text: what it says.
        model: the one that failed while others of the job ran; empty where the chunk as a whole has failed.
        value: of a single row that is a text, such as the path of a file: that text.
    """

    start: Count
    stop: Count
    stage: str
    type: str
    text: str
    model: str = ""
    value: str = ""

    @property
    def rows(self) -> str:
        """The rows, for people."""
        if self.stop - self.start != 1:
            return f"rows {self.start}-{self.stop}"
        return f"row {self.start} ({self.value})" if self.value else f"row {self.start}"

    def __str__(self) -> str:
        where = f"in model {self.model} at {self.stage}" if self.model else f"at {self.stage}"
        return f"{self.rows} failed {where}: {self.type}: {self.text}"


class Outputs(_Value, frozen=True, tag="outputs"):
    """What a child made of a chunk: a payload of one array, or a dict of them by output or model name.

    A message of several models is answered by model name, however many of them went through; `failed` has a record for
    each of the others. `failed_rows` are rows that have no prediction, each with its record: a filler (NaN, 0, empty)
    stands in their place, and in that of the `dropped`: runs of rows `[start, stop)` that a preprocess function left
    out on purpose. Where no row has outputs the payload is empty. `models` are those that ran, in their versions;
    `checksum` is the CRC-32 of the payload. `begun_at` is when the child began (Unix seconds), `stages` are
    its seconds by stage since its last answer (`tasks/stopwatch.py`).
    """

    job: JobId
    index: Count
    start: Count
    stop: Count
    slot: str
    seconds: float
    ref: PayloadRef
    failed: list[FailureRecord] = []
    failed_rows: list[FailureRecord] = []
    dropped: list[tuple[Count, Count]] = []
    models: list[ModelRef] = []
    checksum: int = 0
    begun_at: float = 0.0
    stages: dict[str, float] = {}

    @property
    def is_blank(self) -> bool:
        """Whether no row has outputs."""
        return isinstance(self.ref, InlineRef) and not self.ref.payload


class Failure(_Value, frozen=True, tag="failure"):
    """A chunk that could not be run, or through which none of the models went: `failed` has each one's own record.

    `failed_rows` has a record for each of its rows, where every one was tried for itself and none has a prediction.
    `begun_at` and `stages` as for `Outputs`.
    """

    job: JobId
    index: Count
    slot: str
    record: FailureRecord
    failed: list[FailureRecord] = []
    failed_rows: list[FailureRecord] = []
    begun_at: float = 0.0
    stages: dict[str, float] = {}


Answer = Outputs | Failure


class TensorSpec(_Value, frozen=True):
    """One input or output of a model; `shape` with the rows first, None where a size is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        shape = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({shape}) {self.dtype}"


class ModelInfo(_Value, frozen=True):
    """A loaded model, as its child describes it.

    `memory_bytes` is what loading added to the child; `batch_seconds` what one call takes, 0 where no rows could be
    made up to try. `preprocess` and `postprocess` name the functions around it, if there are any: rows then need not
    fit `inputs`, nor outputs `outputs`, and `drops_rows` says whether the first may leave out rows. `executor` is how
    it is run, "plain" where every child loads it for itself; `shared_bytes` are weights that all children of a machine
    hold together; `error` is the executor's largest deviation from the model's own graph, in units of the outputs'
    spread; `note` says why it is run so. `function` names the Python function that is the model: it has neither inputs
    nor outputs that anyone knows before it runs. Where there is no model at all, what `preprocess` makes of the rows is
    the output.
    """

    name: str
    digest: str
    batch_rows: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    load_seconds: float
    memory_bytes: int
    batch_seconds: float = 0.0
    preprocess: str = ""
    postprocess: str = ""
    drops_rows: bool = False
    executor: str = "plain"
    shared_bytes: int = 0
    error: float = 0.0
    note: str = ""
    function: str = ""


class OlderSet(_Value, frozen=True):
    """A model set that a worker has replaced, and still serves to jobs that are pinned to it; and its queue."""

    queue: Name
    models: list[ModelRef]


class SlotRecord(_Value, frozen=True):
    """A child that is ready: where it runs, since when (Unix seconds), and the models that it holds.

    `worker` tells workers apart that carry the same host name. `queue` is where it takes chunks from, that of its model
    set. `spool_mark` is a file in the worker's spool folder, for producers to see whether theirs is the same;
    `data_roots` are the folders under which it opens files. `older` are model sets that it served before, and for which
    it still runs chunks, from their own queues.
    """

    worker: str
    slot: int
    pid: int
    ready_at: float
    queue: Name
    models: list[ModelInfo]
    spool_mark: str = ""
    data_roots: list[str] = []
    older: list[OlderSet] = []


class Plan(_Value, frozen=True):
    """What a detached job's chunks are made from, by anyone who reaches Redis.

    Attributes:
        rows: of the data set.
        chunk_rows: of every chunk; the last one has what is left.
        models: as the job is pinned to them.
        slice_ref: where the rows stand in a file; None where they wait in Redis.
        compression: what payloads are packed with, both ways.
        ttl_seconds: how long Redis keeps the job after the last thing that happened to it.
        workers: those that held the models when the job was left.
        trace: headers that name the trace that the job belongs to.
    """

    rows: Count
    chunk_rows: Annotated[int, msgspec.Meta(ge=1)]
    models: Annotated[list[ModelRef], msgspec.Meta(min_length=1, max_length=100)]
    slice_ref: SliceRef | None
    compression: Literal["lz4", "zstd"] | None
    ttl_seconds: Annotated[int, msgspec.Meta(ge=1)]
    workers: list[str]
    trace: dict[str, str] = {}

    @property
    def chunks(self) -> int:
        """How many chunks there are; zero rows are one."""
        return max(1, -(-self.rows // self.chunk_rows))


class JobRecord(_Value, frozen=True):
    """A job as `celeriac jobs` and `status` show it; times are Unix seconds; only a detached one has a plan.

    `failed_models` are those that failed alone, each with a record of rows where it did; `stages` are seconds of slots.
    """

    id: JobId
    models: list[str]
    input: str
    store: str
    rows: int | None
    submitted_at: float
    updated_at: float
    producer: str
    ledger: dict[str, int]
    error: str = ""
    plan: Plan | None = None
    failed_models: dict[str, FailureRecord] = {}
    stages: dict[str, float] = {}


T = TypeVar("T")


def to_plain(value: _Value) -> dict[str, Any]:
    """`value` as dicts, lists, strings, numbers and bytes, for a Celery message."""
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return plain


def from_plain(plain: object, form: type[T]) -> T:
    """Check what a Celery message brought.

    Raises:
        MessageError: it is not of that form; the text names the field.
    """
    try:
        return msgspec.convert(plain, form)
    except msgspec.ValidationError as error:
        raise MessageError(f"a message is not a {form.__name__}: {error}") from None


def pack(value: _Value) -> bytes:
    """`value` as msgpack."""
    return msgspec.msgpack.encode(value)


def unpack(data: bytes, form: Any) -> Any:
    """Check msgpack bytes from Redis.

    Raises:
        MessageError: they are not of that form; the text names the field.
    """
    try:
        return msgspec.msgpack.decode(data, type=form)
    except msgspec.DecodeError as error:
        raise MessageError(f"bytes from Redis are not a {getattr(form, '__name__', form)}: {error}") from None
