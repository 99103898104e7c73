"""Opens connections to Redis with time limits, and turns redis-py's errors into ours."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import redis
from redis._parsers.base import BaseParser
from redis.backoff import ExponentialBackoff
from redis.exceptions import ClusterDownError, MovedError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from tasks.protocol import keys
from tasks.transport import scripts
from worker_config.broker import BrokerAddress, SentinelOptions, address_of, redacted, sentinel_options
from worker_config.errors import BrokerError, BrokerFullError, BrokerRefusedError
from worker_config.retry_policy import (
    COMMAND_RETRIES,
    CONNECT_TIMEOUT_SECONDS,
    HEALTH_CHECK_SECONDS,
    LEAST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
)

logger = logging.getLogger(__name__)

# Of errors in connecting that waiting does not mend, what they have in their text, as OpenSSL and redis-py word it.
_OWN_CERTIFICATE = "give a certificate that it trusts as ssl_certfile=FILE and ssl_keyfile=FILE in the broker URL"
_REFUSED = (
    ("CERTIFICATE_VERIFY_FAILED", "name the CA of its certificate as ssl_ca_certs=FILE in the broker URL"),
    ("CERTIFICATE", _OWN_CERTIFICATE),
    ("UNKNOWN_CA", _OWN_CERTIFICATE),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS at this port: give another one, or a URL without TLS"),
)
# As redis-py words what happened to a command of a pipeline; what it writes follows the key.
_OF_PIPELINE = re.compile(r"^Command # \d+ \((\S+(?: \S+)?)(?: .*)?\) of pipeline caused error: (.*)$", re.DOTALL)
# What a server answers that has become a replica, cannot save, or is not up again: another connection may lead to
# another server, or to itself when it has been mended.
_UNFIT = (ReadOnlyError, ClusterDownError, MovedError)
LOST = (redis.ConnectionError, redis.TimeoutError, TimeoutError, *_UNFIT)
# After which what was asked for may be asked for again, by whoever has time; rights can be given back.
PASSING = (*LOST, OutOfMemoryError, NoPermissionError)
BACKOFF = ExponentialBackoff(LONGEST_BACKOFF_SECONDS, LEAST_BACKOFF_SECONDS)
# Made once: for each connection redis-py reads its own version from the disk, but for those of before 7.2.
_DRIVER = {"driver_info": redis.connection.DriverInfo()} if hasattr(redis.connection, "DriverInfo") else {}

# For these redis-py knows no errors of their own: a server that takes no writes since it cannot save, has fewer
# replicas than it must have, or runs somebody's long script; and one that becomes a replica while somebody waits for
# an item of a list.
_UNFIT_CODES = dict.fromkeys(["MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED"], ReadOnlyError)

# By their port redis-py counts connections that are lost; without one, those of Celery too, that ends in an error.
redis.UnixDomainSocketConnection.port = 0  # type: ignore[attr-defined]


def connect(
    url: str,
    *,
    retries: int = COMMAND_RETRIES,
    timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    waits_for_room: bool = False,
) -> redis.Redis:
    """A client for `url`; it connects at its first command.

    Commands are sent again after a lost connection, with pauses from 0.1 to 2 seconds, so each must be harmless
    when it is carried out twice. With `waits_for_room` they are, too, when Redis has no memory left.
    """
    full = (OutOfMemoryError,) if waits_for_room else ()
    address = address_of(url)
    options = login_options(address, timeout_seconds) | {
        "retry": _Retry(BACKOFF, retries, supported_errors=(*LOST, *full)),
        "redis_connect_func": _log_in,
    }
    return _Client.from_pool(_pool(address, options))


def login_options(address: BrokerAddress, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> dict[str, Any]:
    """What redis-py is told of any connection, but for where it leads."""
    options = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": min(CONNECT_TIMEOUT_SECONDS, timeout_seconds),
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "db": address.database,
        "username": address.username,
        "password": address.password,
        **_DRIVER,
    }
    # A Unix socket knows no keep-alive.
    return options if address.scheme == "unix" else {**options, "socket_keepalive": True, **(address.tls or {})}


def _pool(address: BrokerAddress, options: dict[str, Any]) -> redis.ConnectionPool:
    if address.scheme == "unix":
        return redis.ConnectionPool(connection_class=_UnixConnection, path=address.path, **options)
    if address.master:
        options["connection_class"] = _PrimaryConnection if address.tls is None else _TlsPrimaryConnection
        return SentinelConnectionPool(address.master, sentinels_of(address), **options)  # type: ignore[no-untyped-call]
    ((host, port),) = address.hosts
    kind = _Connection if address.tls is None else _TlsConnection
    return redis.ConnectionPool(connection_class=kind, host=host, port=port, **options)


def sentinels_of(address: BrokerAddress) -> Sentinel:
    """The Sentinels of this address, to be asked for their primary."""
    return _Sentinels(address.hosts, sentinel_kwargs=sentinel_options(address))  # type: ignore[no-untyped-call]


@cache
def _knowing(parser: Any) -> Any:
    return type(parser.__name__, (parser,), {"EXCEPTION_CLASSES": parser.EXCEPTION_CLASSES | _UNFIT_CODES})


class _Knowing:
    """A connection of ours that knows these errors; others in the process keep to redis-py's."""

    def set_parser(self, parser_class: Any) -> None:
        """As redis-py does."""
        super().set_parser(_knowing(parser_class))  # type: ignore[misc]


