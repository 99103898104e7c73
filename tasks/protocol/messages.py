"""What travels: a chunk to the workers, an answer back; slots and jobs have records (`tasks/protocol/records.py`).

    producer --ChunkMessage--> Celery --> child --Answer--> results list --> producer

All are plain msgpack maps, checked field by field when they are read; nothing is ever pickled.

Two releases on one Redis understand each other by three rules, for all that stands in `tasks/protocol`:

- A new field has a default, which means what was meant before. One that is not known is not looked at, so nothing may
  be lost with it but speed, or something for people.
- What changes what is done raises `MESSAGE_VERSION`; messages that need it carry it, others an older one still.
- Nobody runs a message of a version that is not understood: its job ends with both versions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from tasks.protocol.split_ref import SplitRef, Text, cut
from worker_config.decodable import decodable
from worker_config.errors import MessageError
from worker_config.foreign_errors import UNDECODABLE, one_line

# The newest and the oldest that are understood, as that of the release before; and that of what is written.
MESSAGE_VERSION = 2
LEAST_VERSION = 2
WRITTEN_VERSION = 2
# Of a chunk, in their order. "wait" is before it came, "answer" that of the chunk before it.
STAGES = ("wait", "fetch", "decode", "model", "preprocess", "infer", "postprocess", "encode", "store", "answer")
TASK_NAME = "celeriac.infer"
# A larger payload in the message would pass through the worker's main process, twice over a pipe.
MAX_INLINE_BYTES = 64 * 2**10

JobId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# In the folder of an output: no other file is ever read or removed there, and none outside.
FileName = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?-[0-9a-f]{16}\.[a-z]{3,8}$")]


class Value(msgspec.Struct, frozen=True):
    """Base of all: immutable, and strict about the fields that it knows."""


class ModelRef(Value, frozen=True):
    """A model as a job is pinned to it: its name, and the SHA-256 of its files."""

    name: Name
    digest: Name

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:8]}"


class InlineRef(Value, frozen=True, tag="inline"):
    """A payload small enough to ride in the message."""

    payload: bytes


class RedisRef(Value, frozen=True, tag="redis"):
    """A payload that waits in Redis under `key`."""

    key: Name


class HashRef(Value, frozen=True, tag="hash"):
    """A payload that waits in the Redis hash `key`, in the field of its chunk's index."""

    key: Name


