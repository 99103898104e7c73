"""Asks Redis which models there are, and which slots hold them; waits for a worker where none is up, and for Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from producer.broker.shard_clients import ask_each
from producer.broker.shards import slots_on
from producer.scheduling import model_pinning
from producer.scheduling.preparing_workers import Awaited
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import ModelInfo, SlotRecord
from tasks.protocol.seal import Sealer
from tasks.transport.worker_registry import read_all, read_records
from worker_config.broker import redacted
from worker_config.errors import (
    BrokerError,
    BrokerRefusedError,
    NoWorkerError,
    RequestTimeoutError,
    UnknownModelError,
)
from worker_config.retry_policy import COMMAND_RETRIES, SOCKET_TIMEOUT_SECONDS
from worker_config.settings import Settings

POLL_SECONDS = 0.1
# However little time is left, a server that is merely busy may answer.
LEAST_LOOK_SECONDS = 1.0

logger: logging.Logger = logging.getLogger(__name__)


class ModelFinder:
    """Of one client.

    Args:
        settings: with the broker's URL.
        timeout_seconds: how long to wait for a worker, where none is up, and for Redis, which the client has reached
            before. A worker that prepares the models is waited for as long as it does, and the log tells of it; with 0
            nothing is waited for.
        watch: raises where none will come.
    """

    def __init__(self, settings: Settings, timeout_seconds: float, watch: Callable[[], None]) -> None:
        self._settings, self._timeout_seconds, self._watch = settings, timeout_seconds, watch
        self._closed = 0

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed += 1

    def __call__(self, names: list[str], until: float | None = None) -> tuple[list[ModelInfo], list[SlotRecord]]:
        """The models, in the versions that most slots hold, and the slots that run them.

        Redis, and a worker that prepares them, are waited for `until` then, by `time.monotonic`.

        Raises:
            UnknownModelError, NoWorkerError: no worker holds them.
            RequestTimeoutError: the time was up.
            BrokerError: Redis still cannot be reached, or refuses.
        """
        url, deadline = self._settings.broker_url or "", time.monotonic() + self._timeout_seconds
        closed, key_ids = self._closed, Sealer(self._settings.signing_key).key_ids
        awaited = Awaited(dict.fromkeys(names, ""))
        self._watch()
        while True:
            slots, preparing = self._read(url, deadline, until)
            try:
                infos = model_pinning.pin(names, slots, key_ids)
                return infos, model_pinning.usable(slots, model_pinning.refs(infos))
            except (NoWorkerError, UnknownModelError) as error:
                comes, now = awaited.look(preparing), time.monotonic()
                if comes and until is not None and now >= until:
                    raise RequestTimeoutError(f"the time limit is up{awaited.seen(preparing)}") from None
                if not (comes and self._timeout_seconds) and (slots or now >= deadline):
                    why = error if slots else model_pinning.why_none(_draining(url, until))
                    where = f"; looked at {redacted(url)}"
                    raise type(error)(f"{why}{where}{awaited.seen(preparing)}") from None
            self._pause(closed)

    def _read(self, url: str, deadline: float, until: float | None) -> tuple[list[SlotRecord], dict[str, Preparing]]:
        """All slots, and workers that prepare models, once Redis answers."""
        closed, told = self._closed, False
        while True:
            try:
                return _look(url, until)
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                if until is not None and time.monotonic() >= until:
                    raise RequestTimeoutError(f"the time limit is up: {error}") from None
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    logger.warning("waits: %s", error)
                    told = True
            self._pause(closed)

    def _pause(self, closed: int) -> None:
        """Before the next look."""
        self._watch()
        if self._closed != closed:
            raise NoWorkerError("the client was closed while it waited for a worker")
        time.sleep(POLL_SECONDS)


def _look(url: str, until: float | None) -> tuple[list[SlotRecord], dict[str, Preparing]]:
    """Both are read at once: a worker has slots by the time at which it no longer prepares."""
    slots: list[SlotRecord] = []
    preparing: dict[str, Preparing] = {}
    for shard, (workers, its, _) in ask_each(url, read_all, **_patience(until)).items():
        slots += [slot for of_worker in workers.values() for slot in slots_on(shard, of_worker)]
        preparing |= its
    return slots, preparing


def _patience(until: float | None) -> dict[str, Any]:
    """How long a server is asked."""
    if until is None:
        return {"retries": COMMAND_RETRIES, "timeout_seconds": SOCKET_TIMEOUT_SECONDS}
    seconds = max(until - time.monotonic(), LEAST_LOOK_SECONDS)
    return {"retries": 0, "timeout_seconds": min(SOCKET_TIMEOUT_SECONDS, seconds)}


def _draining(url: str, until: float | None) -> list[str]:
    """The workers that are up and drain."""
    told = [one for its in ask_each(url, read_records, **_patience(until)).values() for one in its.items()]
    return [name.rpartition(":")[0] or name for name, record in told if record.facts.draining]
