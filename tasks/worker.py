"""This module is a worker's main process: checks before the fork, waits for its children, keeps their record alive.

worker_init       manifest, digests, Redis, `import tensorflow`; ends the worker if one of them fails
before each fork  refuses if TensorFlow ran an operation here, or if a child could not load its models
after the fork    waits until every child holds its models, before any chunk is taken
every 5 seconds   tells Redis that the worker lives
on a lost chunk   answers for the child that died with it
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import redis
from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool

from tasks import guard, slots, spool
from tasks.answers import push_answer
from tasks.connection import connect, ping
from tasks.digest import entry_digest
from tasks.messages import ChunkMessage, Failure, FailureRecord, SlotRecord, from_plain
from tasks.reports import Reports
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    CeleriacError,
    ConfigError,
    ModelLoadError,
    WorkerStartError,
)
from worker_config.manifest import ModelEntry, read_manifest
from worker_config.settings import Settings

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Main:
    """What the main process has read and made before its first fork; children inherit it."""

    pid: int
    worker: str
    broker_url: str
    client: redis.Redis
    reports: Reports
    settings: Settings
    spool_mark: str
    entries: dict[str, ModelEntry]
    digests: dict[str, str]
    threads: int
    concurrency: int


_main: Main | None = None


def prepare_worker(app: Any, settings: Settings) -> None:
    """Connect what a worker of `app` does; in other commands this costs nothing."""

    def on_worker_init(sender: Any, **_: object) -> None:
        global _main
        try:
            _main = _prepare(app, settings, sender)
        except CeleriacError as error:
            end(error)
        except Exception as error:
            # Celery would swallow it and start a worker without models.
            end(WorkerStartError(f"the worker cannot start: {type(error).__name__}: {error}"))

    signals.worker_init.connect(on_worker_init, weak=False)
    signals.worker_before_create_process.connect(_before_fork, weak=False)
    signals.worker_process_init.connect(_after_fork, weak=False)
    signals.task_failure.connect(_on_task_failure, weak=False)
    app.steps["worker"].add(Children)


def end(error: CeleriacError) -> NoReturn:
    """Say why on stderr and end the worker; Celery logs and swallows any exception but SystemExit."""
    # Celery has redirected sys.stderr to its log by now.
    print(f"celeriac: {error}", file=sys.__stderr__, flush=True)
    raise SystemExit(int(error.exit_code))


def _prepare(app: Any, settings: Settings, controller: Any) -> Main:
    if not settings.broker_url and not os.environ.get("CELERY_BROKER_URL"):
        raise ConfigError("no broker; set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0")
    pool = controller.pool_cls
    if not (pool == "prefork" or (isinstance(pool, type) and issubclass(pool, TaskPool))):
        raise ConfigError("models run in prefork children alone; leave out -P/--pool")
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError("TensorFlow is not installed; a worker needs it: pip install 'celeriac[worker]'")
    entries = read_manifest(settings.models_path)
    digests = {name: _digest(name, entry) for name, entry in entries.items()}
    broker_url = app.conf.broker_url
    _wait_for_redis(broker_url)
    cores = len(os.sched_getaffinity(0))
    # Celery resolves "auto" only after this.
    concurrency = controller.concurrency if isinstance(controller.concurrency, int) else cores
    threads = settings.intra_op_threads or max(1, cores // concurrency)
    _import_tensorflow(threads)
    return Main(
        pid=os.getpid(),
        worker=f"{controller.hostname}:{secrets.token_hex(4)}",
        broker_url=broker_url,
        # One short try: the main process feeds its children and must not wait.
        client=connect(broker_url, retries=0, timeout_seconds=2.0),
        reports=Reports(),
        settings=settings,
        spool_mark=spool.make_mark(settings.spool) if settings.spool else "",
        entries=entries,
        digests=digests,
        threads=threads,
        concurrency=concurrency,
    )


def _digest(name: str, entry: ModelEntry) -> str:
    try:
        return entry_digest(entry)
    except OSError as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None


def _wait_for_redis(broker_url: str) -> None:
    """Containers start in any order; a refused password will not get better by waiting."""
    while True:
        try:
            return ping(broker_url)
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            print(f"celeriac: {error} Trying again.", file=sys.stderr, flush=True)
            time.sleep(2)


def _import_tensorflow(threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import keras  # noqa: F401
    import tensorflow  # noqa: F401


def _before_fork(**_: object) -> None:
    if _main is None:
        return
    try:
        guard.check_not_initialized()
        _main.reports.read()
        _main.reports.check_silent_deaths(_main.concurrency)
    except CeleriacError as error:
        end(error)
    _main.reports.forks += 1


def _after_fork(**_: object) -> None:
    if _main is not None:
        from tasks import child

        child.start(
            _main.worker,
            _main.entries,
            _main.digests,
            threads=_main.threads,
            broker_url=_main.broker_url,
            job_ttl_seconds=_main.settings.job_ttl_seconds,
            places=child.Places(_main.settings.spool, _main.spool_mark, _main.settings.data_roots),
            report_fd=_main.reports.write_fd,
        )


class Children(bootsteps.StartStopStep):  # type: ignore[misc]
    """Between the pool and the consumer of chunks: wait for the children, then keep their record alive."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, controller: Any, **options: Any) -> None:
        super().__init__(controller, **options)
        self._up: list[SlotRecord] = []

    def start(self, controller: Any) -> None:
        """Return when every child holds its models; end the worker if one cannot."""
        if _main is None:
            return
        try:
            while _main.reports.ready < _main.concurrency:
                _main.reports.read(wait_seconds=0.2)
                _check_alive(controller, _main.reports)
        except CeleriacError as error:
            end(error)
        models = ", ".join(f"{name}@{digest[:8]}" for name, digest in sorted(_main.digests.items()))
        # Not through the log, whose level is "warning" unless asked for more.
        print(
            f"{_main.concurrency} children hold {models}, {_main.threads} threads each", file=sys.__stderr__, flush=True
        )
        # One chunk more than there are children, so that none waits for Redis between two chunks; with a whole one for
        # each child, a job of few chunks would leave other workers without.
        controller.consumer.initial_prefetch_count += 1
        # At once too: whatever Redis loses from now on, it is told again.
        self._refresh(controller)
        controller.timer.call_repeatedly(HEARTBEAT_SECONDS, self._refresh, (controller,))

    def stop(self, controller: Any) -> None:
        """Tell Redis that this worker is gone."""
        if _main is not None:
            if _main.settings.spool:
                spool.remove_mark(_main.settings.spool, _main.spool_mark)
            try:
                slots.withdraw(_main.client, _main.worker)
            except redis.RedisError as error:
                logger.warning("cannot tell Redis that this worker ends: %s", error)

    terminate = stop

    def _refresh(self, controller: Any) -> None:
        if _main is not None:
            try:
                pids = controller.pool.info["processes"]
                self._up = slots.refresh(_main.client, _main.worker, pids, self._up)
            except redis.RedisError as error:
                logger.warning("cannot tell Redis that this worker lives: %s", error)


def _check_alive(controller: Any, reports: Reports) -> None:
    dead = [process for process in controller.pool._pool._pool if process.exitcode is not None]
    if dead:
        reports.read()  # its own word, if it left one
        raise WorkerStartError(
            f"a child ended with exit code {dead[0].exitcode} while it loaded its models, without a word; "
            "was there enough memory? The kernel's log (dmesg) tells"
        )


def _on_task_failure(exception: BaseException, args: Any, **_: object) -> None:
    """Answer for a child that was killed, or was too slow; ordinary errors were answered by the child itself."""
    if _main is None or os.getpid() != _main.pid:
        return
    try:
        message = from_plain(args[0], ChunkMessage)
        record = FailureRecord(message.start, message.stop, "worker", type(exception).__name__, str(exception)[:500])
        answer = Failure(message.job, message.index, "", record)
        push_answer(_main.client, answer, _main.settings.job_ttl_seconds)
    except (CeleriacError, redis.RedisError, LookupError) as error:
        logger.error("cannot report a lost chunk: %s", error)
