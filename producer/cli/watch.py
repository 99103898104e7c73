"""`celeriac watch`: any job, live, to its end, whoever submitted it."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import click

from producer.broker import jobs, redis_backoff
from producer.broker.shard_clients import for_each, open_shards
from producer.cli import tables
from producer.cli.options import json_option, required_broker_option, timeout_option
from producer.cli.viewing import viewing
from producer.client import Client
from producer.job.progress_bar import ProgressReporter
from producer.outputs.fetch_to_output import NotWaitedForError
from producer.records.failures import failed_alone
from producer.records.job_store import JobState
from producer.records.progress import Pace, Progress, progress_of, rate_of
from producer.records.store_waits import WaitLine
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Viewer
from tasks.transport.connection import check_takes_writes, ping
from worker_config.broker import shard_urls
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    CeleriacError,
    JobCancelledError,
    RowsFailedError,
    UnknownJobError,
)

LOOK_SECONDS = 0.5
# Longer than a producer needs to notice that Redis is back.
REWRITTEN_SECONDS = 15.0


@click.command()
@click.argument("job")
@required_broker_option
@timeout_option
@json_option
def watch(job: str, broker_url: str, worker_timeout_seconds: float, as_json: bool) -> None:
    """Show how far JOB is until it ends; its name or the beginning of its id will do.

    A bar on a terminal, a line every few seconds elsewhere. The exit code tells how the job ended: 0 done, 4 failed,
    130 cancelled. Ctrl-C ends the watching alone. While Redis is away, it waits. A detached job is looked after
    meanwhile, unless it is signed and there is no key here.
    """
    with viewing() as viewer, open_shards(broker_url) as shards:
        state, record = jobs.read(shards, job, viewer)
    looks_after = record.plan is not None and not viewer.unchecked
    try:
        with closing(JobScreen(record)) as screen:
            while not _show_until_end(broker_url, worker_timeout_seconds, screen, None if looks_after else viewer):
                _wait(broker_url, looks_after=looks_after)
                screen.back_at = time.monotonic()
        state, record = screen.state, screen.record
    except KeyboardInterrupt:
        raise NotWaitedForError(f"interrupted: job {record.id} goes on without being watched") from None
    if as_json:
        click.echo(json.dumps(tables.job_values(state, record)))
    _end(state, record, quiet=as_json)


def _wait(broker_url: str, *, looks_after: bool) -> None:
    """Until Redis is back: every shard for who looks after a job; one of them for who only reads, and may not write."""
    if looks_after:
        for url in shard_urls(broker_url):
            redis_backoff.wait_for_redis(url, 0, threading.Event(), lambda: False, check_takes_writes)
    else:
        redis_backoff.wait_for_redis(broker_url, 0, threading.Event(), lambda: False, partial(for_each, do=ping))


def _show_until_end(url: str, worker_timeout_seconds: float, screen: JobScreen, viewer: Viewer | None) -> bool:
    """Show the job until it ends, and look after it unless there is a viewer; False when Redis is away."""
    try:
        if viewer is None:
            with Client(url, worker_timeout_seconds=worker_timeout_seconds) as watcher:
                watcher.attach(screen.record.id).wait(each=screen.show)
        else:
            _follow(url, screen, viewer)
    except BrokerRefusedError:
        raise
    except BrokerError as error:
        screen.say(f"{error}; the watch waits for it")
        return False
    return True


def _follow(url: str, screen: JobScreen, viewer: Viewer) -> None:
    with open_shards(url) as shards:
        while True:
            try:
                state, record = jobs.read_parts(shards, screen.record.id, viewer).whole()
                screen.show(state, record)
                screen.back_at = time.monotonic()  # a Redis may be replaced within a retry
                if state is not JobState.RUNNING:
                    return
            except UnknownJobError:
                # A Redis that has lost everything: the job's producer writes its record again.
                if time.monotonic() - screen.back_at > REWRITTEN_SECONDS:
                    raise
            time.sleep(LOOK_SECONDS)


def _end(state: JobState, record: JobRecord, quiet: bool) -> None:
    if state is JobState.DONE:
        if not quiet:
            failed = f"; {failed_alone(record.failed_models)}" if record.failed_models else ""
            differed = f"; {text}" if (text := tables.differed_of(record)) else ""
            click.echo(f"{_how_far(state, record)}{tables.failed_of(record)}{failed}{differed}{_next(record)}")
        return
    kind: type[CeleriacError] = JobCancelledError if state is JobState.CANCELLED else RowsFailedError
    raise kind(_how_far(state, record) + (f": {record.error}" if record.error else ""))


def _next(record: JobRecord) -> str:
    return f"; `{tables.how_to_fetch(record)}` writes them" if record.plan else ""


def _how_far(state: JobState, record: JobRecord) -> str:
    return f"job {record.id} {tables.in_state(state)}: {tables.predicted_of(record)} rows predicted"


class JobScreen:
    """What is on the screen, and the state behind it; `back_at` is when Redis came back, or had the job last."""

    state: JobState
    record: JobRecord
    back_at: float
    say: Callable[[str], None]
    close: Callable[[], None]

    def __init__(self, record: JobRecord) -> None:
        self.state, self.record, self.back_at = JobState.RUNNING, record, -math.inf
        self._reporter = ProgressReporter(record.rows, line=self._line)
        self.say, self.close = self._reporter.say, self._reporter.close
        self._pace = Pace()
        self._wait_line = WaitLine()
        self._said: set[Callable[[JobState, JobRecord], str]] = set()

    def show(self, state: JobState, record: JobRecord) -> None:
        """Show a new state."""
        self.state, self.record = state, record
        progress = progress_of(state, record)
        self._pace.add(progress.seconds, progress.done)
        self._reporter.show(progress, self._pace.rows_per_second)
        if state is not JobState.RUNNING:
            return
        for look in (_difference, tables.silence):
            if look not in self._said and (text := look(state, record)):
                self._said.add(look)
                self.say(f"job {record.id}: {text}")
        if text := self._wait_line.look(record.waits, time.monotonic()):
            self.say(f"job {record.id} {text}")

    def _line(self, progress: Progress, rows_per_second: float) -> str:
        if progress.state is not JobState.RUNNING:
            return ""
        rate = f", {rate_of(progress, rows_per_second)}" if rows_per_second and progress.rows is not None else ""
        return f"{_how_far(progress.state, self.record)}{rate}"


def _difference(_: JobState, record: JobRecord) -> str:
    return tables.differed_of(record)
