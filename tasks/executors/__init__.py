"""This package knows the ways to run a snapshot's model; `trial` tries one, `choice` takes the fastest that agrees.

graph       the SavedModel's own graph on mapped weights: what all others are held against
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.executors import graph
from tasks.models.program import FlatCall
from tasks.snapshots.record import Snapshot


@dataclass(frozen=True)
class Executor:
    """One way to run a model.

    Attributes:
        shares_weights: whether all children of a machine use the mapped ones; else each has its own.
        precision: what it computes in: "float32" keeps the model's own.
        build: (folder, snapshot, batch_rows): write what `load` needs into the folder, in a process of its own.
        load: (folder, snapshot, batch_rows, threads) -> a call, fast for `batch_rows` rows, of any number of rows.
    """

    shares_weights: bool
    precision: str
    build: Callable[[Path, Snapshot, int], None] | None
    load: Callable[[Path, Snapshot, int, int], FlatCall]


EXECUTORS: dict[str, Executor] = {
    "graph": Executor(shares_weights=True, precision="float32", build=None, load=graph.load),
}
