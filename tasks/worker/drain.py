"""Takes a worker out of service, and back: `control drain` and `control resume`.

    drain    queues are given up --> what no child has begun goes back to them --> slots leave Redis --> what runs ends
    resume   queues are consumed again --> slots are back

A worker that drains stays up, answers `inspect`, and keeps its children with their models. For producers it is gone, as
one that has ended: they wait for another one, or give the chunks of its queue to workers that have others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tasks.preparation.model_set import ModelSet
from tasks.transport.run_folder import draining_path
from tasks.worker.graceful_shutdown import hand_back

logger = logging.getLogger(__name__)


@dataclass
class Drain:
    """Whether one worker takes chunks; `look` is called often, by the main process's timer.

    Attributes:
        controller: Celery's worker.
        models: of the worker.
        heartbeat: tell Redis which slots are up.
        requested: what was asked for last; comes true at the next look.
        is_on: whether the worker takes no chunks.
    """

    controller: Any
    models: ModelSet
    heartbeat: Callable[[], None]
    requested: bool = False
    is_on: bool = False

    def look(self) -> None:
        """Do what is wanted."""
        if self.requested != self.is_on:
            self.is_on = self.requested
            (self._begin if self.is_on else self._end)()
            self.heartbeat()

    def _begin(self) -> None:
        with suppress(OSError):  # a full disk: a child that comes is a slot until the next heartbeat
            draining_path(self.models.folder).touch()
        queues = self.controller.app.amqp.queues
        # So that a new connection does not consume them either.
        for queue in tuple(queues.consume_from):
            queues.deselect(queue)
        hand_back(self.controller)

    def _end(self) -> None:
        draining_path(self.models.folder).unlink(missing_ok=True)
        change_queues(self.controller.consumer.add_task_queue, self.models.queues)


def change_queues(change: Callable[[str], None], queues: Iterable[str]) -> None:
    """Consume these queues, or cease to, by a method of Celery's consumer."""
    for queue in queues:
        try:
            change(queue)
        except (OSError, AttributeError) as error:  # not connected; it heeds them when it is
            logger.warning("cannot change queues: %s", error)
