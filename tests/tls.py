"""Redis behind TLS: certificates made for a test, and what stands before servers that were built without it."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import trustme

_TLS_HANDSHAKE = b"\x16"


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


@dataclass
class TlsProxy:
    """Ends TLS before a server; who comes without, as Sentinels and replicas do, passes as well.

    Attributes:
        server: a socket's path, or a port on this machine.
        spoke_tls: how many connections did.
    """

    server: Path | int
    context: ssl.SSLContext
    spoke_tls: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

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
        with suppress(OSError), client:
            if client.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                client = self.context.wrap_socket(client, server_side=True)
                self.spoke_tls += 1
            with client, self._connect() as server:
                _relay(client, server)

    def _connect(self) -> socket.socket:
        if isinstance(self.server, int):
            return socket.create_connection(("127.0.0.1", self.server))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.server))
        return server


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Until either side ends."""
    one.setblocking(False)
    other.setblocking(False)
    while True:
        # What TLS has decrypted already is seen by nobody but itself.
        pending = [side for side in (one, other) if isinstance(side, ssl.SSLSocket) and side.pending()]
        for side in pending or select.select([one, other], [], [])[0]:
            try:
                data = side.recv(65536)
            except ssl.SSLWantReadError:
                continue
            if not data:
                return
            target = other if side is one else one
            target.setblocking(True)
            target.sendall(data)
            target.setblocking(False)
