"""Tells Prometheus of a worker: what its children have done, their models, their memory.

memory shared with the children, the worker's run folder --when somebody asks--> families of metrics

The main process serves it from its start on, in threads of its own: they read alone, and ask neither Celery nor Redis.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.models import memory
from tasks.protocol.records import SlotRecord
from tasks.telemetry import status_file
from tasks.telemetry.counters import Counters, Counts
from tasks.transport import worker_registry
from worker_config.settings import Settings
from worker_config.telemetry.http_endpoint import HttpEndpoint

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "celeriac_worker_"
# To look at the memory of a child takes milliseconds, in which it cannot change its own.
MEMORY_EACH_SECONDS = 10.0
# Children beyond it are told without.
MEMORY_SECONDS = 0.3

# Counts by their names.
_TOLD = {
    "chunks": "Chunks answered.",
    "rows": "Rows of the chunks answered.",
    "rows_failed": "Rows without an output, as answers told.",
    "rows_nonfinite_inputs": "Rows with an output of which a model took a NaN or an infinity.",
    "rows_nonfinite_outputs": "Rows with an output that holds a NaN or an infinity.",
    "chunks_again": "Chunks answered that had been delivered before.",
    "batches": "Calls of models that gave outputs.",
    "batch_rows": "Rows in these calls.",
    "batch_places": "Rows that these calls had room for.",
}


def serve(settings: Settings, folder: Path, counters: Counters) -> None:
    """Serve a worker's metrics, if the settings have a port for them.

    Args:
        folder: the worker's run folder, with its status and the records of its slots.
        tally: of its children.

    Raises:
        ConfigError: prometheus_client is not installed, or the port cannot be had.
    """
    if settings.metrics_port:
        HttpEndpoint(_Watched(folder, counters).collect, settings.metrics_host, settings.metrics_port)


class _Watched:
    """A worker, as it was last told of."""

    def __init__(self, folder: Path, counters: Counters) -> None:
        self._folder = folder
        self._counters = counters
        self._stages: dict[str, float] = {}
        self._memory: dict[int, tuple[int, int]] = {}
        self._looked_at = -MEMORY_EACH_SECONDS

    def collect(self) -> Iterator[Metric]:
        """All metrics of the worker, as they are now."""
        records = worker_registry.saved_slots(self._folder)
        yield from self._totals()
        yield from _state(status_file.read(self._folder))
        yield from _models(records)
        yield from self._memory_of(records)

    def _totals(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily

        totals = self._counters.totals()
        counts: Counts = totals.counts
        for name, text in _TOLD.items():
            yield CounterMetricFamily(PREFIX + name, text, getattr(counts, name))
        yield CounterMetricFamily(PREFIX + "children_started", "Children that have held their models.", totals.children)
        stages = CounterMetricFamily(
            PREFIX + "stage_seconds", "What children spent their time on, up to now.", labels=["stage"]
        )
        for stage, seconds in totals.stages.items():
            # A child may be between two stages, and its last second be missing for an instant.
            self._stages[stage] = max(seconds, self._stages.get(stage, 0.0))
            stages.add_metric([stage], self._stages[stage])
        yield stages

    def _memory_of(self, records: Iterable[SlotRecord]) -> Iterator[Metric]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        now = time.monotonic()
        if now - self._looked_at > MEMORY_EACH_SECONDS:
            self._looked_at = now
            self._memory = dict(_memory_by_slot(records))
        own = GaugeMetricFamily(PREFIX + "child_own_bytes", "Memory of the child alone.", labels=["slot"])
        pss = GaugeMetricFamily(
            PREFIX + "child_pss_bytes", "The same with its share of what it shares.", labels=["slot"]
        )
        for slot, (own_bytes, pss_bytes) in self._memory.items():
            own.add_metric([str(slot)], own_bytes)
            pss.add_metric([str(slot)], pss_bytes)
        yield own
        yield pss


def _state(status: status_file.WorkerStatus | None) -> Iterator[Metric]:
    from prometheus_client.metrics_core import GaugeMetricFamily

    staying = [one for one in status.children if not one.leaving] if status else []
    ready = sum(one.ready for one in staying)
    children = GaugeMetricFamily(PREFIX + "children", "Children, by whether they are ready.", labels=["state"])
    children.add_metric(["ready"], ready)
    children.add_metric(["not_ready"], len(staying) - ready)
    yield children
    waiting = status.waiting if status else 0
    yield GaugeMetricFamily(PREFIX + "chunks_waiting", "Chunks in the worker's queues that nobody has taken.", waiting)


def _models(records: Iterable[SlotRecord]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import GaugeMetricFamily

    load = GaugeMetricFamily(
        PREFIX + "model_load_seconds", "What loading the model took.", labels=["slot", "model", "version"]
    )
    for record in records:
        for info in record.models:
            load.add_metric([str(record.slot), info.name, info.digest[:8]], info.load_seconds)
    yield load


def _memory_by_slot(records: Iterable[SlotRecord]) -> Iterator[tuple[int, tuple[int, int]]]:
    started = time.monotonic()
    for record in records:
        if time.monotonic() - started < MEMORY_SECONDS:
            try:
                yield record.slot, memory.of_process(record.pid)
            except ProcessLookupError:
                continue
