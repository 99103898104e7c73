"""Celery's prefork pool, whose children run requests while they wait for a chunk (`tasks/serving/request_loop.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from celery.concurrency.asynpool import AsynPool, Worker
from celery.concurrency.prefork import TaskPool

from worker_config.settings import Settings

if TYPE_CHECKING:
    from tasks.serving.request_loop import RequestLoop


def slot_pool(app: Any, settings: Settings, folder: Path) -> type[TaskPool]:
    """The pool's class for a worker of `app` with this run folder; `app.child` is there when a child begins to wait."""

    class Slot(Worker):  # type: ignore[misc]
        def on_loop_start(self, pid: int) -> None:
            from tasks.serving.request_loop import RequestLoop  # children alone need NumPy, and what runs models

            loop = RequestLoop(app.child, settings, folder)
            receive = cast("Callable[[], Any]", self.wait_for_job)  # type: ignore[has-type]
            self.wait_for_job = _either(loop, self.inq._reader.fileno(), receive, self._shutdown)
            super().on_loop_start(pid)

    class Slots(AsynPool):  # type: ignore[misc]
        pass

    class SlotPool(TaskPool):  # type: ignore[misc]
        Pool = Slots

    Slots.Worker = staticmethod(Slot)
    return SlotPool


def _either(loop: RequestLoop, pipe: int, receive: Callable[[], Any], shutdown: Any) -> Callable[[], Any]:
    def wait_for_job() -> Any:
        if loop.wait(pipe) or (shutdown and shutdown.is_set()):
            return receive()
        return None

    return wait_for_job
