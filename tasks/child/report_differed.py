"""Says in the records of a worker's slots that an executor has differed, so that `celeriac models` shows it.

answer --what it brought to light--> notes of the models, in Redis and in the word that slots have left
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import redis

from tasks.protocol.messages import Answer
from tasks.transport.run_folder import draining_path
from tasks.transport.worker_registry import register_slots, save_slot, saved_slots


def tell(client: redis.Redis, folder: Path | None, answer: Answer) -> None:
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
