"""This module finds, among the slots that are up, those that can run a job, and pins the job to their models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tasks.codec.arrays import DTYPES
from tasks.messages import ModelInfo, ModelRef, SlotRecord
from worker_config.errors import ModelError, NoWorkerError, UnknownModelError


def models_held(slots: Iterable[SlotRecord]) -> dict[str, ModelInfo]:
    """One description of each model that some slot holds, by name."""
    return {info.name: info for slot in slots for info in slot.models}


def pin(names: Sequence[str], slots: Sequence[SlotRecord]) -> list[ModelInfo]:
    """The models of these names, as all slots that hold them hold them.

    Raises:
        NoWorkerError: no worker is up, or none holds all of the models together.
        UnknownModelError: no slot holds such a model; the text names those that exist.
        ModelError: workers hold different versions of a model.
    """
    if not slots:
        raise NoWorkerError("no worker is up; start one with `celeriac worker` (or `celery -A tasks worker`)")
    held = models_held(slots)
    for name in names:
        if name not in held:
            raise UnknownModelError(f"no worker holds model {name!r}; there are: {', '.join(sorted(held))}")
        if len({info.digest for slot in slots for info in slot.models if info.name == name}) > 1:
            raise ModelError(f"workers hold different versions of model {name!r}; start them all with the same files")
    infos = [held[name] for name in names]
    if not usable(slots, refs(infos)):
        raise NoWorkerError(f"no worker holds {' and '.join(names)} together; start one with a manifest of all of them")
    return infos


def output_row_bytes(infos: Iterable[ModelInfo]) -> float:
    """Bytes of one row of all outputs, without those whose shape or size nobody knows beforehand."""
    total = 0.0
    for spec in (spec for info in infos if not info.postprocess for spec in info.outputs):
        dtype, sizes = DTYPES.get(spec.dtype), spec.shape[1:]
        if dtype is not None and None not in sizes:
            total += dtype.itemsize * math.prod(size or 0 for size in sizes)
    return total


def batch_seconds(infos: Sequence[ModelInfo]) -> float:
    """What the largest batch takes in all models together; 0 where that was not measured."""
    if not all(info.batch_seconds for info in infos):
        return 0.0
    return max(info.batch_rows for info in infos) * sum(info.batch_seconds / info.batch_rows for info in infos)


def refs(infos: Iterable[ModelInfo]) -> list[ModelRef]:
    """What a chunk's message says of its models."""
    return [ModelRef(info.name, info.digest) for info in infos]


def usable(slots: Iterable[SlotRecord], models: Iterable[ModelRef]) -> list[SlotRecord]:
    """The slots that hold all of these models, in these versions."""
    wanted = set(models)
    return [slot for slot in slots if wanted <= set(refs(slot.models))]
