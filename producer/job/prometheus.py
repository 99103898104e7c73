"""Tells Prometheus of this process's jobs: their ledgers, their windows, and where the seconds went.

job --ledger, measures, window--> open jobs --Job is gone--> totals
collect() --totals and open jobs, added up--> families of metrics

A counter never goes back: a job that has ended stays in it. Only a few numbers are kept of it, and of jobs that nobody
holds any more nothing but their sums.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producer.job.runner import Runner
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.records.throughput import STORES, Throughput
from producer.scheduling.window import Window
from tasks.protocol.messages import STAGES
from worker_config.errors import JobCancelledError
from worker_config.telemetry.http_endpoint import HttpEndpoint, metric

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "celeriac_producer_"
# By metric and the value of its label.
Totals = defaultdict[tuple[str, str], float]


@dataclass(frozen=True, eq=False)
class _Numbers:
    """What a job is told by; nothing of its rows."""

    ledger: Ledger
    measures: Throughput
    window: Window


# Metric: what it counts, its label if it has one, and the label's values. The first ones are the ledger's.
_COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "rows": ("Rows read from data sets.", "", ("",)),
    "rows_predicted": ("Rows that have a prediction.", "", ("",)),
    "rows_failed": ("Rows that have a failure record instead.", "", ("",)),
    "rows_skipped": ("Rows left out on purpose, or never given to a model.", "", ("",)),
    "rows_written": ("Predicted rows handed over.", "", ("",)),
    "rows_resumed": ("Of all these, rows that earlier runs had done.", "", ("",)),
    "rows_nonfinite_inputs": ("Predicted rows of which a model took a NaN or an infinity.", "", ("",)),
    "rows_nonfinite_outputs": ("Predicted rows with a NaN or an infinity in their outputs.", "", ("",)),
    "chunks_sent": ("Chunks sent for the first time.", "", ("",)),
    "chunks_answered": ("Chunks whose first answer came.", "", ("",)),
    "chunks_sent_again": ("Times that a chunk was sent once more.", "", ("",)),
    "duplicates": ("Answers dropped since their chunk was answered.", "", ("",)),
    "duplicates_differing": ("Of these, answers with other outputs.", "", ("",)),
    "damaged": ("Rows, outputs and answers that were damaged on their way, or forged.", "", ("",)),
    "executors_differed": ("Executors that gave other outputs than their models.", "", ("",)),
    "jobs_ended": ("Jobs that have ended.", "state", tuple(s.value for s in JobState if s is not JobState.RUNNING)),
    "slot_seconds": ("What slots spent their time on for the jobs.", "stage", STAGES),
    "queue_seconds": ("Seconds of chunks under way, in which no child worked on them.", "", ("",)),
    "queued_chunks": ("Chunks of which these seconds are.", "", ("",)),
    "join_seconds": ("Seconds that jobs spent on joining answers.", "", ("",)),
    "put_bytes": ("Payloads of rows, by what carried them.", "store", tuple(STORES.values())),
    "taken_bytes": ("Payloads of outputs, by what carried them.", "store", tuple(STORES.values())),
}

_lock = threading.Lock()
_jobs: list[_Numbers] = []
# Filled by Python's collector of garbage, at any moment and in any thread: so it waits for no lock.
_gone: deque[_Numbers] = deque()
_totals: Totals = defaultdict(float)


@contextmanager
def serve_metrics(port: int, host: str = "127.0.0.1", *, linger_seconds: float = 0.0) -> Iterator[None]:
    """Serve the metrics of all jobs of this process at `http://HOST:PORT/metrics`, as long as the block lasts.

    Args:
        port: 1 to 65535.
        host: the address to listen at; "0.0.0.0" for all.
        linger_seconds: if somebody has asked before, wait for so long at the end that the last numbers are asked for.

    Raises:
        ConfigError: prometheus_client is not installed, or the port cannot be had.
    """
    endpoint = HttpEndpoint(collect, host, port)
    try:
        yield
    except (KeyboardInterrupt, JobCancelledError):
        linger_seconds = 0.0
        raise
    finally:
        try:
            if linger_seconds:
                endpoint.wait_for_scrape(linger_seconds)
        finally:
            endpoint.close()


def follow(run: Runner) -> None:
    """Tell of a run of a job from now on."""
    numbers = _Numbers(run.context.ledger, run.context.channel.measures, run.window)
    with _lock:
        _sum_up()
        _jobs.append(numbers)
    weakref.finalize(run, _gone.append, numbers).atexit = False


def collect() -> Iterator[Metric]:
    """All metrics of this process, as they are now."""
    with _lock:
        _sum_up()
        jobs, totals = list(_jobs), _totals.copy()
        for one in jobs:
            _add(totals, one)
    for name, (text, label, values) in _COUNTERS.items():
        if label:
            numbers = [((value,), totals[name, value]) for value in values]
            yield metric("counter", PREFIX + name, text, numbers, (label,))
        else:
            yield metric("counter", PREFIX + name, text, totals[name, ""])
    windows = [one.window for one in jobs if not one.measures.ended]
    window_bytes = sum(one.bytes_in_flight for one in windows)
    for name, text, number in (
        ("jobs", "Jobs that run.", len(windows)),
        ("slots", "Slots that can run them, counted for each job.", sum(one.slots for one in windows)),
        ("window_chunks", "Chunks sent and not answered.", sum(map(len, windows))),
        ("window_bytes", "Their payloads, with the outputs that they will have.", window_bytes),
    ):
        yield metric("gauge", PREFIX + name, text, number)


def _sum_up() -> None:
    """Keep no more than the sums of jobs that nobody holds any more."""
    while _gone:
        numbers = _gone.popleft()
        _jobs.remove(numbers)
        _add(_totals, numbers)


def _add(totals: Totals, numbers: _Numbers) -> None:
    for name, count in numbers.ledger.as_dict().items():
        totals[f"rows_{name}" if f"rows_{name}" in _COUNTERS else name, ""] += count
    measures = numbers.measures
    for name in ("queue_seconds", "queued_chunks", "join_seconds", "executors_differed"):
        totals[name, ""] += getattr(measures, name)
    if measures.ended:
        totals["jobs_ended", measures.ended] += 1
    for name, amounts in (
        ("slot_seconds", measures.stages),
        ("put_bytes", measures.put_bytes),
        ("taken_bytes", measures.taken_bytes),
    ):
        for value, amount in dict(amounts).items():
            totals[name, value] += amount
