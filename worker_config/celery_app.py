"""Settings become the Celery app, the same for producers and workers, with the reason beside each setting.

Celery ignores names it does not know without a word; a test compares ours with its own list. It takes some settings
from its own environment variables before all others; ours come from `celery_settings` alone.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.utils import Settings as CelerySettings
from celery.loaders.app import AppLoader

from worker_config.broker import KEY_PREFIX, QUEUE, address_of, celery_url, sentinel_options
from worker_config.retry_policy import (
    CELERY_SOCKET_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    HEALTH_CHECK_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    PUBLISH_RETRIES,
    RESTORE_SECONDS,
    SOFT_SHUTDOWN_SECONDS,
    visibility_timeout,
)
from worker_config.settings import Settings


def make_app(settings: Settings, *, shared_tasks: bool = False) -> Celery:
    """A Celery app for these settings; nothing connects yet.

    The user's process may have an app of its own, which stays the current and the default one. Where `shared_tasks`
    are wanted, as by functions of a model that are such tasks, the app has those of the whole process.
    """
    # Django's fix-up would take over task classes, `sys.path` and the default app.
    kind = Celery if shared_tasks else OwnApp
    app = kind("celeriac", set_as_current=False, loader=OwnLoader, fixups=[])
    # As an attribute it would become a setting.
    object.__setattr__(app.conf, "__class__", OwnSettings)
    app.conf.update(celery_settings(settings))
    return app


class OwnApp(Celery):  # type: ignore[misc]
    """A Celery app of no tasks but Celery's: those of any app of a process would be made anew, and bound, for ours."""

    def _task_from_fun(self, fun: Any, name: str | None = None, **options: Any) -> Any:
        return super()._task_from_fun(fun, name, **options) if name and name.startswith("celery.") else None


class OwnSettings(CelerySettings):  # type: ignore[misc]
    """Celery's settings without `CELERY_BROKER_URL`, `_READ_URL`, `_WRITE_URL` and `CELERY_RESULT_BACKEND`."""

    @property
    def broker_url(self) -> str:
        """The one broker, to read and to write."""
        url: str = self["broker_url"]
        return url

    broker_read_url = broker_write_url = broker_url

    @property
    def result_backend(self) -> str | None:
        """None."""
        backend: str | None = self["result_backend"]
        return backend


class OwnLoader(AppLoader):  # type: ignore[misc]
    """Celery's loader without `CELERY_CONFIG_MODULE`, and, as it is named, without `CELERY_LOADER`."""

    def read_configuration(self, env: str = "") -> None:
        """There is no module with settings."""


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's settings by their lower-case names."""
    # Without a broker, one that refuses at once rather than Celery's amqp://localhost.
    address = address_of(settings.broker_url or "unix:///nonexistent/CELERIAC_BROKER_URL-is-not-set")
    sentinel = {"master_name": address.master, "sentinel_kwargs": sentinel_options(address)} if address.master else {}
    return {
        "broker_url": celery_url(address),
        "broker_use_ssl": address.tls,
        # Nobody consumes it, and nothing is sent there: a worker's queue is that of its model set.
        "task_default_queue": QUEUE,
        # Binary-safe and never pickle; JSON stays for control messages. Other types are lost without trace.
        "task_serializer": "msgpack",
        "accept_content": ["msgpack", "json"],
        # Outputs go over the job's own list: the result backend sends each one three times.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_backend": None,
        # A chunk is acknowledged when it is done, so that a dead host gives it back.
        "task_acks_late": True,
        # A killed child's chunk runs again, at most `max_retries` times; acks_late alone would lose it. Then its
        # producer decides.
        "task_retry_on_worker_lost": True,
        # Only where that retry cannot be sent; the message then goes back to the queue.
        "task_reject_on_worker_lost": True,
        # What runs, since it is acknowledged late, and nothing more; the worker adds a single one. More would be held
        # back from other hosts.
        "worker_prefetch_multiplier": 1,
        # Loading models may take minutes; the default kills replacement children after 4 seconds, for ever.
        "worker_proc_alive_timeout": float(settings.load_timeout_seconds),
        # A recycled child loads all its models again.
        "worker_max_tasks_per_child": None,
        # Compares the peak, the loading of models included; children would be recycled after each task.
        "worker_max_memory_per_child": None,
        # Connects again within 2 s of Redis's return.
        "worker_consumer": "tasks.worker.reconnect:Consumer",
        # Children inherit the imported TensorFlow: ready in 0.6 s instead of 9 s.
        "worker_pool": "prefork",
        "worker_pool_start_method": "fork",
        # The hard limit alone frees a stuck child; a soft one cannot interrupt a running graph.
        "task_time_limit": settings.chunk_timeout_seconds,
        "task_soft_time_limit": None,
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout(settings.chunk_timeout_seconds, settings.load_timeout_seconds),
            "unacked_restore_interval": RESTORE_SECONDS,
            "unacked_restore_throttle": 1,
            # The default, None, lets a publish hang for ever on a dead peer.
            "socket_timeout": CELERY_SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_SECONDS,
            # Keys carry the product's name; `unacked*` is otherwise shared by all apps of a database.
            "global_keyprefix": KEY_PREFIX,
            **sentinel,
        },
        # Wait for Redis for ever; the default gives up after 100 tries.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Chunks are short and the join drops duplicates: let a running one end when the connection is lost.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # How long SIGTERM lets running chunks go on (`tasks/worker/graceful_shutdown.py`), as does SIGQUIT.
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_enable_remote_control": settings.remote_control != "off",
        # One more write per task, of no use without a result backend.
        "task_track_started": False,
        # On while Celery's own tools or Flower listen (`tasks/worker/task_events.py`); a sent-event would double a
        # publish's cost.
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": PUBLISH_RETRIES,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": LONGEST_BACKOFF_SECONDS,
        },
    }
