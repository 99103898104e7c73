"""Serves the dashboard until it is told to end: an address, a broker --> a page.

socket, bound here --uvicorn--> `web`, which reads Redis by one client of its own, as long as somebody looks
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType

import uvicorn

from producer.broker.shard_clients import open_shards
from producer.dashboard.overview import JobView, Overview
from producer.dashboard.web import Feeds, make_app, plotly_path
from tasks.protocol.seal import Viewer
from worker_config.errors import ConfigError

# Redis is asked again at the next tick.
ANSWER_SECONDS = 3.0
# Of browsers that do not close their streams.
FAREWELL_SECONDS = 2
MOST_CONNECTIONS = 500


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def bind(self) -> socket.socket:
        """Take it; raises ConfigError where it cannot be had."""
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, OverflowError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise ConfigError(
                f"the dashboard cannot listen at {self.host}:{self.port}: {why}; choose another --port or --host"
            ) from None


def serve(url: str, viewer: Viewer, address: Address, ready: Callable[[str], None]) -> None:
    """Serve the dashboard of the Redis at `url` until SIGINT or SIGTERM; `ready` is told the page's URL with the token.

    Raises:
        ConfigError: the address cannot be had, or something is not installed.
    """
    plotly_path()
    token = secrets.token_urlsafe(24)
    with address.bind() as listener, open_shards(url, retries=0, timeout_seconds=ANSWER_SECONDS) as shards:
        overview = Overview(viewer)
        feeds = Feeds(partial(overview.read, shards), lambda job_id: partial(JobView(viewer, job_id).read, shards))
        # So that no other site's page gets in by a name that leads here.
        hosts = ["localhost", "127.0.0.1", "[::1]", address.host] if address.is_local else ["*"]
        config = uvicorn.Config(
            make_app(url, token, feeds, hosts),
            access_log=False,
            http="h11",
            lifespan="off",
            limit_concurrency=MOST_CONNECTIONS,
            log_config=None,
            loop="asyncio",
            server_header=False,
            timeout_graceful_shutdown=FAREWELL_SECONDS,
            ws="none",
        )
        host = f"[{address.host}]" if ":" in address.host else address.host
        ready(f"http://{host}:{listener.getsockname()[1]}/#token={token}")
        _Server(config, feeds).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends its streams, too, when it is told to end."""

    def __init__(self, config: uvicorn.Config, feeds: Feeds) -> None:
        super().__init__(config)
        self._feeds = feeds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn does."""
        self._feeds.close()
        super().handle_exit(sig, frame)
