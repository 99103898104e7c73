"""The files of a worker's run folder, by which its main process, its children and `tasks.health` reach each other.

main process --status, draining, a file for each model version--> health, children
child        --slot-N--> main process, should Redis lose what the child announced
"""

from __future__ import annotations

from pathlib import Path

from tasks.protocol.messages import ModelRef

PREFIX = "celeriac-worker-"
SLOT_FILES = "slot-*[0-9]"
STATUS = "status"


def status_path(folder: Path) -> Path:
    """What the main process writes every two seconds."""
    return folder / STATUS


def draining_path(folder: Path) -> Path:
    """A file that is there as long as the worker drains, for children that come meanwhile: they are no slots."""
    return folder / "draining"


def slot_path(folder: Path, slot: int) -> Path:
    """The record of a slot, as its child announced it."""
    return folder / f"slot-{slot}"


def model_path(folder: Path, ref: ModelRef) -> Path:
    """How a version of a model is served, for children that there are and those to come."""
    return folder / f"{ref.name}@{ref.digest}.json"
