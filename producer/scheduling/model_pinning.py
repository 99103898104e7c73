"""Finds, among the slots that are up, those that can run a job, and pins the job to their models."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tasks.protocol.messages import WRITTEN_VERSION, ModelRef
from tasks.protocol.records import ModelInfo, SlotRecord
from worker_config.errors import NoWorkerError, UnknownModelError, UsageError
from worker_config.foreign_errors import did_you_mean, some_of
from worker_config.model_paths import is_model, name_of

if TYPE_CHECKING:
    import numpy as np

START = "start one with `celeriac worker` (or `celery -A tasks worker`)"
RESUME = "`celery -A tasks control resume` ends that"

logger: logging.Logger = logging.getLogger(__name__)


def pin(names: Sequence[str], slots: Sequence[SlotRecord], key_ids: Sequence[str] = ()) -> list[ModelInfo]:
    """The models of these names, in the versions that most slots hold together; the newest, if as many hold others.

    `key_ids` are of the keys with which this process signs and believes (`tasks.protocol.seal.Sealer`).

    Raises:
        NoWorkerError: no worker is up, none speaks with this process, or none holds all of the models together; the
            text tells who holds what.
        UnknownModelError: no slot holds such a model; the text names those that exist.
    """
    if not slots:
        raise NoWorkerError(why_none())
    if not (understood := _understood(slots)):
        others = ", ".join(sorted({str(slot.message_version) for slot in slots}))
        raise NoWorkerError(
            f"the workers understand message version {others}, and this process writes {WRITTEN_VERSION}; run the same "
            "release of Celeriac on both sides, or the one before on one of them"
        )
    slots = [slot for slot in understood if _believe_each_other(slot.key_ids, key_ids)]
    if not slots:
        raise NoWorkerError(_why_not_believed(bool(key_ids), any(slot.key_ids for slot in understood)))
    held = {info.name for slot in slots for info in slot.models}
    for name in names:
        if name not in held:
            meant = did_you_mean(name, held)
            if is_model(path := Path(name)):
                meant = did_you_mean(name_of(path), held)
                meant += "; a model's own file is for `local()`, and for `celeriac predict` without a broker"
            raise UnknownModelError(f"no worker holds model {name!r}{meant}; there are: {', '.join(sorted(held))}")
    holders: dict[tuple[ModelRef, ...], list[SlotRecord]] = {}
    infos: dict[tuple[ModelRef, ...], list[ModelInfo]] = {}
    for slot in slots:
        for together in product(*([info for info in slot.models if info.name == name] for name in names)):
            version = tuple(refs(together))
            holders.setdefault(version, []).append(slot)
            infos[version] = list(together)
    if not holders:
        raise NoWorkerError(
            f"no worker holds {' and '.join(names)} together: {_who_holds(names, slots)}; start one that holds them all"
        )
    newest = {version: max(slot.ready_at for slot in held_by) for version, held_by in holders.items()}
    return infos[max(holders, key=lambda version: (len(holders[version]), newest[version]))]


def why_none(draining: Sequence[str] = ()) -> str:
    """Why there is no slot, and what to do; `draining` are workers that are up, and were told to take no chunks."""
    return f"{they_drain(draining)}; {RESUME}" if draining else f"no worker is up; {START}"


def they_drain(names: Sequence[str]) -> str:
    """That these workers, which are named, take no chunks."""
    return f"{some_of(names)} {'drains and takes' if len(names) == 1 else 'drain and take'} no chunks"


def _understood(slots: Iterable[SlotRecord]) -> list[SlotRecord]:
    return [slot for slot in slots if slot.message_version >= WRITTEN_VERSION]


def _believe_each_other(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    if not (theirs and ours):
        return not (theirs or ours)
    return theirs[0] in ours and ours[0] in theirs


def _why_not_believed(signs: bool, they_sign: bool) -> str:
    if not signs:
        return "the workers believe signed messages alone; set CELERIAC_SIGNING_KEY here as it is there"
    if not they_sign:
        return "messages are signed here, and the workers have no key; set CELERIAC_SIGNING_KEY there as it is here"
    return "CELERIAC_SIGNING_KEY has other keys here than the workers have; give each side the first key of the other"


def _who_holds(names: Sequence[str], slots: Iterable[SlotRecord]) -> str:
    """For each worker, those of the models that it holds; of many workers the first."""
    held = {slot.worker: [info.name for info in slot.models if info.name in names] for slot in slots}
    texts = (f"{worker.rpartition(':')[0]} holds {' and '.join(some) or 'none'}" for worker, some in held.items())
    return some_of(texts)


def output_name(infos: Sequence[ModelInfo]) -> str:
    """What a single output of a single model is called; empty where a function gives it, which has no name for it."""
    [first, *others] = infos
    is_named = not (others or first.postprocess or first.function) and len(first.outputs) == 1
    return first.outputs[0].name if is_named else ""


def output_row_bytes(infos: Iterable[ModelInfo]) -> float:
    """Bytes of one row of all outputs, without those whose shape or size nobody knows beforehand."""
    from tasks.protocol.codec import DTYPES  # with NumPy, which `celeriac status` does without

    total = 0.0
    for spec in (spec for info in infos if not info.postprocess for spec in info.outputs):
        dtype, sizes = DTYPES.get(spec.dtype), spec.shape[1:]
        if dtype is not None and None not in sizes:
            total += dtype.itemsize * math.prod(size or 0 for size in sizes)
    return total


def blank_outputs(infos: Sequence[ModelInfo]) -> dict[str, Any] | np.ndarray[Any, Any] | None:
    """Outputs of no rows, as a part has them; None where nobody knows their form beforehand."""
    from tasks.protocol.signature import blank_rows

    by_model: dict[str, Any] = {}
    for info in infos:
        sizes = [size for spec in info.outputs for size in spec.shape[1:]]
        if info.postprocess or info.function or not info.outputs or None in sizes:
            return None
        blank = blank_rows(info.outputs)
        by_model[info.name] = blank if len(blank) > 1 else next(iter(blank.values()))
    return by_model if len(by_model) > 1 else next(iter(by_model.values()))


def batch_seconds(infos: Sequence[ModelInfo]) -> float:
    """What the largest batch takes in all models together; 0 where that was not measured."""
    if not all(info.batch_seconds for info in infos):
        return 0.0
    return max(info.batch_rows for info in infos) * sum(info.batch_seconds / info.batch_rows for info in infos)


def have_no_model(infos: Sequence[ModelInfo]) -> bool:
    """Whether all of them are Python functions around nothing: rows that run in no batches, at an unknown speed."""
    return not any(info.outputs or info.function for info in infos)


def dependent(infos: Iterable[ModelInfo]) -> dict[str, str]:
    """The models whose rows are not independent, each with what they depend on, and whether that is meant."""
    texts = {}
    for info in infos:
        meant = "" if info.independent_rows else "independent_rows = false: "
        text = info.dependent or (meant and "nothing was found that a row's prediction depends on besides the row")
        if text:
            texts[info.name] = f"{meant}{text}"
    return texts


def warn(infos: Iterable[ModelInfo]) -> None:
    """Say in the log what a job must know of models whose rows are not independent; little where that is meant."""
    for info in infos:
        if info.dependent and info.independent_rows:
            logger.warning(
                "model %s: %s, so chunk sizes, retries and failed rows change it; if that is meant, say "
                "independent_rows = false in the manifest",
                info.name,
                info.dependent,
            )
        elif any(one.on == "chance" and not one.seeded for one in info.dependence or ()):
            logger.warning("model %s: its chance cannot be seeded, so no two runs are equal", info.name)


def fixed_chunk_rows(infos: Sequence[ModelInfo], chunk_rows: int | None) -> int | None:
    """Rows of every chunk where the manifest says that rows are not independent: those given, or of the largest batch.

    Elsewhere what was given.
    """
    if chunk_rows is not None or all(info.independent_rows for info in infos):
        return chunk_rows
    return max(info.batch_rows for info in infos)


def check_begins_chunk(infos: Sequence[ModelInfo], first_row: int, chunk_rows: int | None) -> None:
    """Refuse to continue a job inside a chunk, where rows are not independent.

    Raises:
        UsageError: `first_row` begins none.
    """
    fixed = fixed_chunk_rows(infos, chunk_rows)
    meant = [info.name for info in infos if not info.independent_rows]
    if meant and fixed and first_row % fixed:
        raise UsageError(
            f"model {meant[0]}: its rows are not independent, and its chunks of {fixed} rows are to be the same every "
            f"time; none begins with row {first_row}: begin with row 0, or with a multiple of {fixed}"
        )


def check_can_stream(infos: Iterable[ModelInfo]) -> None:
    """Refuse a stream, whose chunks are cut by time, where rows are not independent.

    Raises:
        UsageError: the manifest says so of a model.
    """
    if meant := [info.name for info in infos if not info.independent_rows]:
        raise UsageError(
            f"model {meant[0]}: its rows are not independent, and a stream's chunks are cut by time; submit the rows "
            "as a data set"
        )


def refs(infos: Iterable[ModelInfo]) -> list[ModelRef]:
    """What a chunk's message says of its models."""
    return [ModelRef(info.name, info.digest) for info in infos]


def usable(slots: Iterable[SlotRecord], models: Iterable[ModelRef]) -> list[SlotRecord]:
    """The slots that run all of these models, in these versions, each with the queue for chunks of them."""
    needed = set(models)
    runnable = []
    for slot in _understood(slots):
        older = next((one.queue for one in slot.older if needed <= set(one.models)), None)
        if needed <= set(refs(slot.models)):
            runnable.append(slot)
        elif older:
            runnable.append(msgspec.structs.replace(slot, queue=older))
    return runnable