class FileRef(Value, frozen=True, tag="file"):
    """A payload in the spool folder that producer and workers share, as JOB/NAME."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}/[a-z0-9-]{1,60}$")]


class SliceRef(Value, frozen=True, tag="slice"):
    """Rows that stand in a file as they are: `row_bytes` each, from `offset` on, of `dtype` and `row_shape`.

    `size` and `mtime_ns` tell whether it is still the file that the producer meant; of an object `etag` does.
    """

    path: Text
    size: Count
    mtime_ns: int
    offset: Count
    dtype: str
    row_shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)]
    etag: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class OutputSpec(Value, frozen=True):
    """What one row of an output is, and the names that lead to it; `holds` is what its values are, if they are texts.

    Of no rows nobody knows what they hold.
    """

    key: tuple[str, ...]
    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)]
    holds: Literal["", "text", "bytes"] = ""


class PartRef(Value, frozen=True, tag="part"):
    """A file in the folder that `PartsReply` or `MergeReply` names, by a name of this attempt; and what it has.

    `kept` are the columns of the data set beside the outputs.
    """

    name: FileName
    bytes: Count
    rows: Count
    outputs: list[OutputSpec] = []
    kept: list[OutputSpec] = []


class PartsReply(Value, frozen=True, tag="parts"):
    """Outputs are to be left in this folder, as files that `tasks/outputs/parts.py` makes."""

    folder: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class MergeReply(Value, frozen=True, tag="merge"):
    """The chunk has no rows, but a `MergeOrder`: files of the folder become one of this kind, there as well."""

    folder: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    suffix: Annotated[str, msgspec.Meta(pattern=r"^\.[a-z]{3,8}$")]


PayloadRef = InlineRef | RedisRef | FileRef
# Rows that stand in the data set's own files.
InPlaceRef = SliceRef | SplitRef
FolderReply = PartsReply | MergeReply
RowsRef = PayloadRef | SliceRef | SplitRef | HashRef
StoreName = Literal["redis", "files", "slices"]
# What a row that fails does: it ends the job, is left out of the outputs, or has a filler in its place.
OnError = Literal["raise", "skip", "fill"]
# What a row with a NaN or an infinity does, in what a model takes or in what it gives: it is counted and told, has
# failed, or is counted alone.
OnNonfinite = Literal["warn", "fail", "allow"]


class ChunkMessage(Value, frozen=True):
    """One chunk of one job: rows `[start, stop)` through `models`.

    `chunks` is how many the job has, where that is known and will stay so. `reply` is the store for outputs
    over 64 KiB, "answer" where they ride in the answer whatever their size, or the folder that the worker writes them
    to; `compression` is what they are packed with. `kept` is where columns stand that the worker puts beside the
    outputs, if the rows do not bring them. Where `on_error` is not "raise", the rows that fail are found, each for
    itself, and the others are predicted. With `on_nonfinite` "fail" a row that is not finite is one of them.
    """

    version: Annotated[int, msgspec.Meta(ge=LEAST_VERSION, le=MESSAGE_VERSION)]
    job: JobId
    index: Count
    start: Count
    stop: Count
    chunks: Count | None
    models: Annotated[list[ModelRef], msgspec.Meta(min_length=1, max_length=100)]
    ref: RowsRef
    reply: Literal["redis", "files", "answer"] | FolderReply = "redis"
    compression: Literal["lz4", "zstd"] | None = None
    on_error: OnError = "raise"
    on_nonfinite: OnNonfinite = "warn"
    kept: SplitRef | None = None

    def __str__(self) -> str:
        total = "" if self.chunks is None else f"/{self.chunks}"
        models = ",".join(map(str, self.models))
        return f"chunk {self.index}{total} rows {self.start}-{self.stop} of job {self.job}, {models}"


class FailureRecord(Value, frozen=True):
    """What became of rows `[start, stop)` that have no prediction.

    Attributes:
        stage: where it happened: "read" where the data set has what no model can be given, "fetch", "decode", "model",
            "preprocess", "infer", "postprocess", "encode", "memory", "worker" where the child died or was stopped,
            "killed" where that will not be tried again, "full" where the disk of its outputs is.
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
        value = "".join(one if one.isprintable() else repr(one)[1:-1] for one in self.value)  # names may have new lines
        return f"row {self.start} ({value})" if value else f"row {self.start}"

    def __str__(self) -> str:
        where = f"in model {self.model} at {self.stage}" if self.model else f"at {self.stage}"
        what = self.rows if self.start < self.stop else "a chunk"
        return f"{what} failed {where}: {self.type}: {self.text}"


class Differed(Value, frozen=True):
    """An executor gave other outputs than the model's own graph, as was found while a job ran.

    Attributes:
        model: by its name in the job.
        executor: its name.
        row: of the data set, the first that was found.
        text: what differs.
    """

    model: Name
    executor: str
    row: Count
    text: str

    @property
    def what(self) -> str:
        """What happened and where, for people."""
        return f"differed from the model's own graph on row {self.row}"

    def note(self, job: str) -> str:
        """The same for who does not know the job."""
        return f"{self.executor} {self.what} of job {job}: {self.text}; the own graph is used"

    def __str__(self) -> str:
        return f"{self.executor} {self.what}: {self.text}; the own graph is used"


