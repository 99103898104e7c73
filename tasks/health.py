"""A program of its own: in one line and an exit code it says whether the workers beside it are well.

    status file of each worker (`tasks/telemetry/status_file.py`) --judge--> exit code 0 or 1, one line

`python -m tasks.health` is meant for a container's healthcheck. It asks nobody, neither Celery nor Redis, and imports
nothing large, so it answers within a fraction of a second also where the worker does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.telemetry.status_file import ChildStatus, WorkerStatus, mark_of, read_all
from worker_config.broker import check_broker_url, shard_urls
from worker_config.errors import CeleriacError
from worker_config.retry_policy import OVER_LIMIT_SECONDS, SILENT_SECONDS
from worker_config.settings import Settings


@dataclass(frozen=True)
class Limits:
    """What is borne.

    Attributes:
        start_seconds: a worker may take for a step on its way to its first children, such as one model's snapshot.
        child_seconds: a child may be without its models, or missing.
        idle_seconds: chunks may wait while no child has one.
        ready_share: of the children must be ready, or have been not long ago.
    """

    start_seconds: float = 600.0
    child_seconds: float = 120.0
    idle_seconds: float = 60.0
    ready_share: float = 1.0


def main(words: Sequence[str] | None = None) -> int:
    """Print what is wrong, or how things are; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.health", description="Are the workers on this machine well?")
    parser.add_argument("--broker", help="the workers' broker; else CELERIAC_BROKER_URL")
    parser.add_argument(
        "-n",
        "--node",
        help="this worker alone, such as celery@HOST; else all of the broker",
    )
    default = Limits()
    for name, what in (
        ("start", "a worker that starts may do the same thing, such as making a snapshot; with 0 it is not healthy"),
        ("child", "a child may be without its models, or missing"),
        ("idle", "chunks may wait while no child has one"),
    ):
        seconds = getattr(default, f"{name}_seconds")
        help_text = f"{what} (default {seconds:g})"
        parser.add_argument(f"--{name}-seconds", type=float, default=seconds, metavar="N", help=help_text)
    parser.add_argument("--ready-share", type=float, default=1.0, metavar="N", help="of the children (default 1)")
    options = parser.parse_args(words)
    limits = Limits(options.start_seconds, options.child_seconds, options.idle_seconds, options.ready_share)
    try:
        url = check_broker_url(options.broker, "--broker") if options.broker else Settings.from_env().broker_url
    except CeleriacError as error:
        print(f"celeriac: {error}", file=sys.stderr)
        return int(error.exit_code)
    brokers = [mark_of(one) for one in shard_urls(url)] if url else []
    workers = [one for one in read_all() if url is None or one.broker in brokers]
    workers = [one for one in workers if options.node in (None, one.node)]
    if not workers:
        where = f"no worker {options.node}" if options.node else "no worker"
        print(f"unhealthy: {where} of this broker runs here, or it has just begun to start")
        return 1
    now = time.monotonic()
    judged = [(one, judge(one, now, limits)) for one in workers]
    wrong = [f"{one.node}: {why}" for one, why in judged if why]
    print(
        "; ".join([f"unhealthy: {text}" for text in wrong] or [f"{one.node}: {describe(one, now)}" for one in workers])
    )
    return 1 if wrong else 0


def judge(worker: WorkerStatus, now: float, limits: Limits) -> str:
    """What is wrong with a worker; empty if nothing is."""
    if worker.state == "starting":
        # One that goes on from model to model is not stuck.
        if now - max(worker.since, worker.doing_since) < limits.start_seconds:
            return ""
        return f"{_starts(worker, now)}, its children are not ready yet"
    if now - worker.written_at > SILENT_SECONDS:
        return f"the main process (pid {worker.pid}) has not answered for {now - worker.written_at:.0f} s"
    if worker.redis_lost_at is not None:
        # It waits, and replaces no child meanwhile; no restart would help.
        return ""
    late = [child for child in worker.staying if not child.ready and now - child.since >= limits.child_seconds]
    if len(worker.staying) - len(late) < limits.ready_share * len(worker.staying):
        names = ", ".join(f"{_name(child)} for {now - child.since:.0f} s" for child in late)
        return f"not ready: {names}"
    for child in worker.children:
        seconds = now - child.chunk_since
        if child.chunk and seconds > worker.chunk_limit + OVER_LIMIT_SECONDS:
            return f"{_name(child)} runs {child.chunk} for {seconds:.0f} s, {worker.chunk_limit:.0f} are allowed"
    return _stalled(worker, now, limits)


def describe(worker: WorkerStatus, now: float) -> str:
    """A worker with which nothing is wrong."""
    if worker.state == "starting":
        return _starts(worker, now)
    words = [f"{worker.ready} of {len(worker.staying)} children are ready", f"{worker.chunks:,} chunks done"]
    if worker.waiting:
        words.append(f"{worker.waiting:,} wait")
    if worker.redis_lost_at is not None:
        words.append("Redis is out of reach")
    if worker.state == "draining":
        words.append(f"draining, {worker.running} chunks run")
    return ", ".join(words)


def _stalled(worker: WorkerStatus, now: float, limits: Limits) -> str:
    """Whether chunks wait and none is answered."""
    if worker.waiting_since is None or worker.state != "serving":
        return ""
    for_seconds = now - max(worker.waiting_since, worker.finished_at or 0.0, worker.since)
    if for_seconds < (worker.chunk_limit + OVER_LIMIT_SECONDS if worker.running else limits.idle_seconds):
        return ""
    return f"{worker.waiting} chunks wait, and none was answered for {for_seconds:.0f} s"


def _starts(worker: WorkerStatus, now: float) -> str:
    """What it does, and for how long it has been starting."""
    doing = f", {worker.doing}, for {now - worker.doing_since:.0f} s" if worker.doing else ""
    return f"starts for {now - worker.since:.0f} s{doing}"


def _name(child: ChildStatus) -> str:
    return f"child {child.slot} (pid {child.pid})" if child.pid else f"child {child.slot}"


if __name__ == "__main__":
    sys.exit(main())
