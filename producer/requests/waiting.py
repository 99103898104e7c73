"""Requests of one caller that wait for their answers: which ones, since when, and what became of them.

This is what threads and event loops have in common; how they wait is their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from producer.requests.targets import Target, Targets
from tasks.protocol.messages import Answer
from tasks.protocol.requests import unpack_answers
from tasks.protocol.seal import Sealer
from tasks.transport import request_queue
from worker_config.errors import CeleriacError

# Whoever took a request is looked for once it has waited so long.
LOOK_SECONDS = 1.0
# Looks in a row that have to miss a request: an answer may be on its way.
LOOKS = 2


@dataclass(slots=True)
class Waiting:
    """A request; `wake` is called once, when it is `done`: with an answer, or without where a job has to do it."""

    id: str
    target: Target
    wake: Callable[[], None]
    since: float = field(default_factory=time.monotonic)
    done: bool = False
    answer: Answer | None = None
    error: Exception | None = None
    missed: int = 0

    def end(self, answer: Answer | None, error: Exception | None = None) -> None:
        """It has an answer, or will have none."""
        if not self.done:
            self.answer, self.error, self.done = answer, error, True
            self.wake()


class WaitingList:
    """All requests of a caller that wait."""

    def __init__(self) -> None:
        self.by_id: dict[str, Waiting] = {}
        self._looked = time.monotonic()

    def end_all(self) -> None:
        """The connection was lost, and answers with it."""
        for one in list(self.by_id.values()):
            one.end(None)

    def take(self, message: Mapping[str, Any], caller: str, sealer: Sealer) -> None:
        """What the caller's channel tells: answers, of which those that nobody waits for are dropped.

        Once more that it is subscribed to: what was told in between is lost, as is what cannot be read.
        """
        if message["type"] == "subscribe":
            return self.end_all()
        try:
            answers = unpack_answers(caller, message["data"], sealer)
        except CeleriacError:
            return self.end_all()
        for answer in answers:
            one = self.by_id.get(answer.job)
            if one is not None:
                one.end(answer)

    def overdue(self) -> list[Waiting]:
        """Those that are to be looked for now, if it is time to look."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        return [one for one in list(self.by_id.values()) if not one.done and now - one.since >= LOOK_SECONDS]

    def missed(self, missing: Iterable[Waiting]) -> None:
        """Nobody has these; a job will do what was missed before."""
        for one in missing:
            one.missed += 1
            if one.missed >= LOOKS:
                one.end(None)


def by_queue(requests: Iterable[tuple[Waiting, bytes]]) -> dict[str, list[tuple[Waiting, bytes]]]:
    """Requests with what is sent of them, by where they go."""
    found: dict[str, list[tuple[Waiting, bytes]]] = {}
    for one, element in requests:
        found.setdefault(one.target.queue, []).append((one, element))
    return found


def lost(client: redis.Redis, targets: Targets, overdue: Iterable[Waiting]) -> set[str]:
    """The ids of those that whoever took them is gone with; asks Redis."""
    by_names: dict[tuple[str, ...], list[str]] = {}
    for one in overdue:
        by_names.setdefault(tuple(info.name for info in one.target.infos), []).append(one.id)
    ids: set[str] = set()
    for names, its in by_names.items():
        try:
            ids |= request_queue.missing(client, targets.of(names, time.monotonic(), anew=True).lists, its)
        except CeleriacError:
            ids |= set(its)
    return ids
