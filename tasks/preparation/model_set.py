"""The model set of a worker as its main process knows it: what it serves now, and what it still can.

A job is pinned to the versions that it began with. After a change children go on serving those, from their snapshots,
until no job that runs is pinned to them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import redis
from msgspec.structs import replace

from tasks.preparation.serving_spec import ServingSpec, describe
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import ModelRef, from_json
from tasks.protocol.records import OlderSet, SlotRecord
from tasks.protocol.seal import Sealer, record_context
from tasks.transport.run_folder import model_path, queue_path
from worker_config.broker import queue_of
from worker_config.errors import MessageError, SealError
from worker_config.files import write_whole
from worker_config.retry_policy import REPLACED_GRACE_SECONDS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """The models between two changes; `replaced_at` is of `time.monotonic`."""

    served: dict[str, ServingSpec]
    held: list[int]
    replaced_at: float = 0.0

    @property
    def queue(self) -> str:
        """Where chunks for these models come from."""
        return queue_of({name: one.digest for name, one in self.served.items()})

    @property
    def refs(self) -> set[ModelRef]:
        """The models, as a job is pinned to them."""
        return {ModelRef(one.name, one.digest) for one in self.served.values()}


@dataclass
class ModelSet:
    """The generations of a worker's models, and the folder in which children find word of them."""

    folder: Path
    current: Generation
    older: list[Generation] = field(default_factory=list)

    def publish(self) -> None:
        """Tell children, those that there are and those to come, how to load what is served now."""
        for served in self.current.served.values():
            path = model_path(self.folder, ModelRef(served.name, served.digest))
            write_whole(path, msgspec.json.encode(served))
        write_whole(queue_path(self.folder), self.current.queue.encode())

    def replace(self, served: dict[str, ServingSpec], held: list[int]) -> None:
        """Serve these from now on, and the others as long as they are wanted."""
        self.older.append(dataclasses.replace(self.current, replaced_at=time.monotonic()))
        self.current = Generation(served, held)
        self.publish()

    @property
    def queues(self) -> list[str]:
        """All queues from which chunks may come, each once."""
        return list(dict.fromkeys([self.current.queue, *(one.queue for one in self.older)]))

    def older_sets(self) -> list[OlderSet]:
        """What children still serve, besides the current models."""
        return [OlderSet(one.queue, sorted(one.refs, key=str)) for one in self.older]

    def updated(self, slot: SlotRecord) -> SlotRecord:
        """A child's record, as it should be now: what it tells of itself is of the time when it was forked."""
        older = self.older_sets()
        if slot.queue != self.current.queue:
            models = [info for one in self.current.served.values() if (info := describe(one))]
            slot = replace(slot, queue=self.current.queue, models=models, ready_at=time.time())
        return slot if slot.older == older else replace(slot, older=older)

    def forget(self, pinned: Collection[str], close: Callable[[int], None]) -> list[str]:
        """Give up older generations that no running job is pinned to; return queues that need no more be consumed."""
        now = time.monotonic()
        kept: list[Generation] = []
        gone: list[Generation] = []
        for generation in self.older:
            wanted = any(str(ref) in pinned for ref in generation.refs - self.current.refs)
            (kept if wanted or now - generation.replaced_at < REPLACED_GRACE_SECONDS else gone).append(generation)
        self.older = kept
        alive = set().union(self.current.refs, *(generation.refs for generation in kept))
        for generation in gone:
            for descriptor in generation.held:
                close(descriptor)
            for ref in generation.refs - alive:
                model_path(self.folder, ref).unlink(missing_ok=True)
        consumed = {self.current.queue, *(generation.queue for generation in kept)}
        return [generation.queue for generation in gone if generation.queue not in consumed]


def pinned_models(client: redis.Redis, sealer: Sealer) -> set[str]:
    """The models of all jobs that run, as NAME@DIGEST with eight characters of the digest."""
    found: set[str] = set()
    for job_id in map(bytes.decode, cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))):
        state, sealed = cast("list[bytes | None]", client.hmget(keys.job(job_id), JobField.STATE, JobField.RECORD))
        if state != b"running" or not sealed:
            continue
        try:
            found.update(from_json(sealer.open(record_context(job_id), sealed), _Pins).models)
        except (SealError, MessageError) as error:
            logger.warning("job %s: which versions of models it wants is not known: %s", job_id, error)
    return found


class _Pins(msgspec.Struct):
    models: list[str]
