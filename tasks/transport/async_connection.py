"""Opens connections to Redis for event loops: the same servers, logins, checks and time limits as `connection`."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry

from tasks.transport.connection import BACKOFF, LOST, check_kind, login_options, sentinels_of
from worker_config.broker import BrokerAddress, address_of
from worker_config.retry_policy import COMMAND_RETRIES, SOCKET_TIMEOUT_SECONDS


def connect_async(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> redis.asyncio.Redis:
    """A client for `url`, of the loop that runs; it connects at its first command.

    Commands are sent again after a lost connection, so each must be harmless when it is carried out twice.
    """
    address = address_of(url)
    options = login_options(address, timeout_seconds) | {
        "retry": Retry(BACKOFF, COMMAND_RETRIES, supported_errors=LOST),  # type: ignore[arg-type]
        "redis_connect_func": _log_in,
    }
    kind, way = _way_to(address)
    pool = redis.asyncio.ConnectionPool(connection_class=kind, **way, **options)  # type: ignore[arg-type]
    return redis.asyncio.Redis.from_pool(pool)


def _way_to(address: BrokerAddress) -> tuple[Any, dict[str, Any]]:
    """The kind of connections, and what they are told of where they lead."""
    if address.scheme == "unix":
        return redis.asyncio.UnixDomainSocketConnection, {"path": address.path}
    if address.master:
        return _ToPrimary if address.tls is None else _ToPrimaryByTls, {
            "sentinels": sentinels_of(address),
            "master": address.master,
        }
    ((host, port),) = address.hosts
    return redis.asyncio.Connection if address.tls is None else redis.asyncio.SSLConnection, {
        "host": host,
        "port": port,
    }


class _ToPrimary(redis.asyncio.Connection):
    """Asks the Sentinels before each connection; an old primary may be back where the last one led."""

    def __init__(self, *, sentinels: Any, master: str, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels, self._master = sentinels, master

    async def _connect(self) -> None:
        # They are few and seldom asked: what knows how to ask them does so in a thread.
        self.host, self.port = await asyncio.to_thread(self._sentinels.discover_master, self._master)
        await super()._connect()  # type: ignore[no-untyped-call]


class _ToPrimaryByTls(_ToPrimary, redis.asyncio.SSLConnection):
    """The same by TLS."""


async def _log_in(connection: Any) -> None:
    """As redis-py does by itself; then look at what kind of server this is."""
    await connection.on_connect_check_health(check_health=False)  # as in `connection`
    await connection.send_command("HELLO", check_health=False)
    reply = await connection.read_response()
    check_kind(reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True)))
