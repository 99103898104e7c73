"""What a child does between two chunks: it runs requests, and waits for more of them as well as for the next chunk.

    main process's pipe --chunk--> this child <--requests-- Redis, by a read that blocks (BLMOVE)

A read that blocks is called off (CLIENT UNBLOCK) before a chunk is begun, so that no request waits for a child at work
while another one is free. Requests go before chunks, but a chunk that waits gets a tenth of the child's time.
"""

from __future__ import annotations

import logging
import select
import signal
import time
from pathlib import Path
from typing import Any, cast

import redis

from tasks.child.bootstrap import Child
from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tasks.protocol.requests import MAX_REQUEST_BYTES, pack_answers
from tasks.serving.run_requests import lost, run_requests
from tasks.transport import request_queue
from tasks.transport.connection import PASSING, connect
from tasks.transport.run_folder import draining_path, queue_path
from worker_config.broker_url import address_of
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
        self._folder = folder
        self._queue = ""
        self._taken = keys.taken(child.worker, child.slot)
        self._database = address_of(url).database
        self._limit_seconds = float(settings.chunk_timeout_seconds)
        self._rows = max((info.batch_rows for info in child.model_cache.infos()), default=1)
        self._client = connect(url, retries=0)
        self._connection: Any = None
        self._id = 0
        self._is_blocked = False
        self._try_at = self._pause = 0.0
        self._has_lost = True  # requests: those of the child before it
        self._batches = 0
        self._chunk_began = self._looked_at = 0.0
        self._chunk_seconds = self._spent = 0.0
        # A graph that runs minds no handler of Python's: the system itself ends the child.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            self._tell_lost()
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
            if now - self._looked_at > LOOK_SECONDS:
                self._looked_at = now
                self._run_waiting(pipe)
            if _readable(pipe, NEXT_CHUNK_SECONDS):
                return True
        while (left := until - time.monotonic()) > 0:
            if not self._block():
                return _readable(pipe, min(left, 0.2))
            socket = self._connection._sock.fileno()
            ready = [socket] if self._connection.can_read(0) else _ready([socket, pipe], left)
            if socket in ready and (first := self._read()):
                self._run(first)
                if _readable(pipe, 0):
                    self._run_waiting(pipe)
            if pipe in ready or _readable(pipe, 0):
                if first := self._call_off():
                    self._run(first)
                return True
        return False

    def _run_waiting(self, pipe: int) -> None:
        """Run what waits, as long as no chunk does that has waited long enough."""
        while self._queue and not (self._has_lost or self._is_draining) and self._run(None):
            if self._spent >= REQUEST_SHARE * self._chunk_seconds and _readable(pipe, 0):
                return

    def _run(self, first: bytes | None) -> bool:
        """Run a batch that begins with this request, or with the one that waits first; whether there was one."""
        began = time.monotonic()
        most = self._rows, MAX_BATCH_BYTES
        taken = request_queue.take(self._child.client, self._queue, self._taken, self._database, *most, first)
        if taken is None:
            return False
        if not (taken.run or taken.late):  # their callers are gone
            return True
        self._batches += 1
        # As Celery's limit for a chunk; the child that comes then tells the callers.
        signal.setitimer(signal.ITIMER_REAL, self._limit_seconds)
        try:
            self._give(run_requests(self._child, taken, self._batches))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._spent += time.monotonic() - began
        return True

    def _give(self, answers: dict[str, list[Answer]]) -> None:
        sealer = self._child.payloads.sealer
        packed = {caller: pack_answers(caller, its, sealer) for caller, its in answers.items()}
        request_queue.answer(self._child.client, self._taken, self._database, packed)

    def _block(self) -> bool:
        """Ask Redis for the next request, if that was not done; False where none are to be taken now."""
        if self._is_blocked:
            return True
        if self._is_draining or time.monotonic() < self._try_at:
            return False
        self._tell_lost()
        # Other models may have come.
        self._queue = queue_path(self._folder).read_text()
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
            self._connection.send_command("CLIENT", "ID")
            self._id = self._connection.read_response()
            self._pause = 0.0
        source = keys.requests(self._queue)
        self._connection.send_command("BLMOVE", source, self._taken, "LEFT", "RIGHT", BLOCK_SECONDS)
        self._is_blocked = True
        return True

    def _read(self) -> bytes | None:
        """What the read gave; None where its time is up."""
        self._is_blocked = False
        return cast("bytes | None", self._connection.read_response())

    def _call_off(self) -> bytes | None:
        """End the read that blocks; what it gave in this very moment."""
        if not self._is_blocked:
            return None
        self._child.client.client_unblock(self._id)
        return self._read()

    @property
    def _is_draining(self) -> bool:
        return draining_path(self._folder).exists()

    def _tell_lost(self) -> None:
        """Let callers know of what was taken and is not answered: by a child that died, or as Redis was away."""
        if self._has_lost:
            self._give(lost(self._child, cast("list[bytes]", self._child.client.lrange(self._taken, 0, -1))))
            self._has_lost = False

    def _disconnect(self, error: Exception) -> None:
        """Begin anew, after a pause."""
        self._has_lost = True
        self._pause = min(max(2 * self._pause, LEAST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS)
        self._try_at = time.monotonic() + self._pause
        logger.warning("%s takes no requests for %.1f s: %s", self._child, self._pause, error)
        self._is_blocked = False
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