class _Connection(_Knowing, redis.Connection):
    pass


class _TlsConnection(_Knowing, redis.SSLConnection):
    pass


class _UnixConnection(_Knowing, redis.UnixDomainSocketConnection):
    pass


class _PrimaryConnection(_Knowing, SentinelManagedConnection):
    pass


class _TlsPrimaryConnection(_Knowing, SentinelManagedSSLConnection):
    pass


def know_errors_of_all() -> None:
    """Let all connections of this process, a worker's, know these errors: also those of Celery, and of its scripts."""
    BaseParser.EXCEPTION_CLASSES |= _UNFIT_CODES
    BaseParser.parse_error = classmethod(_by_cause)  # type: ignore[assignment]


_as_redis_does = BaseParser.parse_error.__func__  # type: ignore[attr-defined]


def _by_cause(parser: Any, response: str) -> redis.RedisError:
    return scripts.by_cause(_as_redis_does(parser, response))


_connect_as_redis_does = SentinelManagedConnection._connect


def _connect_to_primary(self: Any) -> Any:
    """Ask the Sentinels before each connection; redis-py asks once, and all tries of a command go where that led.

    See redis/redis-py#3874. An old primary may be back there, as a replica or, worse, as a primary still. Celery's own
    connections are of this class, too; those of anybody else are told by the options for their Sentinels.
    """
    if not isinstance(self.connection_pool.sentinel_manager.sentinel_kwargs, SentinelOptions):
        return _connect_as_redis_does(self)  # type: ignore[no-untyped-call]
    if self.connection_pool.is_master:
        self.host, self.port = self.connection_pool.get_master_address()
    return super(SentinelManagedConnection, self)._connect()


SentinelManagedConnection._connect = _connect_to_primary  # type: ignore[method-assign]


class _Sentinels(Sentinel):
    """Says in few words why there is no server; redis-py itself tells all settings of its clients instead."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The address of the primary, from the first Sentinel that knows one."""
        errors = []
        for sentinel in list(self.sentinels):
            try:
                masters = cast("dict[str, dict[str, Any]]", sentinel.sentinel_masters())
            except redis.AuthenticationError as error:
                raise redis.AuthenticationError(f"that of Sentinels, sentinel_password: {error}") from None
            except (redis.ConnectionError, redis.TimeoutError) as error:
                errors.append(str(error))
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                # It is asked first from now on.
                self.sentinels.sort(key=lambda one: one is not sentinel)
                return state["ip"], state["port"]
        raise MasterNotFoundError("; ".join([f"no Sentinel knows a primary {service_name!r} that is up", *errors]))


