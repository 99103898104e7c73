"""Which control commands a worker heeds: all, those alone that change nothing, or with signing keys only signed ones.

celery control NAME --SignedControl--> arguments, seal --Redis--> worker --guard: signed? of now?--> the command
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import msgspec
from celery.app.control import Control
from celery.worker.control import Panel

from tasks.protocol.messages import unpack
from tasks.protocol.seal import Sealer
from worker_config.errors import MessageError, SealError
from worker_config.settings import Settings

logger = logging.getLogger(__name__)

# A command that comes later was kept by somebody, or the clocks are apart.
VALID_SECONDS = 60.0
# Celery counts these among those that change something; watchers and workers send them all the time.
_HARMLESS = frozenset(("enable_events", "disable_events", "heartbeat", "election"))
_SEAL = "seal"


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed: the arguments, and when they were sent (Unix seconds)."""

    arguments: dict[str, Any]
    sent_at: float


class SignedControl(Control):  # type: ignore[misc]
    """Celery's control, of an app whose `sealer` signs what changes something."""

    def broadcast(self, command: str, arguments: dict[str, Any] | None = None, *args: Any, **options: Any) -> Any:
        """As Celery does."""
        arguments = dict(arguments or {})
        if self.app.sealer.signs and _changes(command):
            arguments[_SEAL] = _sealed(self.app.sealer, command, arguments)
        return super().broadcast(command, arguments, *args, **options)


def guard(settings: Settings, sealer: Sealer) -> None:
    """From now on this process heeds only the commands that the settings allow."""
    seen: dict[str, float] = {}
    for name in filter(_changes, list(Panel.data)):
        Panel.data[name] = _guarded(name, Panel.data[name], settings.remote_control == "all", sealer, seen)


def _guarded(
    name: str, command: Callable[..., Any], may_change: bool, sealer: Sealer, seen: dict[str, float]
) -> Callable[..., Any]:
    @wraps(command)
    def guarded(state: Any, **arguments: Any) -> Any:
        seal = arguments.pop(_SEAL, "")
        error = "" if may_change else "CELERIAC_REMOTE_CONTROL lets nobody change this worker"
        if not error and sealer.signs:
            error = _why_not(sealer, name, arguments, seal, seen)
        if error:
            logger.warning("control command %s is not heeded: %s", name, error)
            return {"error": error}
        return command(state, **arguments)

    return guarded


def _changes(name: str) -> bool:
    meta = Panel.meta.get(name)
    return meta is not None and meta.type == "control" and name not in _HARMLESS


def _sealed(sealer: Sealer, name: str, arguments: dict[str, Any]) -> str:
    return sealer.seal_bytes(f"control/{name}", msgspec.msgpack.encode(_Signed(arguments, time.time()))).hex()


def _why_not(sealer: Sealer, name: str, arguments: dict[str, Any], seal: object, seen: dict[str, float]) -> str:
    """Why a command is not heeded; empty if it is."""
    now = time.time()
    try:
        signed: _Signed = unpack(sealer.open(f"control/{name}", bytes.fromhex(str(seal))), _Signed)
    except (SealError, MessageError, ValueError):
        return "it is not signed with a key of CELERIAC_SIGNING_KEY"
    if signed.arguments != arguments:
        return "its arguments are not those that were signed"
    if abs(now - signed.sent_at) > VALID_SECONDS:
        return f"it was sent {now - signed.sent_at:.0f} seconds ago, or the clocks are apart"
    for known in [known for known, at in seen.items() if now - at > 2 * VALID_SECONDS]:
        del seen[known]
    if str(seal) in seen:
        return "it has come before"
    seen[str(seal)] = now
    return ""
