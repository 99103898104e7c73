"""Executors that differ from the models' own graphs: the online checks of a chunk, begun, asked and reported.

chunk --begin--> each model's check --runs--> by_executor: which outputs an executor made that is under check
                                           --> differed: what came to light; from then on the own graph runs
answer --report--> the notes of the models, in the records of all slots of the worker, which `celeriac models` shows

The check itself is `tasks/executors/online_check.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import redis

from tasks.child.loaded_model import LoadedModel
from tasks.protocol.messages import Answer, ChunkMessage, Differed
from tasks.transport.run_folder import draining_path
from tasks.transport.worker_registry import register_slots, save_slot, saved_slots

logger = logging.getLogger(__name__)


def begin(models: Mapping[str, LoadedModel], message: ChunkMessage, own_graph: Collection[str]) -> None:
    """A chunk begins, in which these models are run by their own graphs."""
    for name, model in models.items():
        for link in model.links:
            if link.check is not None:
                link.check.begin(message.job, message.index, by_own_graph=name in own_graph)


def by_executor(models: Mapping[str, LoadedModel]) -> list[str]:
    """The models of which an executor that is under check runs something."""
    checks = {name: [link.check for link in model.links] for name, model in models.items()}
    return [name for name, some in checks.items() if any(check and not check.by_own_graph for check in some)]


def differed(models: Mapping[str, LoadedModel], message: ChunkMessage) -> list[Differed]:
    """What came to light in the chunk; those models are marked, and run by their own graphs from now on."""
    seen = []
    for name, model in models.items():
        for link in model.links:
            if link.check is None or link.check.found is None:
                continue
            found = Differed(name, link.check.executor, link.check.found.row, link.check.found.text)
            member = "" if link.info.name == name else f", in its member {link.info.name}"
            logger.warning("job %s: model %s%s: %s", message.job, name, member, found)
            if link.remember_difference is not None:
                link.remember_difference(found.note(message.job))
            link.check.by_own_graph = True
            seen.append(found)
    for one in seen:  # of a chain, all members: a job knows the whole alone
        for link in models[one.model].links:
            if link.check is not None:
                link.check.by_own_graph, link.check.found = True, None
    return list({one.model: one for one in reversed(seen)}.values())


def report(client: redis.Redis, folder: Path | None, answer: Answer) -> None:
    """Let the records of all slots of the worker with this run folder say what an answer has brought to light."""
    notes = {one.model: one.note(answer.job) for one in answer.differed}
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
