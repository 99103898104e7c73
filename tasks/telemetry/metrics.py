"""Tells Prometheus of a worker: what its children have done, their models, their memory.

memory shared with the children, the worker's run folder --when somebody asks--> families of metrics

The main process serves it from its start on, in threads of its own: they read alone, and ask neither Celery nor Redis.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.models import memory
from tasks.telemetry import status_file
from tasks.telemetry.counters import Counters
from tasks.transport import worker_registry
from worker_config.settings import Settings
from worker_config.telemetry.http_endpoint import HttpEndpoint, metric

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "celeriac_worker_"
# To look at the memory of a child takes milliseconds, in which it cannot change its own.
MEMORY_EACH_SECONDS = 10.0

_MEMORY = {
    "child_own_bytes": "Memory of the child alone.",
    "child_pss_bytes": "The same with its share of what it shares.",
}


def serve(settings: Settings, folder: Path, counters: Counters) -> None:
    """Serve a worker's metrics, if the settings have a port for them; raises ConfigError as `HttpEndpoint`.

    Its run `folder` has its status and the records of its slots.
    """
    if settings.metrics_port:
        HttpEndpoint(_Watched(folder, counters).collect, settings.metrics_host, settings.metrics_port)


class _Watched:
    """A worker, as it was last told of."""

    def __init__(self, folder: Path, counters: Counters) -> None:
        self._folder = folder
        self._counters = counters
        self._stages: dict[str, float] = {}
        self._memory: list[tuple[tuple[str], tuple[int, int]]] = []
        self._looked_at = -MEMORY_EACH_SECONDS

    def collect(self) -> Iterator[Metric]:
        """All metrics of the worker, as they are now."""
        totals, status = self._counters.totals(), status_file.read(self._folder)
        records = worker_registry.saved_slots(self._folder)
        for one in fields(totals.counts):
            count = getattr(totals.counts, one.name)
            yield metric("counter", PREFIX + one.name, one.metadata["text"], count)
        started = "Children that have held their models."
        yield metric("counter", PREFIX + "children_started", started, totals.children)
        for stage, seconds in totals.stages.items():
            # A child may be between two stages, and its last second be missing for an instant.
            self._stages[stage] = max(seconds, self._stages.get(stage, 0.0))
        spent = [((stage,), seconds) for stage, seconds in self._stages.items()]
        text = "What children spent their time on, up to now."
        yield metric("counter", PREFIX + "stage_seconds", text, spent, ("stage",))
        ready, staying = (status.ready, len(status.staying)) if status else (0, 0)
        children = [(("ready",), ready), (("not_ready",), staying - ready)]
        text = "Children, by whether they are ready."
        yield metric("gauge", PREFIX + "children", text, children, ("state",))
        text = "Chunks in the worker's queues that nobody has taken."
        yield metric("gauge", PREFIX + "chunks_waiting", text, status.waiting if status else 0)
        load = [
            ((str(one.slot), info.name, info.digest[:8]), info.load_seconds) for one in records for info in one.models
        ]
        text, labels = "What loading the model took.", ("slot", "model", "version")
        yield metric("gauge", PREFIX + "model_load_seconds", text, load, labels)
        if time.monotonic() - self._looked_at > MEMORY_EACH_SECONDS:
            self._looked_at = time.monotonic()
            sizes = memory.of_processes(one.pid for one in records)
            self._memory = [((str(one.slot),), sizes[one.pid]) for one in records if one.pid in sizes]
        for place, (name, text) in enumerate(_MEMORY.items()):
            numbers = [(slot, sizes[place]) for slot, sizes in self._memory]
            yield metric("gauge", PREFIX + name, text, numbers, ("slot",))
