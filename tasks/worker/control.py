"""Holds Celeriac's commands for `celery -A tasks inspect` and `control`; a worker's main process runs them.

inspect ready, models                        `tasks/worker/inspection.py`
control reload_models                        `tasks/worker/reload.py`
control drain, resume                        `tasks/worker/drain.py`
control pool_grow, pool_shrink               `tasks/worker/resize.py`, in the place of Celery's own
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.control import control_command, inspect_command

from tasks.worker.inspection import Inspection
from tasks.worker.main_process import main_process, request_reload
from tasks.worker.resize import Resize
from worker_config.errors import UsageError

_NO_WORKER = {"error": "this is no Celeriac worker"}


@inspect_command()  # type: ignore[untyped-decorator]
def ready(state: Any) -> dict[str, Any]:
    """Which children hold their models and take chunks."""
    return seen.ready() if (seen := _inspection(state)) else _NO_WORKER


@inspect_command()  # type: ignore[untyped-decorator]
def models(state: Any) -> dict[str, Any]:
    """Each child's models, memory, rows done, and what it runs now."""
    return seen.models() if (seen := _inspection(state)) else _NO_WORKER


@control_command()  # type: ignore[untyped-decorator]
def reload_models(state: Any) -> dict[str, str]:
    """Take new versions of the models from their files and the manifest, without stopping."""
    if not request_reload(state.app):
        return _NO_WORKER
    return {"ok": "models are being reloaded; the worker's output tells when it is done, and what has changed"}


@control_command()  # type: ignore[untyped-decorator]
def drain(state: Any) -> dict[str, str]:
    """Take no more chunks, finish what runs, hand back the rest; the worker stays up."""
    message = "the worker drains: `inspect ready` tells how many chunks still run; `control resume` takes it back"
    return _drain(state, True, message)


@control_command()  # type: ignore[untyped-decorator]
def resume(state: Any) -> dict[str, str]:
    """Take chunks again, after a drain."""
    return _drain(state, False, "the worker takes chunks again")


@control_command(args=[("n", int)], signature="[N=1]")  # type: ignore[untyped-decorator]
def pool_grow(state: Any, n: int = 1) -> dict[str, str]:
    """Have n children more; each is a slot when it holds its models."""
    return _resize(state, Resize.grow, n)


@control_command(args=[("n", int)], signature="[N=1]")  # type: ignore[untyped-decorator]
def pool_shrink(state: Any, n: int = 1) -> dict[str, str]:
    """Have n children less; one that runs a chunk ends it first."""
    return _resize(state, Resize.shrink, n)


def _inspection(state: Any) -> Inspection | None:
    main = main_process(state.app)
    return main.inspection if main else None


def _drain(state: Any, is_on: bool, message: str) -> dict[str, str]:
    if (seen := _inspection(state)) is None:
        return _NO_WORKER
    seen.drain.requested = is_on
    return {"ok": message}


def _resize(state: Any, change: Callable[[Resize, int], None], n: int) -> dict[str, str]:
    if (seen := _inspection(state)) is None:
        return _NO_WORKER
    try:
        change(seen.size, n)
    except UsageError as error:
        return {"error": str(error)}
    seen.heartbeat()
    return {"ok": f"{seen.size.target} children; `inspect ready` tells which of them are"}
