"""`celeriac dashboard` as a process, and what a browser would ask of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.systems import BIN, SIGNING
from tests.waiting import wait_for_exit, wait_until

ANSWER_SECONDS = 60.0


@dataclass
class Dashboard:
    """One that runs: the page's address, and the token that changes something."""

    process: subprocess.Popen[bytes]
    page: str
    token: str

    @property
    def port(self) -> int:
        port = urlsplit(self.page).port
        assert port
        return port

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], str]:
        """The status, headers and text of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def press(self, path: str, body: object = None) -> tuple[int, str]:
        """What a button does: the status, and what is said."""
        status, _, text = self.ask("POST", path, body, Authorization=f"Bearer {self.token}")
        return status, json.loads(text)["text"]

    @contextmanager
    def looking(self, path: str = "/events") -> Iterator[Events]:
        """Look, as a page does."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path)
            yield Events(connection.getresponse())
        finally:
            connection.close()


class Events:
    """A stream of events, as values by key."""

    def __init__(self, answer: HTTPResponse) -> None:
        assert answer.status == 200
        self._answer = answer
        self.kinds: list[str] = []
        self.values: dict[str, Any] = {}

    def next(self) -> dict[str, Any]:
        """Take one event; what it tells."""
        kind, told = "", None
        while line := self._answer.readline().decode().rstrip("\n"):
            name, _, text = line.partition(": ")
            if name == "event":
                kind = text
            elif name == "data":
                told = json.loads(text)
        if told is None:  # a sign of life
            return {"values": {}, "gone": []}
        self.kinds.append(kind)
        self.values = {**(self.values if kind == "change" else {}), **told["values"]}
        for key in told["gone"]:
            del self.values[key]
        return dict(told)

    def until(self, true: Any) -> Any:
        """Take events until this function of the values gives something."""
        while not (found := true(self.values)):
            self.next()
        return found


@contextmanager
def dashboard(url: str, folder: Path, *options: str) -> Iterator[Dashboard]:
    """One of this Redis, at a port that is free; it ends with the block."""
    output, errors = folder / "dashboard.out", folder / "dashboard.err"
    command = [str(BIN / "celeriac"), "dashboard", "--broker", url, "--port", "0", *options]
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=folder, env=_environ())

    def address() -> str:
        assert process.poll() is None, errors.read_text()
        return next((word for word in output.read_text().split() if "#token=" in word), "")

    try:
        page, _, token = wait_until(address, "the dashboard is served").partition("#token=")
        yield Dashboard(process, page, token)
    finally:
        process.terminate()
        try:
            wait_for_exit(process)
        finally:
            process.kill()


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")} | SIGNING
