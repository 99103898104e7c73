"""This module is `celeriac watch`: any job, live, to its end, whoever submitted it."""

from __future__ import annotations

import json
import math
import sys
import threading
import time

import click
from tqdm import tqdm

from producer.cli import tables
from producer.cli.fetch import NotWaitedForError
from producer.cli.options import broker_option, json_option, needed, timeout_option
from producer.cli.predict_to_sink import progress_bar
from producer.client import Client
from producer.job.progress_bar import Pace
from producer.records import job_store
from producer.records.failures import told
from producer.records.job_store import JobState
from producer.scheduling import redis_backoff
from tasks.protocol.records import JobRecord
from tasks.transport.connection import broker_errors, connect
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    CeleriacError,
    JobCancelledError,
    RowsFailedError,
    UnknownJobError,
)

LOOK_SECONDS = 0.5
# Where there is no bar.
LINE_SECONDS = 5.0
# Longer than a producer needs to notice that Redis is back.
TOLD_AGAIN_SECONDS = 15.0


@click.command()
@click.argument("job")
@broker_option
@timeout_option
@json_option
def watch(job: str, broker_url: str | None, worker_timeout_seconds: float, as_json: bool) -> None:
    """Show how far JOB is until it ends; the first characters of its id are enough.

    A bar on a terminal, a line every few seconds elsewhere. The exit code tells how the job ended: 0 done, 4 failed,
    130 cancelled. Ctrl-C ends the watching alone. While Redis is away, it waits.
    """
    url = needed(broker_url)
    with broker_errors(url), connect(url) as client:
        state, record = job_store.read(client, job)
    try:
        with _Shown(record) as shown:
            while not _followed(url, worker_timeout_seconds, shown):
                redis_backoff.wait_for_redis(url, 0, threading.Event(), lambda: False)
                shown.back_at = time.monotonic()
        state, record = shown.state, shown.record
    except KeyboardInterrupt:
        raise NotWaitedForError(f"interrupted: job {record.id} goes on without being watched") from None
    if as_json:
        click.echo(json.dumps(tables.job_values(state, record)))
    _tell_end(state, record, quiet=as_json)


def _followed(url: str, worker_timeout_seconds: float, shown: _Shown) -> bool:
    """Show the job until it ends; False when Redis is away."""
    try:
        if shown.record.plan:
            with Client(url, worker_timeout_seconds=worker_timeout_seconds) as watcher:
                watcher.attach(shown.record.id).wait(each=shown.show)
        else:
            _follow(url, shown)
    except BrokerRefusedError:
        raise
    except BrokerError as error:
        shown.say(f"{error}; the watch waits for it")
        return False
    return True


def _follow(url: str, shown: _Shown) -> None:
    with broker_errors(url), connect(url) as client:
        while True:
            try:
                state, record = job_store.read_known(client, shown.record.id)
                shown.show(state, record)
                if state is not JobState.RUNNING:
                    return
            except UnknownJobError:
                # A Redis that has lost everything: the job's producer tells it again.
                if time.monotonic() - shown.back_at > TOLD_AGAIN_SECONDS:
                    raise
            time.sleep(LOOK_SECONDS)


def _tell_end(state: JobState, record: JobRecord, quiet: bool) -> None:
    if state is JobState.DONE:
        if not quiet:
            failed = f"; {told(record.failed_models)}" if record.failed_models else ""
            differed = f"; {told_so}" if (told_so := tables.differed_of(record)) else ""
            click.echo(f"{_how_far(state, record)}{tables.failed_of(record)}{failed}{differed}{_next(record)}")
        return
    kind: type[CeleriacError] = JobCancelledError if state is JobState.CANCELLED else RowsFailedError
    raise kind(_how_far(state, record) + (f": {record.error}" if record.error else ""))


def _next(record: JobRecord) -> str:
    return f"; `celeriac fetch {record.id} -o OUTPUT` writes them" if record.plan else ""


def _how_far(state: JobState, record: JobRecord) -> str:
    return f"job {record.id} is {state}: {tables.predicted_of(record)} rows predicted"


class _Shown:
    """What is on the screen, and the state behind it; `back_at` is when Redis came back."""

    def __init__(self, record: JobRecord) -> None:
        self.state, self.record, self.back_at = JobState.RUNNING, record, -math.inf
        self._bar = progress_bar(record.rows, quiet=False)
        self._began, self._pace = time.monotonic(), Pace()
        self._on_terminal = sys.stderr.isatty()
        self._line_at = -LINE_SECONDS
        self._told_of_silence = self._told_of_difference = False

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, state: JobState, record: JobRecord) -> None:
        """Take in a new state."""
        self.state, self.record = state, record
        self._bar.total = record.rows
        self._bar.n = sum(record.ledger.get(name, 0) for name in ("predicted", "failed", "skipped"))
        self._pace.add(time.monotonic() - self._began, self._bar.n)
        self._bar.rows_per_second = self._pace.rows_per_second
        self._bar.refresh()
        if state is not JobState.RUNNING:
            return
        if not self._on_terminal and time.monotonic() - self._line_at >= LINE_SECONDS:
            self._line_at = time.monotonic()
            self.say(f"{_how_far(state, record)}{self._time_left()}")
        if (differed := tables.differed_of(record)) and not self._told_of_difference:
            self._told_of_difference = True
            self.say(f"job {record.id}: {differed}")
        if (silence := tables.silence(state, record)) and not self._told_of_silence:
            self._told_of_silence = True
            self.say(f"job {record.id}: {silence}")

    def _time_left(self) -> str:
        rate = self._pace.rows_per_second
        if not rate or self._bar.total is None:
            return ""
        return f", {rate:,.0f} rows/s, {tqdm.format_interval((self._bar.total - self._bar.n) / rate)} left"

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)
