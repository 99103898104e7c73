"""A proxy before a server of HTTP that plays its faults: it is slow, throttles, or fails in the middle of an upload."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class FaultProxy:
    """What it does to requests whose first line has one of these words.

    Attributes:
        refused: by the word how many more are answered by a status, and by which.
        delay_seconds: of each request.
        unanswered: how many more requests get no answer at all.
        unconfirmed: how many more are passed on, and their connection ends in the middle of the answer.
        seen: the first lines of all requests, and what ranges they asked for; without those that nobody waited for any
            more when they were answered, which are asked again.
    """

    endpoint: str
    refused: dict[str, tuple[int, int]] = field(default_factory=dict)
    delay_seconds: float = 0.0
    unanswered: int = 0
    unconfirmed: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)

    def fault(self, line: str) -> int:
        """The status that a request is answered by instead; 0 for none."""
        for word, (count, status) in self.refused.items():
            if word in line and count > 0:
                self.refused[word] = (count - 1, status)
                return status
        return 0


@contextmanager
def proxy_before(port: int) -> Iterator[FaultProxy]:
    """A proxy before the server at this port of loopback."""
    lock, ended = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(proxy.delay_seconds)
            request = f"{self.command} {self.path}", self.headers.get("Range", "")
            with lock:
                proxy.seen.append(request)
                status = proxy.fault(request[0])
                is_lost = proxy.unanswered > 0
                proxy.unanswered -= is_lost
                is_cut = not is_lost and not status and proxy.unconfirmed > 0
                proxy.unconfirmed -= is_cut
            if is_lost:
                ended.wait()
                return
            try:
                self._pass_on(status, body, is_cut)
            except ConnectionError:
                self.close_connection = True
                with lock, suppress(ValueError):
                    proxy.seen.remove(request)

        def _pass_on(self, status: int, body: bytes, is_cut: bool) -> None:
            if status:
                self._answer(status, {"Content-Type": "application/xml"}, _SLOW_DOWN)
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                told = answer.read()
                if is_cut:
                    raise ConnectionError("in the middle")
                self._answer(answer.status, dict(answer.getheaders()), told)
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield proxy
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
