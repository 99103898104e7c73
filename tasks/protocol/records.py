"""What stands in Redis of workers and jobs, for people and other processes: models, slots, jobs.

child --SlotRecord--> Redis --> producers, inspection        main process --WorkerFacts--> Redis --> doctor
producer --JobRecord--> Redis --> status, report
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TypeAlias

import msgspec

from tasks.protocol.messages import Differed, FailureRecord, JobId, ModelRef, Name
from tasks.protocol.plan import Plan
from worker_config.decodable import decodable
from worker_config.foreign_errors import UNDECODABLE

Touched: TypeAlias = Literal["files", "network", "Python", "unknown"]


class _Record(msgspec.Struct, frozen=True):
    """Base of all: immutable, and strict about the fields that it knows; the rules are those of messages."""


class TensorSpec(_Record, frozen=True):
    """One input or output of a model; `shape` with the rows first, None where a size is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        shape = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({shape}) {self.dtype}"


class Dependence(_Record, frozen=True):
    """What a row's prediction depends on, besides the row.

    Attributes:
        on: the other rows of its batch, its place in the batch, earlier calls, or chance.
        amount: the largest deviation seen, in units of the outputs' spread over the rows, or where outputs are no
            floats the share of rows; None where it has no measure.
        seeded: of chance: whether it follows from variables of the model, which can be set.
    """

    on: Literal["neighbours", "place", "history", "chance"]
    amount: float | None
    seeded: bool = False

    def __str__(self) -> str:
        amount = "without measure" if self.amount is None else f"by up to {self.amount:.2g} of the outputs' spread"
        return f"{_WORDS[self.on]} ({amount})"


_WORDS = {
    "neighbours": "the other rows of its batch",
    "place": "its place in the batch",
    "history": "earlier calls",
    "chance": "chance",
}


class ModelInfo(_Record, frozen=True):
    """A loaded model, as its child describes it.

    `memory_bytes` is what loading added to the child; `batch_seconds` what one call takes, 0 where no rows could be
    made up to try. `preprocess` and `postprocess` name the functions around it, if there are any: rows then need not
    fit `inputs`, nor outputs `outputs`, and `drops_rows` says whether the first may leave out rows. `executor` is how
    it is run, "plain" where every child loads it for itself; `shared_bytes` are weights that all children of a machine
    hold together; `error` is the executor's largest deviation from the model's own graph, in units of the outputs'
    spread; `true_error` is the same from the model in float64, and `own_error` that of the own graph, None where nobody
    knows; `note` says why it is run so. `function` names the Python function that is the model: it has neither inputs
    nor outputs that anyone knows before it runs. Where there is no model at all, what `preprocess` makes of the rows is
    the output. `ordered` says whether `inputs` stand in an order that people know, for a tuple of arrays to go by.
    `columns` says of which columns of a data set inputs are made, the others being columns of their own names.
    `dependence` is what a row's prediction depends on besides the row, None where nobody knows, as of functions;
    `independent_rows` is False where the manifest says that this is meant. `sources` are the SHA-256, by name, of
    functions, modules and files that the manifest names, to say what has changed when `digest` has. `small_batches`
    are the rows of smaller batches, in which few rows may be run where they belong to no job. `call_rows` are those of
    one call where there are many: as many as `batch_rows`, or the part of them that is as fast in less memory; 0 where
    nobody has said so.
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
    ordered: bool = False
    columns: dict[str, list[str]] = {}
    dependence: list[Dependence] | None = None
    independent_rows: bool = True
    sources: dict[str, str] = {}
    small_batches: list[int] = []
    call_rows: int = 0
    true_error: float | None = None
    own_error: float | None = None

    @property
    def dependent(self) -> str:
        """In words, what a row's prediction depends on besides the row; empty where that is nothing, or not known."""
        return f"a row's prediction depends on {' and on '.join(map(str, self.dependence))}" if self.dependence else ""


class Described(_Record, frozen=True):
    """What `python -m tasks.describe` prints of one model; it has trials where executors were tried on it.

    Attributes:
        info: None where something is wrong with the model.
        trials: as the snapshot's record has them (`tasks/snapshots/record.py`); for people and scripts to read.
        error: what is wrong with it, and `exit_code` that of a command which needs the model.
    """

    name: str
    info: ModelInfo | None = None
    trials: list[dict[str, Any]] = []
    error: str = ""
    exit_code: int = 0


class FileOperation(_Record, frozen=True):
    """An operation of a model that touches more than its rows.

    Attributes:
        operation: its kind, as TensorFlow or Keras names it.
        node: its own name, behind that of the function that it stands in.
        touches: what; "unknown" of code that is in no file of the model.
    """

    operation: str
    node: str
    touches: Touched

    def __str__(self) -> str:
        return f"{self.operation} ({self.node}) touches {_OF_OPERATIONS[self.touches]}"


class Inspected(_Record, frozen=True):
    """What `python -m tasks.describe --inspect` prints of one model, which it does not load.

    Attributes:
        operations: of its graph; those that read files of the model itself are left out.
        functions: the Python functions that it is, or that are around it, and the modules that it needs.
        refused: why it is not loaded; empty where the manifest allows what it has.
    """

    name: str
    operations: list[FileOperation] = []
    functions: list[str] = []
    refused: str = ""


