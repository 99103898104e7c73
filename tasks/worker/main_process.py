"""This module is a worker's main process: checks before the fork, waits for its children, keeps their record alive.

worker_init       manifest, digests, queue, Redis, `import tensorflow` if a model needs it; ends the worker if one fails
before each fork  refuses if TensorFlow ran an operation here, or if a child could not load its models
after the fork    waits until every child holds its models, before any chunk is taken
every 5 seconds   tells Redis that the worker lives
on a lost chunk   notes why the child died (`tasks/worker/chunk_request.py`), and answers for it
on SIGTERM        finishes what runs, hands back the rest (`tasks/worker/graceful_shutdown.py`)
on a command      tells of its children, drains, has more or fewer of them (`tasks/worker/inspection.py`)
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import secrets
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import redis
from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool

from tasks.child.child_pipe import ChildPipe
from tasks.models.devices import gpus
from tasks.models.model_version import digest_or_error
from tasks.models.tensorflow_import import import_tensorflow, needs_tensorflow
from tasks.preparation.model_set import Generation, ModelSet, pinned_models
from tasks.preparation.prepare import prepare, workshop
from tasks.protocol.host_facts import WorkerFacts, facts_of
from tasks.protocol.records import SlotRecord
from tasks.telemetry import metrics, status_file, tracing
from tasks.telemetry.counters import Counters
from tasks.telemetry.logs import say
from tasks.transport import queues, spool, worker_registry
from tasks.transport.connection import connect, wait_until_up
from tasks.worker import fork_guard, inspection, reconnect, reload
from tasks.worker.child_death import answer_for_child
from tasks.worker.graceful_shutdown import GracefulShutdown
from tasks.worker.reload import Reloader
from worker_config.celery_app import queue_of
from worker_config.environment import settle_models, unheeded_celery
from worker_config.errors import CeleriacError, ConfigError, WorkerStartError
from worker_config.manifest import ModelEntry, read_manifest, read_memory_limit, select
from worker_config.settings import Settings

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
LOOK_AFTER_SECONDS = 0.5
ENDING_LOOK_SECONDS = 0.2
# Of a child that wants to be replaced; see `tasks.child.bootstrap.start`.
RECYCLE_KIB = 1


@dataclass(frozen=True)
class MainProcess:
    """What the main process has read and made before its first fork; children inherit it."""

    pid: int
    worker: str
    broker_url: str
    client: redis.Redis
    reports: ChildPipe
    counters: Counters
    started: status_file.WorkerStatus
    settings: Settings
    spool_mark: str
    models: ModelSet
    reloader: Reloader
    memory_limit: int
    threads: int
    concurrency: int
    facts: WorkerFacts


_main: MainProcess | None = None


def main_process() -> MainProcess | None:
    """What this process has made, if it is a worker's main process."""
    return _main if _main is not None and os.getpid() == _main.pid else None


def prepare_worker(app: Any, settings: Settings) -> None:
    """Connect what a worker of `app` does; in other commands this costs nothing."""

    def on_worker_init(sender: Any, **_: object) -> None:
        global _main
        folder = status_file.make_folder()
        try:
            _main = _prepare(app, settings, sender, folder)
        except CeleriacError as error:
            end(error)
        except Exception as error:
            # Celery would swallow it and start a worker without models.
            end(WorkerStartError(f"the worker cannot start: {type(error).__name__}: {error}"))
        finally:
            if _main is None:
                shutil.rmtree(folder, ignore_errors=True)

    signals.worker_init.connect(on_worker_init, weak=False)
    signals.worker_before_create_process.connect(_before_fork, weak=False)
    signals.worker_process_init.connect(_after_fork, weak=False)
    signals.task_failure.connect(_on_task_failure, weak=False)
    app.steps["worker"].add(Children)


def end(error: CeleriacError) -> NoReturn:
    """Say why on stderr and end the worker; Celery logs and swallows any exception but SystemExit."""
    say(str(error), logging.CRITICAL)
    raise SystemExit(int(error.exit_code))


