"""A producer's claim of a job's name: taken once in all the system, renewed by a thread, given back or left to expire.

name --take--> nobody else runs it --renew, every few seconds--> --end--> how it ended
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from producer.records import job_names
from producer.records.job_names import CLAIM_SECONDS, RENEW_SECONDS, Ended, Named, Work
from tasks.transport.connection import broker_errors, connect
from worker_config.errors import BrokerError


class NameClaim:
    """One process's claim; `lost_to` is who took it meanwhile, as this process, or Redis, stood still for too long.

    Attributes:
        on_lost: is called when it is lost, by the thread that renews it.
    """

    name: str
    owner: str
    lost_to: str

    def __init__(self, broker_url: str, name: str, keep_seconds: int) -> None:
        self.name, self.lost_to = name, ""
        self.on_lost: Callable[[], object] = lambda: None
        self.owner = f"{socket.gethostname()}:{os.getpid()} ({secrets.token_hex(4)})"
        self._url, self._keep_seconds = job_names.url_of_names(broker_url), keep_seconds
        self._client = connect(self._url)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> str:
        """Try to claim the name; empty if that could be done, else who has it. Raises BrokerError."""
        owner = self._claim(CLAIM_SECONDS)
        if owner != self.owner:
            return owner
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._renew, name="celeriac-claim", daemon=True)
            self._thread.start()
        return ""

    def read(self) -> Named:
        """What is known of the name; raises BrokerError, MessageError."""
        with broker_errors(self._url):
            return job_names.read(self._client, self.name)

    def begin(self, work: Work) -> None:
        """Tell what is done from now on; raises BrokerError."""
        self._claim(CLAIM_SECONDS, work=msgspec.json.encode(work).decode(), ended="", job="")

    def note_job(self, job_id: str) -> None:
        """Tell which job it is, for who wants to watch it."""
        with suppress(BrokerError):
            self._claim(CLAIM_SECONDS, job=job_id)

    def give_back(self, ended: Ended | None = None) -> None:
        """Let others have the name, and tell how it ended, if it did."""
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None
            with suppress(BrokerError):  # it expires
                self._claim(0, **({"ended": msgspec.json.encode(ended).decode()} if ended else {}))

    def close(self) -> None:
        """Give it back, and end the connection."""
        self.give_back()
        self._client.close()

    def _claim(self, seconds: int, **fields: str) -> str:
        with broker_errors(self._url):
            return job_names.claim(self._client, self.name, self.owner, seconds, self._keep_seconds, **fields)

    def _renew(self) -> None:
        """One look alone may meet who finds, with a Redis that has lost all, that the output is being written."""
        last = ""
        while not self._ended.wait(RENEW_SECONDS if not last else 1.0):
            try:
                owner = self._claim(CLAIM_SECONDS)
            except BrokerError:
                continue
            if owner == self.owner:
                last = ""
            elif last:
                self.lost_to = owner
                self.on_lost()
                return
            else:
                last = owner