class _Client(redis.Redis):
    """Says which command and key were refused, as pipelines do; some servers name neither."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py does."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except NoPermissionError as error:
            # The key of a script comes after its text, or hash, and a number.
            command = args[:1] + args[3:4] if str(args[0]).startswith("EVAL") else args[:2]
            raise NoPermissionError(f"{error}: {' '.join(map(str, command))}") from None


class _WrongServerError(redis.RedisError):
    """A server that answers, and that we cannot work with."""


def _log_in(connection: Any) -> None:
    """As redis-py does by itself; then look at what kind of server this is.

    A new connection needs no trial: `on_connect` would try one that was idle for long, and, where a server accepts it
    and does not answer, connect again in the middle of that, and again in that, without an end.
    """
    connection.on_connect_check_health(check_health=False)
    greeting = connection.handshake_metadata
    if greeting is None:  # of RESP2, which older redis-py speaks
        connection.send_command("HELLO", check_health=False)
        reply = connection.read_response()
        greeting = dict(zip(reply[::2], reply[1::2], strict=True))
    check_kind(greeting)


def check_kind(greeting: dict[bytes, Any]) -> None:
    """Raise an error that `broker_errors` knows, if a server that greets so is none for us."""
    mode = greeting.get(b"mode")
    if mode == b"cluster":
        raise _WrongServerError(
            "is a cluster, with which Celery does not work, as it takes messages from several keys at once; "
            "give the URL of a single server, or of Sentinels"
        )
    if mode == b"sentinel":
        raise _WrongServerError("is a Sentinel; write sentinel://HOST:PORT,HOST:PORT/NAME/DB")


@contextmanager
def broker_errors(url: str) -> Iterator[None]:
    """Turn redis-py's errors in the block into a BrokerError that names the server, without its password."""
    try:
        yield
    except NoPermissionError as error:
        refused = _OF_PIPELINE.sub(r"\2: \1", str(error))
        raise BrokerRefusedError(
            f"Redis at {redacted(url)} refuses this user a right ({refused}); "
            "`celeriac doctor --acl` tells those that it needs"
        ) from None
    except redis.AuthenticationError as error:
        raise BrokerRefusedError(
            f"Redis at {redacted(url)} refuses the user or password ({error}); mend the broker URL"
        ) from None
    except _WrongServerError as error:
        raise BrokerRefusedError(f"Redis at {redacted(url)} {error}") from None
    except OutOfMemoryError:
        raise BrokerFullError(
            f"Redis at {redacted(url)} is full; give it more memory (maxmemory), or wait until others have gone"
        ) from None
    except redis.ConnectionError as error:
        why = str(error)
        if advice := next((advice for sign, advice in _REFUSED if sign in why), None):
            raise BrokerRefusedError(f"Redis at {redacted(url)} cannot be logged in to ({why}); {advice}") from None
        raise BrokerError(
            f"Redis at {redacted(url)} cannot be reached ({why}); is it running, and is the broker URL right?"
        ) from None
    except _UNFIT as error:
        raise BrokerError(f"Redis at {redacted(url)} takes no writes ({error})") from None
    except redis.RedisError as error:
        why = _OF_PIPELINE.sub(r"\2", str(error))
        if why.partition(" ")[0] in _UNFIT_CODES:  # of a connection of Celery's
            raise BrokerError(f"Redis at {redacted(url)} takes no writes ({why})") from None
        raise BrokerError(f"Redis at {redacted(url)} does not do its part: {error}") from None


class _Retry(Retry):
    """Says now and then that a server does not answer; redis-py waits without a word.

    Attributes:
        failed: tries of commands of this process, so far, of which nobody knows whether they were carried out.
    """

    failed = 0

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        """As redis-py does."""

        def told(error: Exception, *failures: int) -> Any:
            _Retry.failed += 1
            if isinstance(error, redis.TimeoutError):
                logger.warning("Redis does not answer (%s); asked again", error)
            return fail(error, *failures)

        return super().call_with_retry(do, told, *args, **options)


def failed_tries() -> int:
    """How often a command of this process failed so far, and may have been carried out all the same."""
    return _Retry.failed


def check_takes_writes(url: str) -> None:
    """Ask the server whether it is up and does its part, once.

    Raises:
        BrokerError: it cannot be reached, refuses us, or takes no writes.
    """
    with broker_errors(url), connect(url, retries=0) as client:
        client.persist(keys.PROBE)  # which is never there


def ping(url: str) -> None:
    """Ask the server for a sign of life, once.

    Raises:
        BrokerError: it cannot be reached, or refuses us.
    """
    with broker_errors(url), connect(url, retries=0) as client:
        client.ping()


def wait_until_up(broker_url: str) -> None:
    """Try until Redis answers, and say so: containers start in any order.

    Raises:
        BrokerRefusedError: the password is refused, which will not get better by waiting.
    """
    while True:
        try:
            return ping(broker_url)
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            print(f"celeriac: {error} Trying again.", file=sys.stderr, flush=True)
            time.sleep(LONGEST_BACKOFF_SECONDS)
