"""What a child does between two chunks: it runs requests, and waits for more of them as well as for the next chunk.

    main process's pipe --chunk--> this child <--requests-- Redis, by a read that blocks (BLMOVE)

A read that blocks is called off (CLIENT UNBLOCK) before a chunk is begun, so that no request waits for a child at work
while another one is free. Requests go before chunks, but a chunk that waits gets a tenth of the child's time.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import redis

from tasks.child.bootstrap import Child
from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tasks.protocol.requests import MAX_REQUEST_BYTES, pack_answers
from tasks.serving.run_requests import lost, run_requests
from tasks.transport.connection import PASSING, connect
from tasks.transport.request_queue import Taken, TakenList
from tasks.transport.run_folder import draining_path, queue_path
from worker_config.broker import address_of
from worker_config.retry_policy import BLOCK_SECONDS, LEAST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
from worker_config.settings import Settings

logger = logging.getLogger(__name__)

# Of the time that a chunk takes: so much may go to requests before the next one. At least a tenth is then left for
# chunks of 20 ms too, between which some milliseconds pass.
REQUEST_SHARE = 5.0
# After a chunk the next one mostly comes within this time; then no read has to be called off.
NEXT_CHUNK_SECONDS = 0.005
# Between chunks that are shorter, requests are looked for so often.
LOOK_SECONDS = 0.01
# After which the child goes on, and asks again: also where its worker's run folder is gone, as the worker ends.
_PASSING = (*PASSING, redis.RedisError, OSError)
# Bytes of one batch.
MAX_BATCH_BYTES = 2 * MAX_REQUEST_BYTES


class RequestLoop:
    """Takes requests in a child, in between its chunks."""

    def __init__(self, child: Child, settings: Settings, folder: Path) -> None:
        url = settings.broker_url or ""
        self._child = child
        self._draining, self._queue_path = draining_path(folder), queue_path(folder)
        self._queue, self._queue_stamp = "", (0, 0)
        self._list = keys.taken(child.worker, child.slot), address_of(url).database
        self._limit_seconds = float(settings.chunk_timeout_seconds)
        self._rows = max((info.batch_rows for info in child.model_cache.infos()), default=1)
        self._client = connect(url, retries=0)
        self._connection: Any = None
        self._id = self._socket = 0
        self._taken: TakenList | None = None
        self._is_blocked = False
        self._try_at = self._pause = 0.0
        self._batches = 0
        self._chunk_began = self._looked_at = 0.0
        self._chunk_seconds = self._spent = 0.0
        # A graph that runs minds no handler of Python's: the system itself ends the child.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            self._connect()
        except _PASSING as error:
            self._disconnect(error)

    def wait(self, pipe: int) -> bool:
        """Run requests until a chunk is in the pipe, for a while at most; whether there is one."""
        try:
            if self._wait(pipe):
                self._chunk_began = time.monotonic()
                return True
        except _PASSING as error:
            self._disconnect(error)
        return False

    def _wait(self, pipe: int) -> bool:
        now = time.monotonic()
        until = now + BLOCK_SECONDS
        if self._chunk_began:
            self._chunk_seconds, self._chunk_began, self._spent = now - self._chunk_began, 0.0, 0.0
            if self._taken and self._is_to_look(now):
                self._looked_at = now
                self._run_waiting(self._taken, self._taken.answer(self._queue, {}, take=True), pipe)
            if _readable(pipe, NEXT_CHUNK_SECONDS):
                return True
        while (left := until - time.monotonic()) > 0:
            taken = self._block()
            if taken is None:
                return _readable(pipe, min(left, 0.2))
            ready = _ready([self._socket, pipe], left)
            if self._socket in ready and (first := self._read(taken)):
                self._run_waiting(taken, taken.take(self._queue, first), pipe)
            if pipe in ready or _readable(pipe, 0):
                if first := self._call_off(taken):
                    self._answer(taken, self._run(taken.take(self._queue, first)), take=False)
                return True
        return False

    def _is_to_look(self, now: float) -> bool:
        """Whether requests may wait as a chunk has been answered, and chunks leave time for them."""
        is_time = now - self._looked_at > LOOK_SECONDS
        return is_time and self._takes_requests and self._child.no_requests_in != self._queue

    def _run_waiting(self, taken: TakenList, batch: Taken | None, pipe: int) -> None:
        """Run this batch, then what waits, as long as no chunk does that has waited long enough."""
        while batch is not None:
            answers = self._run(batch)
            is_turn = self._spent < REQUEST_SHARE * self._chunk_seconds or not _readable(pipe, 0)
            batch = self._answer(taken, answers, take=is_turn and self._takes_requests)

    def _run(self, batch: Taken) -> dict[str, list[Answer]]:
        """Answers to what was taken; none where its callers are gone."""
        if not (batch.run or batch.late):
            return {}
        began = time.monotonic()
        self._batches += 1
        # As Celery's limit for a chunk; the child that comes then tells the callers.
        signal.setitimer(signal.ITIMER_REAL, self._limit_seconds)
        try:
            return run_requests(self._child, batch, self._batches)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._spent += time.monotonic() - began

    def _answer(self, taken: TakenList, answers: dict[str, list[Answer]], *, take: bool) -> Taken | None:
        sealer = self._child.payloads.sealer
        packed = {caller: pack_answers(caller, its, sealer) for caller, its in answers.items()}
        return taken.answer(self._queue, packed, take=take)

    def _block(self) -> TakenList | None:
        """Ask Redis for the next request, if that was not done; None where none are to be taken now."""
        if self._is_blocked:
            return self._taken
        if time.monotonic() < self._try_at or not self._takes_requests:
            return None
        taken = self._taken or self._connect()
        taken.block(self._queue, BLOCK_SECONDS)
        self._is_blocked = True
        return taken

    def _read(self, taken: TakenList) -> bytes | None:
        """What the read gave; None where its time is up."""
        self._is_blocked = False
        return taken.read()

    def _call_off(self, taken: TakenList) -> bytes | None:
        """End the read that blocks; what it gave in this very moment."""
        if not self._is_blocked:
            return None
        self._child.client.client_unblock(self._id)
        return self._read(taken)

    @property
    def _takes_requests(self) -> bool:
        """Whether the worker does not drain; looks for the queue of the models that are served now."""
        if os.path.exists(self._draining):  # noqa: PTH110 - at each batch: a third of what pathlib takes
            return False
        state = os.stat(self._queue_path)  # noqa: PTH116
        stamp = state.st_ino, state.st_mtime_ns
        if stamp != self._queue_stamp:
            self._queue, self._queue_stamp = self._queue_path.read_text(), stamp
        return True

    def _connect(self) -> TakenList:
        """Have a connection, and let callers know of what was taken and is not answered.

        That is what a child died with, or what was under way as Redis went away.
        """
        self._connection = self._client.connection_pool.get_connection()
        self._connection.send_command("CLIENT", "ID")
        self._id = self._connection.read_response()
        self._socket = self._connection._sock.fileno()
        taken = TakenList(self._connection, *self._list, self._rows, MAX_BATCH_BYTES)
        if elements := taken.left():
            self._answer(taken, lost(self._child, elements), take=False)
        self._taken, self._pause = taken, 0.0
        return taken

    def _disconnect(self, error: Exception) -> None:
        """Begin anew, after a pause."""
        self._pause = min(max(2 * self._pause, LEAST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS)
        self._try_at = time.monotonic() + self._pause
        logger.warning("%s takes no requests for %.1f s: %s", self._child, self._pause, error)
        self._is_blocked, self._taken = False, None
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None


def _ready(sources: list[int], seconds: float) -> list[int]:
    poll = select.poll()  # `select` knows no descriptor above 1,023
    for source in sources:
        poll.register(source, select.POLLIN)
    return [source for source, _ in poll.poll(1_000 * seconds)]


def _readable(source: int, seconds: float) -> bool:
    return bool(_ready([source], seconds))