def _prepare(app: Any, settings: Settings, controller: Any, folder: Path) -> MainProcess:
    if not settings.broker_url:
        raise ConfigError("no broker; set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0")
    pool = controller.pool_cls
    if not (pool == "prefork" or (isinstance(pool, type) and issubclass(pool, TaskPool))):
        raise ConfigError("models run in prefork children alone; leave out -P/--pool")
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError("TensorFlow is not installed; a worker needs it: pip install 'celeriac[worker]'")
    tracing.check(settings.trace_exporters)
    entries = read_entries(settings)
    digests = {name: digest_or_error(name, entry) for name, entry in entries.items()}
    queues.consume_only(app, queue_of(digests))
    reconnect.let_worker_live()
    broker_url = app.conf.broker_url
    told = status_file.starting(controller.hostname, broker_url, float(settings.chunk_timeout_seconds))
    status_file.write(folder, told)
    counters = Counters()
    metrics.serve(settings, folder, counters)
    wait_until_up(broker_url)
    cores = len(os.sched_getaffinity(0))
    # Celery resolves "auto" only after this.
    concurrency = controller.concurrency if isinstance(controller.concurrency, int) else cores
    threads = settings.intra_op_threads or max(1, cores // concurrency)
    _settle_libraries(threads, settings.broker_url, needs_tensorflow(entries.values()))
    shop = workshop(settings, threads, concurrency, say)
    served = {name: prepare(name, entry, digests[name], shop) for name, entry in entries.items()}
    memory_limit = read_memory_limit(settings.models_path)
    models = ModelSet(folder, Generation(served, shop.held))
    models.leave_word()
    # Celery compares it with what `tasks.child.bootstrap` puts in the place of the process's peak.
    controller.max_memory_per_child = RECYCLE_KIB
    return MainProcess(
        pid=os.getpid(),
        worker=f"{controller.hostname}:{secrets.token_hex(4)}",
        broker_url=broker_url,
        # One short try: the main process feeds its children and must not wait.
        client=connect(broker_url, retries=0, timeout_seconds=2.0),
        reports=ChildPipe(),
        counters=counters,
        started=told,
        settings=settings,
        spool_mark=spool.make_mark(settings.spool) if settings.spool else "",
        models=models,
        reloader=Reloader(models, shop, partial(read_entries, settings), say),
        memory_limit=memory_limit,
        threads=threads,
        concurrency=concurrency,
        facts=facts_of(concurrency, threads, gpus(), settings.spool),
    )


def read_entries(settings: Settings) -> dict[str, ModelEntry]:
    """The models of the manifest that this worker holds, as it stands now.

    Raises:
        ConfigError, UnknownModelError: the manifest, or a name, does not do.
    """
    return select(read_manifest(settings.models_path), settings.model_set)


def wants_reload() -> bool:
    """Let new versions of the models come, soon; False if this process is no worker."""
    if _main is None:
        return False
    _main.reloader.wanted = True
    return True


def _settle_libraries(threads: int, broker_url: str, with_tensorflow: bool) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # `-b` leaves its own word there.
    unheeded = [name for name in unheeded_celery(os.environ) if os.environ[name] != broker_url]
    unheeded += import_tensorflow() if with_tensorflow else settle_models(os.environ)
    if unheeded:
        say(f"{', '.join(unheeded)}: not heeded; a worker's settings are CELERIAC_* and its options")


def _before_fork(sender: Any, **_: object) -> None:
    if _main is None:
        return
    try:
        fork_guard.check_not_initialized()
        _main.reports.read()
        _main.reports.check_silent_deaths(sender._processes)
    except CeleriacError as error:
        end(error)
    # A collection in a child would write to every page that holds an object, and so take a copy of it.
    gc.freeze()
    _main.reports.forks += 1


def _after_fork(**_: object) -> None:
    if _main is not None:
        from tasks.child import bootstrap

        bootstrap.start(
            _main.worker,
            _main.models,
            bootstrap.Places(_main.settings.spool, _main.spool_mark, _main.settings.data_roots),
            _main.counters,
            _main.reports.write_fd,
            bootstrap.ChildSettings(
                _main.broker_url,
                _main.settings.job_ttl_seconds,
                _main.memory_limit,
                _main.threads,
                bool(_main.settings.pin_cores),
                _main.settings.trace_exporters,
            ),
        )


class Children(bootsteps.StartStopStep):  # type: ignore[misc]
    """Between the pool and the consumer of chunks: wait for the children, then keep their record alive."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, controller: Any, **options: Any) -> None:
        super().__init__(controller, **options)
        self._up: list[SlotRecord] = []
        self._inspection: Any = None  # until the children are ready

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
        # They have. Celery looks again as it begins to listen, and would end the worker for one that has died since.
        controller.pool.did_start_ok = lambda: True
        models = ", ".join(f"{name}@{one.digest[:8]}" for name, one in sorted(_main.models.current.served.items()))
        say(f"{_main.concurrency} children hold {models}, {_main.threads} threads each")
        # One chunk more than there are children, so that none waits for Redis between two chunks; with a whole one for
        # each child, a job of few chunks would leave other workers without.
        controller.consumer.initial_prefetch_count += 1
        self._inspection = controller.inspection = inspection.Inspection(
            controller,
            _main.models,
            _main.reports,
            _main.counters,
            _main.started,
            lambda: self._refresh(controller),
        )
        # At once too: whatever Redis loses from now on, it is told again.
        self._refresh(controller)
        controller.timer.call_repeatedly(HEARTBEAT_SECONDS, self._refresh, (controller,))
        # Celery misses the end of a child that was itself a replacement now and then, and looks only every 5 seconds.
        controller.timer.call_repeatedly(LOOK_AFTER_SECONDS, controller.pool._pool.maintain_pool)
        controller.timer.call_repeatedly(reload.LOOK_SECONDS, self._reload, (controller,))
        # Celery's own handler would start the whole worker again.
        signal.signal(signal.SIGHUP, lambda *_: wants_reload())
        ending = GracefulShutdown(controller)
        signal.signal(signal.SIGTERM, ending.begin)
        controller.timer.call_repeatedly(ENDING_LOOK_SECONDS, ending.look)
        controller.timer.call_repeatedly(inspection.LOOK_SECONDS, controller.inspection.look)

    def stop(self, controller: Any) -> None:
        """Tell Redis that this worker is gone."""
        if _main is not None:
            shutil.rmtree(_main.models.folder, ignore_errors=True)
            if _main.settings.spool:
                spool.remove_mark(_main.settings.spool, _main.spool_mark)
            try:
                worker_registry.withdraw(_main.client, _main.worker)
            except redis.RedisError as error:
                logger.warning("cannot tell Redis that this worker ends: %s", error)

    terminate = stop

    def _refresh(self, controller: Any) -> None:
        if _main is not None:
            try:
                self._forget(controller.consumer)
                self._inspection.waiting(queues.waiting(_main.client, _main.models.queues))
                if self._inspection.drain.is_on:
                    return worker_registry.stand_aside(_main.client, _main.worker, _main.models.queues)
                pids = [process.pid for process in self._inspection.size.staying]
                # A child's own word, too: Redis may have lost what it was told since the last time.
                known = [*worker_registry.words_left(_main.models.folder), *self._up]
                told_by, facts = _main.models.told_by, _main.facts
                self._up = worker_registry.refresh(_main.client, _main.worker, pids, known, told_by, facts)
            except redis.RedisError as error:
                logger.warning("cannot tell Redis that this worker lives: %s", error)

    def _reload(self, controller: Any) -> None:
        """Take chunks for new models before producers hear of them, and for old ones as long as jobs are pinned."""
        if _main is None or not _main.reloader.look():
            return
        try:
            if not self._inspection.drain.is_on:
                controller.consumer.add_task_queue(_main.models.current.queue)
        except (OSError, AttributeError) as error:  # not connected; it takes them up when it is
            logger.warning("cannot change queues: %s", error)
        self._refresh(controller)

    def _forget(self, consumer: Any) -> None:
        """Give up the models that no running job wants any more."""
        if _main is None or not _main.models.older:
            return
        for queue in _main.models.forget(pinned_models(_main.client), os.close):
            try:
                consumer.cancel_task_queue(queue)
            except (OSError, AttributeError) as error:
                logger.warning("cannot change queues: %s", error)


def _check_alive(controller: Any, reports: ChildPipe) -> None:
    dead = [process for process in controller.pool._pool._pool if process.exitcode is not None]
    if dead:
        reports.read()  # its own word, if it left one
        raise WorkerStartError(
            f"a child ended with exit code {dead[0].exitcode} while it loaded its models, without a word; "
            "was there enough memory? The kernel's log (dmesg) tells"
        )


def _on_task_failure(exception: BaseException, args: Any, **_: object) -> None:
    """Ordinary errors were answered by the child itself."""
    if _main is not None and os.getpid() == _main.pid:
        answer_for_child(_main.client, exception, args, _main.settings.job_ttl_seconds)
