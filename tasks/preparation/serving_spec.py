"""Says how children get a model: which snapshot and executor, or the plain file; the main process decides.

main process: prepare --ServingSpec--> (fork, or a file of the worker's run folder) --> child: load_model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tasks.executors import EXECUTORS
from tasks.models.tensorflow_import import mentions_tensorflow
from tasks.protocol.records import Dependence, ModelInfo, TensorSpec
from tasks.snapshots.file_stamps import Stamp
from tasks.snapshots.record import Snapshot, Trial
from worker_config.manifest import ModelEntry, is_function


class ServingSpec(msgspec.Struct, frozen=True):
    """One model in one version, as a worker serves it.

    Attributes:
        entry: of the manifest; its path is the source's.
        folder: of the snapshot; empty where there is none, and the source is loaded.
        executor: a name of `EXECUTORS`, or "plain".
        batch_rows: rows of one call, at most.
        note: why it is run so, for people.
        threads: inside one operation.
        members: of a chain, one after the other.
        unproven: operations of the graph for which nothing is known of this executor; its outputs are held against the
            own graph while jobs run.
        sources: SHA-256 of the functions, modules and files that the manifest names, by name.
        files: size and SHA-256 of what children read of the snapshot's folder.
        stamps: of its files, from before they were checked.
    """

    name: str
    digest: str
    entry: ModelEntry
    folder: str = ""
    snapshot: Snapshot | None = None
    executor: str = "plain"
    trial: Trial | None = None
    batch_rows: int = 0
    note: str = ""
    threads: int = 1
    members: list[ServingSpec] = []
    unproven: list[str] = []
    sources: dict[str, str] = {}
    files: dict[str, tuple[int, str]] = {}
    stamps: dict[str, Stamp] = {}

    @property
    def call_rows(self) -> int:
        """Rows of one call where there are many; fewer than `batch_rows` where these cost memory and no speed."""
        return min(self.batch_rows, self.trial.call_rows or self.batch_rows) if self.trial else self.batch_rows

    @property
    def small_batches(self) -> list[int]:
        """Rows of smaller batches that are worth it where there are few rows."""
        return sorted(rows for rows in (self.trial.small_batches if self.trial else ()) if rows < self.call_rows)

    @property
    def call_seconds(self) -> dict[int, float]:
        """Processor seconds of a call by its rows, as trials found them, of whole batches and of smaller ones."""
        if not self.trial or not self.small_batches:
            return {}
        whole = self.trial.processor_seconds * self.call_rows / self.batch_rows
        return {self.call_rows: whole, **self.trial.small_batches}

    @property
    def needs_tensorflow(self) -> bool:
        """Whether TensorFlow runs it, or is needed by a function; rows that an executor is not given may, too."""
        if self.members:
            return any(member.needs_tensorflow for member in self.members)
        if self.entry.has_file and self.executor in EXECUTORS:
            if EXECUTORS[self.executor].needs_tensorflow or self.unproven:  # held against the own graph in each job
                return True
            return mentions_tensorflow(self.entry, imports=False)  # which its own graph alone needs
        source = self.snapshot.source if self.snapshot else self.entry.path
        if self.entry.has_file and Path(source).suffix != ".tflite":
            return True
        return mentions_tensorflow(self.entry)

    @property
    def shared_bytes(self) -> int:
        """Bytes of weights, as this executor has them, that all children hold together; 0 where each has its own."""
        if self.members:
            return sum(member.shared_bytes for member in self.members)
        if self.executor not in EXECUTORS or (self.trial and self.trial.copies_weights):
            return 0
        return (Path(self.folder) / EXECUTORS[self.executor].mapped).stat().st_size


def describe(served: ServingSpec) -> ModelInfo | None:
    """What is known of it before a child has loaded it; None where only loading tells."""
    if served.members:
        infos = [describe(member) for member in served.members]
        known = [info for info in infos if info is not None]
        return chained(served, known) if len(known) == len(infos) else None
    snapshot = served.snapshot
    if snapshot is None and served.entry.has_file:
        return None
    inputs, outputs = (snapshot.inputs, snapshot.outputs) if snapshot else ([], [])
    trial = served.trial or Trial(served.executor, agrees=True)
    return info_of(
        served,
        inputs,
        outputs,
        ordered=bool(snapshot and snapshot.ordered),
        memory_bytes=trial.own_bytes,
        batch_seconds=trial.batch_seconds,
    )


def info_of(
    served: ServingSpec,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    *,
    ordered: bool,
    batch_rows: int | None = None,
    load_seconds: float = 0.0,
    memory_bytes: int = 0,
    batch_seconds: float = 0.0,
) -> ModelInfo:
    """What a worker says of a model, with what loading or trials have measured."""
    entry = served.entry
    return ModelInfo(
        name=served.name,
        digest=served.digest,
        batch_rows=served.batch_rows if batch_rows is None else batch_rows,
        inputs=inputs,
        outputs=outputs,
        load_seconds=load_seconds,
        memory_bytes=memory_bytes,
        # The functions around a model may take any time.
        batch_seconds=0.0 if entry.preprocess or entry.postprocess else batch_seconds,
        preprocess=entry.preprocess,
        postprocess=entry.postprocess,
        drops_rows=entry.drops_rows,
        function=entry.path if is_function(entry.path) else "",
        ordered=ordered,
        columns=entry.columns,
        executor=served.executor,
        shared_bytes=served.shared_bytes,
        error=(served.trial.error or 0.0) if served.trial else 0.0,
        true_error=served.trial.true_error if served.trial else None,
        own_error=served.trial.own_error if served.trial else None,
        note=served.note,
        dependence=served.snapshot.dependence if served.snapshot else None,
        independent_rows=entry.independent_rows,
        sources=served.sources,
        small_batches=served.small_batches,
        call_rows=served.call_rows,
    )


def chained(served: ServingSpec, members: Sequence[ModelInfo], load_seconds: float = 0.0) -> ModelInfo:
    """What a worker says of a chain: what its first member takes, what its last one gives."""
    first, last = members[0], members[-1]
    return ModelInfo(
        name=served.name,
        digest=served.digest,
        batch_rows=max(member.batch_rows for member in members),
        inputs=first.inputs,
        outputs=last.outputs,
        load_seconds=load_seconds,
        memory_bytes=sum(member.memory_bytes for member in members),
        preprocess=first.preprocess,
        postprocess=last.postprocess,
        drops_rows=any(member.drops_rows for member in members),
        function=first.function,
        ordered=first.ordered,
        columns=first.columns,
        shared_bytes=sum(member.shared_bytes for member in members),
        note=served.note,
        dependence=_dependence(members),
        independent_rows=all(member.independent_rows for member in members),
        sources=served.sources,
    )


def _dependence(members: Sequence[ModelInfo]) -> list[Dependence] | None:
    """What a row's prediction by a chain depends on: what it does in any member."""
    known = [member.dependence for member in members if member.dependence is not None]
    found = {one.on: one for dependence in known for one in dependence}
    return list(found.values()) if found or len(known) == len(members) else None
