"""This module says how children get a model: which snapshot and executor, or the plain file; the main process decides.

main process: prepare --Served--> (fork, or a file of the worker's run folder) --> child: load_model
"""

from __future__ import annotations

import msgspec

from tasks.executors import EXECUTORS
from tasks.messages import ModelInfo
from tasks.snapshots.record import Snapshot, Trial
from worker_config.manifest import ModelEntry, is_function


class Served(msgspec.Struct, frozen=True):
    """One model in one version, as a worker serves it.

    Attributes:
        entry: of the manifest; its path is the source's.
        folder: of the snapshot; empty where there is none, and the source is loaded.
        executor: a name of `EXECUTORS`, or "plain".
        batch_rows: rows of one call.
        note: why it is run so, for people.
        threads: inside one operation.
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

    @property
    def shared_bytes(self) -> int:
        """Weights that all children hold together; 0 where each has its own."""
        shares = self.executor in EXECUTORS and EXECUTORS[self.executor].shares_weights
        return self.snapshot.weight_bytes if self.snapshot and shares else 0


def describe(served: Served, *, load_seconds: float = 0.0, memory_bytes: int | None = None) -> ModelInfo | None:
    """What a child would say of it when it has loaded it; None where only loading tells."""
    snapshot, entry = served.snapshot, served.entry
    if snapshot is None and not is_function(entry.path):
        return None
    around = bool(entry.preprocess or entry.postprocess)
    own = served.trial.own_bytes if served.trial else 0
    return ModelInfo(
        name=served.name,
        digest=served.digest,
        batch_rows=served.batch_rows,
        inputs=snapshot.inputs if snapshot else [],
        outputs=snapshot.outputs if snapshot else [],
        load_seconds=load_seconds,
        memory_bytes=own if memory_bytes is None else memory_bytes,
        # The functions around a model may take any time.
        batch_seconds=0.0 if around or not served.trial else served.trial.batch_seconds,
        preprocess=entry.preprocess,
        postprocess=entry.postprocess,
        function=entry.path if is_function(entry.path) else "",
        executor=served.executor,
        shared_bytes=served.shared_bytes,
        error=(served.trial.error or 0.0) if served.trial else 0.0,
        note=served.note,
    )
