"""Asks Redis which models there are, and which slots hold them; waits for a worker where none is up yet."""

from __future__ import annotations

import time
from collections.abc import Callable

from producer.scheduling import model_pinning
from tasks.protocol.records import ModelInfo, SlotRecord
from tasks.protocol.seal import Sealer
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_slots
from worker_config.settings import Settings

POLL_SECONDS = 0.1


def find_models(
    settings: Settings, timeout_seconds: float, watch: Callable[[], None], names: list[str]
) -> tuple[list[ModelInfo], list[SlotRecord]]:
    """The models, in the versions that most slots hold, and the slots that run them.

    Args:
        settings: with the broker's URL.
        timeout_seconds: how long to wait for a worker.
        watch: raises where none will come.
        names: of the models.

    Raises:
        UnknownModelError, NoWorkerError: no worker holds them.
        BrokerError: Redis cannot be reached.
    """
    url, deadline = settings.broker_url or "", time.monotonic() + timeout_seconds
    watch()
    with broker_errors(url), connect(url) as client:
        while not (slots := read_slots(client)) and time.monotonic() < deadline:
            watch()
            time.sleep(POLL_SECONDS)
    infos = model_pinning.pin(names, slots, Sealer(settings.signing_key).key_ids)
    return infos, model_pinning.usable(slots, model_pinning.refs(infos))
