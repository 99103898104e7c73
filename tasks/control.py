"""This module holds Celeriac's commands for `celery -A tasks control`; they run in a worker's main process."""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command

from tasks.worker import wants_reload


@control_command()  # type: ignore[untyped-decorator]
def reload_models(state: Any) -> dict[str, str]:
    """Take new versions of the models from their files and the manifest, without stopping."""
    if not wants_reload():
        return {"error": "this is no Celeriac worker"}
    return {"ok": "models are being reloaded; the worker's output tells when it is done, and what has changed"}