_OF_OPERATIONS = {
    "files": "files",
    "network": "the network",
    "Python": "Python",
    "unknown": "what its own code does: it is a custom operation",
}


class OlderSet(_Record, frozen=True):
    """A model set that a worker has replaced, and still serves to jobs that are pinned to it; and its queue."""

    queue: Name
    models: list[ModelRef]


class SlotRecord(_Record, frozen=True):
    """A child that is ready: where it runs, since when (Unix seconds), and the models that it holds.

    `worker` tells workers apart on one host. `queue`, that of its model set, is where it takes chunks from.
    `spool_mark` is a file in its spool folder, for producers to see whether theirs is the same; `data_roots` are where
    it opens files, `output_roots` where it writes them; `reads` has formats of splits that it can read, and "objects".
    `older` are model sets that it served before, and still runs chunks for. `message_version` is the newest that it
    understands, 1 where nothing is said. `key_ids` tell of keys whose signatures it believes; with the first it signs.
    """

    worker: str
    slot: int
    pid: int
    ready_at: float
    queue: Name
    models: list[ModelInfo]
    spool_mark: str = ""
    data_roots: list[str] = []
    reads: list[str] = []
    output_roots: list[str] = []
    older: list[OlderSet] = []
    message_version: int = 1
    key_ids: list[str] = []


class JobRecord(_Record, frozen=True):
    """A job as `celeriac jobs` and `status` show it; times are Unix seconds; only a detached one has a plan.

    `failed_models` are those that failed alone, each with a record of rows where it did; `stages` are seconds of slots.
    `dependent` are models whose rows are not independent, each with what they depend on.
    `differed` are the models of which an executor gave other outputs than their own graphs, which have run them since;
    of a detached job so many chunks were computed again for it, as `void` says.
    `weight` is what the job has of its queues, against others (`producer/scheduling/priority.py`).
    `waits` tells of slots that wait for a store of objects with a chunk of it, in words; empty where none does.
    `missing` tells of parts of a detached job that are not where they were left. Of a part, `unsent` says whether its
    chunks were never sent.
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
    dependent: dict[str, str] = {}
    differed: dict[str, Differed] = {}
    void: int = 0
    weight: float = 4.0
    waits: str = ""
    missing: str = ""
    unsent: bool = False


# What may differ between two machines and matter. TensorFlow goes by several names.
_DISTRIBUTIONS = ("celeriac", "celery", "redis", "numpy")
_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-aarch64", "tf-nightly")


class Running(msgspec.Struct, frozen=True):
    """What a child is at: a chunk of a job, the same in words, and for how many seconds so far.

    `index` is the chunk's. Where it stands still for a store of objects, `waits` says for which, why, and
    `waits_seconds` for how long.
    """

    job: str
    text: str
    seconds: float
    index: int = -1
    waits: str = ""
    waits_seconds: float = 0.0


class WorkerFacts(msgspec.Struct, frozen=True):
    """A worker besides its slots, as its main process sees it, for whoever looks at it or waits for a job.

    No row depends on it: a form that is not known here, as that of another version, is read as far as it goes.

    Attributes:
        versions: of Python and of what is installed, by name.
        children: how many it keeps.
        threads: TensorFlow threads of each child.
        cores: those that it may use.
        gpus: likewise, by name.
        spool: its spool folder; empty where it has none.
        clock_ahead: seconds by which its clock is ahead of Redis's.
        running: by slot, what its child was at when this was told, every few seconds.
        draining: whether it takes no more chunks.
    """

    versions: dict[str, str] = {}
    children: int = 0
    threads: int = 0
    cores: int = 0
    gpus: list[str] = []
    spool: str = ""
    clock_ahead: float = 0.0
    running: dict[int, Running] = {}
    draining: bool = False


def facts_of(children: int, threads: int, gpus: Sequence[str], spool: object) -> WorkerFacts:
    """What is known when a worker starts."""
    cores = len(os.sched_getaffinity(0))
    return WorkerFacts(versions_here(), children, threads, cores, list(gpus), str(spool or ""))


@cache  # a small job would cost more for them than for all else
def versions_here() -> dict[str, str]:
    """Versions on this machine, by name; of what is installed alone, and without importing any of it."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        if known := version_of([name]):
            versions[name] = known
    if known := version_of(_TENSORFLOW):
        versions["tensorflow"] = known
    return versions


def version_of(names: Iterable[str]) -> str | None:
    """The version of the first of these distributions that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def pack_facts(facts: WorkerFacts, clock_ahead: float) -> bytes:
    """What is kept in Redis; with the clock as it stands now."""
    return msgspec.msgpack.encode(msgspec.structs.replace(facts, clock_ahead=clock_ahead))


def unpack_facts(data: bytes | None) -> WorkerFacts | None:
    """What a worker tells; None where it tells nothing that could be read."""
    try:
        return msgspec.msgpack.decode(data, type=decodable(WorkerFacts)) if data else None
    except UNDECODABLE:
        return None
