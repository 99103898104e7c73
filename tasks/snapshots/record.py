"""Defines what a snapshot says of itself, in `snapshot.json`, and what trials on a machine have found.

CACHE/KEY/snapshot.json       Snapshot: inputs, outputs, where each weight stands, sizes and hashes of the files
CACHE/KEY/model/              the model as a SavedModel without its checkpoint
CACHE/KEY/weights.bin         all variables, each at a multiple of 64 bytes
CACHE/KEY/built/              what executors need besides (tasks/executors)
CACHE/KEY/source/             instead of all these: the model's own files, where no SavedModel can be made of it
CACHE/KEY/trials-MACHINE.json   Trials: which executors agree with the model here, and how fast they are
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

import msgspec

from tasks.models.finite import EXACT
from tasks.protocol.records import Dependence, TensorSpec
from worker_config.decodable import decodable
from worker_config.foreign_errors import UNDECODABLE
from worker_config.manifest import ModelEntry

T = TypeVar("T")
# The folder of what executors build.
BUILT = "built"
# The file that holds all variables.
WEIGHTS = "weights.bin"


class Weight(msgspec.Struct, frozen=True):
    """Where a variable's bytes stand in `weights.bin`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class ClassAgreement(msgspec.Struct, frozen=True):
    """How far an executor agrees with the model on rows of one class.

    Attributes:
        output: its number.
        name: of the class: the column that is the largest, or the value of an output that is no float.
        rows: that the model itself puts into it, or places in rows.
        agreement: the share of them that stay in it; None where there are none.
    """

    output: int
    name: str
    rows: int
    agreement: float | None = None


class Trial(msgspec.Struct, frozen=True):
    """What one executor did with the rows of the gate.

    Attributes:
        executor: its name; one of `tasks.executors.EXECUTORS`.
        agrees: whether its outputs are those of the model, within what is asked of it.
        batch_seconds: of `batch_rows` rows, the median; 0 where it did not run.
        own_bytes: memory that it adds to each child.
        error: the largest deviation from the own graph's outputs, in units of their spread over the rows; None where
            it has no measure, as for outputs of another shape.
        true_error: the same from the model in float64; None where that is not known, or it has no measure.
        own_error: how far the own graph is from it.
        apart: how far its outputs may be from the own graph's, in units of their size.
        agreement: the share of rows whose largest output is the same; None where that means nothing.
        why: why it does not agree, or did not run; empty where it does.
        processor_seconds: of the same, all threads together, the least.
        call_rows: rows of one call, of which some fill `batch_rows`: the fewest that cost no speed; 0 is all of them.
        limit: the largest absolute value of a float in a row that it may be given; rows beyond, and those that are not
            finite, go to the model's own graph. None where it agrees on all rows.
        tiny: whether it may be given rows with numbers very close to 0.
        integers: the largest absolute value of an integer in such a row.
        rows: how many it was tried on.
        peak_bytes: what it takes besides while a batch is run.
        classes: of a lower precision: the same share by class of the model's own outputs.
        unproven: operations of which nobody knows whether it gives what the model's own graph gives.
        small_batches: processor seconds of a call by its rows, of batches smaller than `call_rows` on which it agrees,
            too, and that are worth it where there are few rows.
        copies_weights: whether each child has weights of its own, and maps none.
    """

    executor: str
    agrees: bool
    batch_seconds: float = 0.0
    own_bytes: int = 0
    error: float | None = 0.0  # JSON has no infinity
    agreement: float | None = None
    why: str = ""
    processor_seconds: float = 0.0
    limit: float | None = None
    tiny: bool = True
    unproven: list[str] = []
    rows: int = 0
    peak_bytes: int = 0
    classes: list[ClassAgreement] = []
    small_batches: dict[int, float] = {}
    true_error: float | None = None
    own_error: float | None = None
    apart: float = 0.0
    copies_weights: bool = False
    integers: int = EXACT
    call_rows: int = 0


class Trials(msgspec.Struct, frozen=True):
    """All trials of a model on one kind of machine.

    Attributes:
        trials: the reference, "graph", is the first.
        rows: what the gate looked at: "generated", or the name of the calibration file; empty where it could not.
        files: size and SHA-256 of what executors have written into the folder.
        rows_in_file: of the calibration file, of which the gate may have looked at fewer.
        no_truth: why executors were held against the own graph, and not against the model in float64; empty where they
            were, or where nothing was compared.
        left: operations that float64 has no kernels for, and that were computed in lower precision there.
        noise: how far the own graph was seen to be from itself, in units of the outputs' size.
    """

    trials: list[Trial]
    rows: str
    files: dict[str, tuple[int, str]] = {}
    rows_in_file: int = 0
    no_truth: str = ""
    left: list[str] = []
    noise: float = 0.0


class Snapshot(msgspec.Struct, frozen=True):
    """A model in the cache.

    Attributes:
        kind: "mapped": SavedModel and weights; "copied": the model's own files, loaded plainly by each child.
        why: of a copy: why it could not be mapped.
        entry: how the manifest had it, its path that of the source.
        files: size and SHA-256 of every file, by its path in the folder.
        source: of a copy: the name of the model's own file or folder.
        ordered: whether the inputs have an order that people know.
        operations: keys of the graph's operations in the table of `tasks/executors/operation_table.py`.
        state: the weights that the graph writes to, by their place in `weights`.
        seeds: those of them that are a random generator's.
        dependence: what a row's prediction depends on besides the row; None where no rows could be made up to tell.
        left_out: outputs that the model has besides, and that are no row's.
    """

    version: int
    kind: Literal["mapped", "copied"]
    digest: str
    tensorflow: str
    entry: ModelEntry
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    weights: list[Weight]
    weight_bytes: int
    files: dict[str, tuple[int, str]]
    why: str = ""
    source: str = ""
    ordered: bool = False
    operations: list[str] = []
    state: list[int] = []
    seeds: list[int] = []
    dependence: list[Dependence] | None = None
    left_out: list[TensorSpec] = []


class _Hashed(msgspec.Struct, frozen=True):
    """A record in its file, with the SHA-256 of its own bytes: a bit that has turned may leave it valid JSON."""

    sha256: str
    record: msgspec.Raw


def to_file(record: msgspec.Struct) -> bytes:
    """A record as it stands in its file."""
    data = msgspec.json.encode(record)
    return msgspec.json.encode(_Hashed(hashlib.sha256(data).hexdigest(), msgspec.Raw(data)))


def from_file(data: bytes, form: type[T]) -> T:
    """The record that `to_file` made these bytes of; raises ValueError where they are others."""
    try:
        hashed = msgspec.json.decode(data, type=decodable(_Hashed))
        record = bytes(hashed.record)
        if hashlib.sha256(record).hexdigest() != hashed.sha256:
            raise ValueError("its bytes are others than were written")
        return msgspec.json.decode(record, type=decodable(form))
    except UNDECODABLE as error:
        raise ValueError(str(error)) from None