class Outputs(Value, frozen=True, tag="outputs"):
    """What a child made of a chunk: a payload of one array, or a dict of them by output or model name.

    A message of several models is answered by model name, however many of them went through; `failed` has a record for
    each of the others. `failed_rows` are rows that have no prediction, each with its record: a filler stands in their
    place (`tasks/protocol/dtypes.py`), and in that of the `dropped`: runs of rows `[start, stop)` that a
    preprocess function left out on purpose. Where no row has outputs the payload is empty. `nonfinite_inputs` and
    `nonfinite_outputs` count, of the rows that have outputs, those with a NaN or an infinity. `models` are those that
    ran, in their versions; `checksum` is the XXH3-64 of the payload. `begun_at` is when the child began (Unix seconds),
    `stages` are its seconds by stage since its last answer (`tasks/telemetry/stopwatch.py`). `by_executor` names the
    models of which an executor made the outputs that is still held against their own graphs; `differed` are those of
    which it was found with this chunk that it differs: their outputs here are the own graphs', and earlier ones are
    void.
    """

    job: JobId
    index: Count
    start: Count
    stop: Count
    slot: str
    seconds: float
    ref: PayloadRef | PartRef
    failed: list[FailureRecord] = []
    failed_rows: list[FailureRecord] = []
    dropped: list[tuple[Count, Count]] = []
    nonfinite_inputs: Count = 0
    nonfinite_outputs: Count = 0
    models: list[ModelRef] = []
    checksum: int = 0
    begun_at: float = 0.0
    stages: dict[str, float] = {}
    by_executor: list[Name] = []
    differed: list[Differed] = []

    @property
    def is_blank(self) -> bool:
        """Whether no row has outputs."""
        return isinstance(self.ref, InlineRef) and not self.ref.payload


class Failure(Value, frozen=True, tag="failure"):
    """A chunk that could not be run, or through which none of the models went: `failed` has each one's own record.

    `failed_rows` has a record for each of its rows, where every one was tried for itself and none has a prediction.
    `begun_at`, `stages`, `by_executor` and `differed` as for `Outputs`.
    """

    job: JobId
    index: Count
    slot: str
    record: FailureRecord
    failed: list[FailureRecord] = []
    failed_rows: list[FailureRecord] = []
    begun_at: float = 0.0
    stages: dict[str, float] = {}
    by_executor: list[Name] = []
    differed: list[Differed] = []


Answer = Outputs | Failure


T = TypeVar("T")


def cut_in_place(ref: InPlaceRef | None, start: int, stop: int, slots: int = 0) -> InPlaceRef | None:
    """Where the rows `[start, stop)` stand, of a data set that stands there, of which so many slots take chunks."""
    return cut(ref, start, stop, slots) if isinstance(ref, SplitRef) else ref


def to_plain(value: msgspec.Struct) -> dict[str, Any]:
    """`value` as dicts, lists, strings, numbers and bytes, for a Celery message."""
    return cast("dict[str, Any]", msgspec.to_builtins(value, builtin_types=(bytes,)))


def from_plain(plain: object, form: type[T]) -> T:
    """Check what a Celery message brought.

    Raises:
        MessageError: it is not of that form; the text names the field.
    """
    try:
        return msgspec.convert(plain, decodable(form))
    except msgspec.ValidationError as error:
        raise MessageError(f"a message is not a {form.__name__}: {one_line(error)}") from None


def pack(value: msgspec.Struct) -> bytes:
    """`value` as msgpack."""
    return msgspec.msgpack.encode(value)


def unpack(data: bytes | memoryview, form: Any) -> Any:
    """Check msgpack bytes from Redis.

    Raises:
        MessageError: they are not of that form; the text names the field.
    """
    return _decoded(msgspec.msgpack.decode, data, form)


def from_json(data: bytes | memoryview | str, form: Any) -> Any:
    """The same of JSON."""
    return _decoded(msgspec.json.decode, data, form)


def _decoded(decode: Any, data: bytes | memoryview | str, form: Any) -> Any:
    try:
        return decode(data, type=decodable(form))
    except UNDECODABLE as error:
        raise MessageError(f"bytes from Redis are not a {getattr(form, '__name__', form)}: {one_line(error)}") from None
