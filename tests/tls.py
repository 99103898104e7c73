"""Redis behind TLS: certificates made for a test, and what stands before servers that were built without it."""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import trustme

_TLS_HANDSHAKE = b"\x16"
# Of what comes, and of what the other side has not taken yet.
_PIECE, _MOST_UNSENT = 1 << 16, 1 << 20
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True)
class Certificates:
    """A private CA, of which servers and clients have theirs; `urls` give clients what they need."""

    ca: trustme.CA
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(folder / "ca.pem")
        client = ca.issue_cert("client.example.org")
        client.private_key_pem.write_to_path(folder / "client.key")
        client.cert_chain_pems[0].write_to_path(folder / "client.pem")
        return cls(ca, folder)

    def server_context(self, name: str = "localhost") -> ssl.SSLContext:
        """For a server that wants to see its clients' certificates."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def options(self, *, with_ca: bool = True, with_client: bool = True) -> str:
        """What a URL says of them, from the `?` on."""
        options = {"ssl_ca_certs": "ca.pem"} if with_ca else {}
        options |= {"ssl_certfile": "client.pem", "ssl_keyfile": "client.key"} if with_client else {}
        return f"?{urlencode({name: self.folder / file for name, file in options.items()})}"


@cache
def certificates() -> Certificates:
    """Those of all servers of this process that others reach by TLS."""
    return Certificates.make(Path(tempfile.mkdtemp(prefix="tls-")))


@dataclass
class TlsProxy:
    """Ends TLS before a server; who comes without, as Sentinels and replicas do, passes as well.

    Attributes:
        server: a socket's path, or a port on this machine.
        port: its own; any that is free, unless told.
        spoke_tls: how many connections did.
    """

    server: Path | int
    context: ssl.SSLContext
    port: int = 0
    spoke_tls: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> TlsProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that accepts would go on, were it only closed.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        by_port = isinstance(self.server, int)
        with suppress(OSError), client, socket.socket(socket.AF_INET if by_port else socket.AF_UNIX) as server:
            server.connect(("127.0.0.1", self.server) if by_port else str(self.server))
            # As with Redis itself: no handshake while it stands still, nor where it has no room for more clients.
            server.sendall(b"PING\r\n")
            if server.recv(1000).startswith(b"-ERR max number of clients"):
                return
            if client.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                client = self.context.wrap_socket(client, server_side=True)
                self.spoke_tls += 1
            with client:
                _relay(client, server)


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Until either side ends; neither has to wait until the other has read."""
    others = {client: server, server: client}
    unsent = {client: bytearray(), server: bytearray()}
    for side in others:
        side.setblocking(False)
    poll = select.poll()  # which knows no largest descriptor
    while True:
        for side, other in others.items():
            has_room = len(unsent[other]) < _MOST_UNSENT
            poll.register(side, select.POLLIN * has_room | select.POLLOUT * bool(unsent[side]))
        # What TLS has decrypted already is seen by nobody but itself.
        decrypted = isinstance(client, ssl.SSLSocket) and client.pending() and len(unsent[server]) < _MOST_UNSENT
        poll.poll(0 if decrypted else None)
        for side, other in others.items():
            with suppress(*_LATER):
                while len(unsent[other]) < _MOST_UNSENT:
                    if not (data := side.recv(_PIECE)):
                        other.setblocking(True)
                        other.sendall(unsent[other])
                        return
                    unsent[other] += data
        for side, data in unsent.items():
            with suppress(*_LATER):
                while data:
                    del data[: side.send(data)]
