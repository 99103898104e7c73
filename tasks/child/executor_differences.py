"""Executors that differ from the models' own graphs: the online checks of a chunk, begun, asked and reported.

chunk --begin--> each model's check --runs--> by_executor: which outputs an executor made that is under check
                                           --> differed: what came to light; from then on the own graph runs
answer --note--> the notes of the models, in the records of all slots of the worker, which `celeriac models` shows

The check itself is `tasks/executors/online_check.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import redis

from tasks.child.loaded_model import LoadedModel
from tasks.executors.online_check import OnlineCheck
from tasks.protocol.messages import ChunkMessage, Differed
from tasks.transport.run_folder import draining_path
from tasks.transport.worker_registry import register_slots, save_slot, saved_slots

logger = logging.getLogger(__name__)


def begin(models: Mapping[str, LoadedModel], message: ChunkMessage, own_graph: Collection[str]) -> None:
    """A chunk begins, in which these models are run by their own graphs."""
    for name, model in models.items():
        for _, check in _checks(model):
            check.begin(message.job, message.index, by_own_graph=name in own_graph)


def by_executor(models: Mapping[str, LoadedModel]) -> list[str]:
    """The models of which an executor that is under check runs something."""
    return [name for name, model in models.items() if any(not check.by_own_graph for _, check in _checks(model))]


def differed(models: Mapping[str, LoadedModel], message: ChunkMessage) -> list[Differed]:
    """What came to light in the chunk; those models are marked, and run by their own graphs from now on."""
    seen: dict[str, Differed] = {}
    for name, model in models.items():
        for member, check in _checks(model):
            if check.found is None:
                continue
            found = Differed(name, check.executor, check.found.row, check.found.text)
            where = "" if member == name else f", in its member {member}"
            logger.warning("job %s: model %s%s: %s", message.job, name, where, found)
            if check.notes is not None:
                check.notes.note_difference(found.note(message.job))
            seen.setdefault(name, found)
        if name in seen:
            for _, check in _checks(model):  # of a chain, all members: a job knows the whole alone
                check.by_own_graph, check.found = True, None
    return list(seen.values())


def _checks(model: LoadedModel) -> list[tuple[str, OnlineCheck]]:
    """The checks of a model, or of the members of a chain, with their names."""
    return [(link.info.name, link.runner.check) for link in model.links if link.runner.check is not None]


def note(client: redis.Redis, folder: Path | None, job: str, differed: Sequence[Differed]) -> None:
    """Let the records of all slots of the worker with this run folder say what a job has brought to light."""
    notes = {one.model: one.note(job) for one in differed}
    changed = []
    for slot in saved_slots(folder) if folder else ():
        infos = [msgspec.structs.replace(info, note=notes.get(info.name, info.note)) for info in slot.models]
        if infos != slot.models:
            changed.append(msgspec.structs.replace(slot, models=infos))
    if folder and changed:
        for slot in changed:
            save_slot(folder, slot)
        if not draining_path(folder).exists():
            register_slots(client, changed)
