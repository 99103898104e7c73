"""A worker's main process: checks before the fork, waits for its children, keeps their record alive.

worker_init       manifest, digests, queue, Redis, preparation, TensorFlow if a model needs it; or ends the worker;
                  meanwhile tells what it does (`tasks/telemetry/announcement.py`)
before each fork  refuses if TensorFlow ran an operation here, or if a child could not load its models
after the fork    waits until every child holds its models, before any chunk is taken
every 5 seconds   tells Redis that the worker lives
on a lost chunk   notes why the child died (`tasks/worker/chunk_request.py`), and answers for it
on SIGTERM        finishes what runs, hands back the rest (`tasks/worker/graceful_shutdown.py`)
on a command      tells of its children, drains, has more or fewer of them (`tasks/worker/inspection.py`)
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import redis
from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool

from tasks.child.child_pipe import ChildPipe
from tasks.models.devices import gpus
from tasks.models.model_version import digest_or_error
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation.context import PreparationContext
from tasks.preparation.model_set import Generation, ModelSet, pinned_models
from tasks.preparation.prepare import prepare_all
from tasks.protocol.records import SlotRecord, WorkerFacts, facts_of
from tasks.protocol.rights import WORKER
from tasks.protocol.seal import Sealer
from tasks.recovery.child_death import answer_for_child
from tasks.serving.slot_pool import slot_pool
from tasks.snapshots import cache, spool_mark
from tasks.snapshots.fetch_models import use_fetched
from tasks.snapshots.installed import check_runtime
from tasks.telemetry import metrics, status_file
from tasks.telemetry.announcement import Announcement
from tasks.telemetry.counters import Counters
from tasks.telemetry.logs import say
from tasks.transport import queues, run_folder, worker_registry
from tasks.transport.connection import connect, know_errors_of_all, wait_until_up
from tasks.transport.rights import check_rights
from tasks.worker import control_guard, fork_guard, inspection, reconnect, refused, reload
from tasks.worker.drain import change_queues
from tasks.worker.graceful_shutdown import GracefulShutdown
from tasks.worker.reload import Reloader, ReloadRequest, heed_hangup, read_entries
from tasks.worker.task_events import TaskEvents
from worker_config.broker import queue_of, shard_urls
from worker_config.environment import settle_models, unheeded_celery
from worker_config.errors import CeleriacError, ConfigError, WorkerStartError
from worker_config.manifest import read_memory_limit
from worker_config.retry_policy import HEARTBEAT_SECONDS
from worker_config.settings import Settings
from worker_config.telemetry import tracing

logger = logging.getLogger(__name__)

LOOK_AFTER_SECONDS = 0.5
ENDING_LOOK_SECONDS = 0.2
# Of a child that wants to be replaced; see `tasks.child.bootstrap.start`.
RECYCLE_KIB = 1


@dataclass
class MainProcess:
    """What the main process has read and made before its first fork, kept by its Celery app; children inherit it.

    Attributes:
        worker: the worker's id, as NAME@HOST:TOKEN.
        client: of Redis; one short try, since the main process feeds its children and must not wait.
        reports: what children say while they start.
        memory_limit: bytes that a child's models may take.
        facts: what doctor is shown; with the number of children and the threads of each.
        inspection: None until the first children are ready, and when the worker ends.
    """

    worker: str
    client: redis.Redis
    reports: ChildPipe
    counters: Counters
    started: status_file.WorkerStatus
    spool_mark: str
    models: ModelSet
    reloader: Reloader
    memory_limit: int
    facts: WorkerFacts
    announcement: Announcement
    sealer: Sealer = field(default_factory=Sealer)
    task_events: TaskEvents = field(default_factory=TaskEvents)
    inspection: inspection.Inspection | None = None
    pid: int = field(default_factory=os.getpid)


def main_process(app: Any) -> MainProcess | None:
    """What this process has made, if it is the main process of a worker of `app`."""
    main = getattr(app, "main_process", None)
    return main if main is not None and os.getpid() == main.pid else None


def prepare_worker(app: Any, settings: Settings) -> None:
    """Connect what a worker of `app` does; in other commands this costs nothing."""
    know_errors_of_all()

    def on_worker_init(sender: Any, **_: object) -> None:
        reload_request = heed_hangup()
        folder = run_folder.make(takes_all=True)
        try:
            main = app.main_process = _prepare(app, settings, sender, folder, reload_request)
        except BaseException as error:
            run_folder.remove(folder)
            if isinstance(error, CeleriacError):
                end(error)
            if not isinstance(error, Exception):
                raise
            # Celery would swallow it and start a worker without models.
            end(WorkerStartError(f"the worker cannot start: {type(error).__name__}: {error}"))
        signals.worker_before_create_process.connect(partial(_before_fork, main), weak=False)
        signals.worker_process_init.connect(partial(_after_fork, main, app, settings), weak=False)
        signals.task_failure.connect(partial(_on_task_failure, app, settings.job_ttl_seconds), weak=False)

    signals.worker_init.connect(on_worker_init, weak=False)
    app.steps["worker"].add(Children)
    app.steps["consumer"].add(inspection.BrokerInfo)


def end(error: CeleriacError) -> NoReturn:
    """Say why on stderr and end the worker; Celery logs and swallows any exception but SystemExit."""
    say(str(error), logging.CRITICAL)
    raise SystemExit(int(error.exit_code))


def _prepare(app: Any, settings: Settings, controller: Any, folder: Path, reload_request: ReloadRequest) -> MainProcess:
    if not settings.broker_url:
        raise ConfigError("no broker; set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0")
    pool = controller.pool_cls
    if not (pool == "prefork" or (isinstance(pool, type) and issubclass(pool, TaskPool))):
        raise ConfigError("models run in prefork children alone; leave out -P/--pool")
    check_runtime()
    tracing.check(settings.trace_exporters)
    entries = read_entries(settings, say)
    fetched = use_fetched(entries, cache.cache_folder(settings))
    worker, broker_url = f"{controller.hostname}:{secrets.token_hex(4)}", settings.broker_url
    started = status_file.starting(controller.hostname, broker_url, float(settings.chunk_timeout_seconds))
    announcement = Announcement(worker, broker_url, entries, folder, started)
    digests = {name: digest_or_error(name, entry) for name, entry in entries.items()}
    announcement.know(digests)
    queues.consume_only(app, queue_of(digests))
    reconnect.let_worker_live()
    control_guard.guard(settings, app.sealer)
    refused.put_aside(lambda: app.main_process.client)
    counters = Counters()
    metrics.serve(settings, folder, counters)
    wait_until_up(broker_url)
    check_rights(broker_url, WORKER)
    cores = len(os.sched_getaffinity(0))
    concurrency = controller.concurrency if isinstance(controller.concurrency, int) else cores  # "auto", as yet
    threads = settings.intra_op_threads or max(1, cores // concurrency)
    _settle_libraries(threads, settings.broker_url)
    context = PreparationContext.of(settings, threads, concurrency, say, announcement.tell)
    context.held.extend(fetched)
    cache.prune(context.cache, context.limit_bytes)
    served = prepare_all(entries, digests, context, announcement.prepared, at_once=cores // threads)
    announcement.tell(f"loading models into {concurrency} children")
    if any(one.needs_tensorflow for one in served.values()):
        import_tensorflow()
    models = ModelSet(folder, Generation(served, context.held))
    models.publish()
    # Celery compares it with what `tasks.child.bootstrap` puts in the place of the process's peak.
    controller.max_memory_per_child = RECYCLE_KIB
    controller.pool_cls = slot_pool(app, settings, folder)
    return MainProcess(
        worker=worker,
        client=connect(broker_url, retries=0, timeout_seconds=2.0),
        reports=ChildPipe(),
        counters=counters,
        started=started,
        spool_mark=spool_mark.make_mark(settings.spool) if settings.spool else "",
        models=models,
        reloader=Reloader(models, context, partial(read_entries, settings, say), say, reload_request),
        memory_limit=read_memory_limit(settings.models_path),
        facts=facts_of(concurrency, threads, gpus(), settings.spool),
        announcement=announcement,
        sealer=app.sealer,
    )


def request_reload(app: Any) -> bool:
    """Let new versions of the models come, soon; False if this process is no worker."""
    main = main_process(app)
    if main is None:
        return False
    main.reloader.request.make()
    return True


def _settle_libraries(threads: int, broker_url: str) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # But for the one that `-b` sets.
    of_celery = (name for name in unheeded_celery(os.environ) if broker_url not in shard_urls(os.environ[name]))
    if unheeded := [*of_celery, *settle_models(os.environ)]:
        say(f"{', '.join(unheeded)}: not heeded; a worker's settings are CELERIAC_* and its options")


def _before_fork(main: MainProcess, sender: Any, **_: object) -> None:
    try:
        fork_guard.check_not_initialized()
        main.reports.read()
        main.reports.check_silent_deaths(sender._processes)
    except CeleriacError as error:
        end(error)
    # A collection in a child would write to every page that holds an object, and so take a copy of it.
    gc.freeze()
    main.reports.forks += 1


def _after_fork(main: MainProcess, app: Any, settings: Settings, **_: object) -> None:
    from tasks.child import bootstrap
    from tasks.child.chunk_payload import Places

    main.announcement.leave()
    app.child = bootstrap.start(
        main.worker,
        main.models,
        Places(settings.spool, main.spool_mark, settings.data_roots, settings.output_roots),
        main.counters,
        main.reports.write_fd,
        replace(settings, intra_op_threads=main.facts.threads),
        main.memory_limit,
    )


class Children(bootsteps.StartStopStep):  # type: ignore[misc]
    """Between the pool and the consumer of chunks: wait for the children, then keep their record alive."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, controller: Any, **options: Any) -> None:
        super().__init__(controller, **options)
        self._up: list[SlotRecord] = []

    def start(self, controller: Any) -> None:
        """Return when every child holds its models; end the worker if one cannot."""
        main = main_process(controller.app)
        if main is None:
            return
        try:
            while len(_ready_slots(controller.pool._pool._pool, main)) < (children := main.facts.children):
                main.reports.read(wait_seconds=0.2)
        except CeleriacError as error:
            end(error)
        main.announcement.end()
        # They have. Celery looks again as it begins to listen, and would end the worker for one that has died since.
        controller.pool.did_start_ok = lambda: True
        models = ", ".join(f"{name}@{one.digest[:8]}" for name, one in sorted(main.models.current.served.items()))
        threads = f"{main.facts.threads} {'thread' if main.facts.threads == 1 else 'threads'} each"
        say(f"{children} {'child holds' if children == 1 else 'children hold'} {models}, {threads}")
        controller.consumer.initial_prefetch_count = controller.consumer.max_prefetch_count
        heartbeat = partial(self._heartbeat, controller, main)
        main.inspection = inspection.Inspection(
            controller, main.models, main.reports, main.counters, main.started, heartbeat
        )
        # At once too: whatever Redis loses from now on, it is told again.
        heartbeat()
        controller.timer.call_repeatedly(HEARTBEAT_SECONDS, heartbeat)
        # Celery misses the end of a child that was itself a replacement now and then, and looks only every 5 seconds.
        controller.timer.call_repeatedly(LOOK_AFTER_SECONDS, controller.pool._pool.maintain_pool)
        controller.timer.call_repeatedly(reload.LOOK_SECONDS, self._reload, (controller, main))
        ending = GracefulShutdown(controller, main.models.folder)
        signal.signal(signal.SIGTERM, ending.begin)
        controller.timer.call_repeatedly(ENDING_LOOK_SECONDS, ending.look)
        controller.timer.call_repeatedly(inspection.LOOK_SECONDS, main.inspection.look)

    def stop(self, controller: Any) -> None:
        """Tell Redis that this worker is gone."""
        main = main_process(controller.app)
        if main is None:
            return
        main.inspection = None  # Celery goes on firing timers until the children have ended
        slots = worker_registry.saved_slots(main.models.folder)
        run_folder.remove(main.models.folder)
        if main.spool_mark:
            spool_mark.remove_mark(main.facts.spool, main.spool_mark)
        try:
            worker_registry.deregister(main.client, main.worker, slots)
        except redis.RedisError as error:
            logger.warning("cannot tell Redis that this worker ends: %s", error)

    terminate = stop

    def _heartbeat(self, controller: Any, main: MainProcess) -> None:
        if main.inspection is None:  # the worker ends
            return
        try:
            self._forget(controller.consumer, main)
            slots = 0 if main.inspection.drain.is_on else len(main.inspection.size.staying)
            main.inspection.waiting(queues.tend(main.client, main.models.queues, main.worker, slots))
            facts = main.inspection.told(main.facts)
            if facts.draining:
                return worker_registry.deregister_slots(main.client, main.worker, main.models.queues, facts)
            pids = [process.pid for process in main.inspection.size.staying]
            # What children saved, too: Redis may have lost what was registered since the last time.
            known = [*worker_registry.saved_slots(main.models.folder), *self._up]
            self._up = worker_registry.heartbeat(main.client, main.worker, pids, known, main.models.updated, facts)
        except redis.RedisError as error:
            logger.warning("cannot tell Redis that this worker lives: %s", error)

    def _reload(self, controller: Any, main: MainProcess) -> None:
        """Take chunks for new models before producers hear of them, and for old ones as long as jobs are pinned."""
        if main.inspection is None or not main.reloader.look():
            return
        if not main.inspection.drain.is_on:
            change_queues(controller.consumer.add_task_queue, [main.models.current.queue])
        self._heartbeat(controller, main)

    def _forget(self, consumer: Any, main: MainProcess) -> None:
        """Give up the models that no running job wants any more."""
        if not main.models.older:
            return
        pinned = pinned_models(main.client, main.sealer)
        change_queues(consumer.cancel_task_queue, main.models.forget(pinned, os.close))


def _ready_slots(children: list[Any], main: MainProcess) -> set[int]:
    """Slots whose child holds its models, or held them and has died since; Celery can replace that one only later."""
    dead = [process for process in children if process.exitcode is not None]
    main.reports.read()  # a dead child's own word, if it left one
    held = {slot.pid: slot.slot for slot in worker_registry.saved_slots(main.models.folder)} if dead else {}
    for process in dead:
        if process.pid not in held:
            raise WorkerStartError(
                f"a child ended with exit code {process.exitcode} while it loaded its models, without a word; "
                "was there enough memory? The kernel's log (dmesg) tells"
            )
    return main.reports.ready_slots | {held[process.pid] for process in dead}


def _on_task_failure(app: Any, ttl_seconds: int, sender: Any, exception: BaseException, args: Any, **_: object) -> None:
    """Ordinary errors were answered by the child itself."""
    if main := main_process(app):
        queue = sender.request.delivery_info["routing_key"]
        answer_for_child(main.client, main.sealer, exception, args, queue, ttl_seconds)
