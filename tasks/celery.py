"""Holds the Celery app that `celery -A tasks` finds, and its one task.

A bad setting ends the command with one line; TensorFlow is imported only when a worker starts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from celery import Task

import tasks.worker.control  # noqa: F401 - `celery -A tasks control` must know of its commands
from tasks.protocol.chunk_args import describe
from tasks.protocol.messages import TASK_NAME
from tasks.protocol.rights import OPERATOR
from tasks.protocol.seal import Sealer
from tasks.telemetry import logs
from tasks.transport.rights import refuse_if_refused
from tasks.worker.home_shard import choose_home
from tasks.worker.main_process import prepare_worker
from worker_config.broker import redacted, shard_urls
from worker_config.celery_app import make_app
from worker_config.celery_command import asks_redis, heed_command, runs_worker
from worker_config.errors import BrokerRefusedError, ConfigError, UsageError
from worker_config.retry_policy import TASK_RETRIES, TASK_RETRY_SECONDS
from worker_config.settings import Settings


def one_shard(url: str) -> str:
    """Of several shards a worker has its own; other commands of Celery's ask the first one, and say so."""
    first, *others = shard_urls(url)
    if others and runs_worker():
        return choose_home(url)
    if others and asks_redis():
        text = f"celeriac: asks {redacted(first)}, the first of {1 + len(others)} shards; for another one give -b URL"
        print(text, file=sys.stderr)
    return first


try:
    settings = heed_command(Settings.from_env())
    if settings.broker_url:
        settings = replace(settings, broker_url=one_shard(settings.broker_url))
    if settings.broker_url and asks_redis():
        refuse_if_refused(settings.broker_url, OPERATOR)
except (ConfigError, BrokerRefusedError) as error:
    print(f"celeriac: {error}", file=sys.stderr)
    raise SystemExit(int(error.exit_code)) from None

app = make_app(settings, shared_tasks=True)
object.__setattr__(app, "sealer", Sealer(settings.signing_key))
app.control_cls = "tasks.worker.control_guard:SignedControl"


def needs_queue(name: str, args: Any, kwargs: Any, options: dict[str, Any], **_: object) -> None:
    """Refuse a task that is sent without a queue: no worker consumes the one that Celery would take."""
    if "queue" not in options:
        raise UsageError(f"task {name} needs a queue; `celery -A tasks inspect active_queues` shows the workers' own")


app.conf.task_routes = (needs_queue,)


class ChunkTask(Task):  # type: ignore[misc]
    """A task that is shown as `chunk 17/400 rows 4352-4608 of job ...`, also when it is sent again."""

    # Made when a worker starts: nobody else needs a worker's code.
    Request = "tasks.worker.chunk_request:ChunkRequest"

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send with a readable form of the arguments."""
        options.setdefault("argsrepr", describe(args))
        return super().apply_async(args, kwargs, **options)


# Two more deliveries after the child that ran a chunk was killed; then its rows have failed. Where rows are found that
# kill, there are none (`tasks/worker/chunk_request.py`). Lazily, where FORKED_BY_MULTIPROCESSING is set, it would be a
# task of whichever app is the current one.
@app.task(  # type: ignore[untyped-decorator]
    name=TASK_NAME,
    base=ChunkTask,
    max_retries=TASK_RETRIES,
    default_retry_delay=TASK_RETRY_SECONDS,
    lazy=False,
    shared=False,
)
def infer(*args: Any) -> str:
    """Run one chunk; see `tasks.child.execute_chunk`."""
    # Children alone need numpy, the models and what they bring.
    from tasks.child.execute_chunk import run_message

    request = infer.request
    queue, tag = request.delivery_info["routing_key"], request.properties["delivery_tag"]
    return run_message(getattr(infer.app, "child", None), args, queue, tag, request.headers)


logs.set_up(settings.log_format)
prepare_worker(app, settings)
