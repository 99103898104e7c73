"""A detached job's models --> the workers that hold them now, for another job that runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from producer.broker.shard_clients import ask_each
from producer.broker.shards import slots_on
from producer.scheduling import model_pinning
from producer.scheduling.job_options import JobOptions, JobSpec
from tasks.protocol.messages import ModelRef
from tasks.transport.worker_registry import read_slots
from worker_config.settings import Settings


class WorkersNow(NamedTuple):
    """What another job needs to run on them."""

    spec: JobSpec
    settings: Settings
    worker_timeout_seconds: float
    watch: Callable[[], None]


def find_workers(
    settings: Settings,
    models: Sequence[ModelRef],
    weight: float,
    worker_timeout_seconds: float,
    watch: Callable[[], None],
) -> WorkersNow | None:
    """Those that hold all of the models, in these versions; None where there are none."""
    seen = ask_each(str(settings.broker_url), read_slots)
    slots = model_pinning.usable([one for shard, its in seen.items() for one in slots_on(shard, its)], models)
    held = {(one.name, one.digest): one for slot in slots for one in slot.models}
    infos = [held[one.name, one.digest] for one in models if (one.name, one.digest) in held]
    if len(infos) < len(models):
        return None
    return WorkersNow(
        JobSpec(JobOptions(priority=weight), infos, slots, "redis"), settings, worker_timeout_seconds, watch
    )
