"""Opens connections to Redis with time limits, and turns redis-py's errors into ours."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from worker_config.broker_url import redacted, redis_url
from worker_config.errors import BrokerError, BrokerFullError, BrokerRefusedError
from worker_config.retry_policy import (
    COMMAND_RETRIES,
    CONNECT_TIMEOUT_SECONDS,
    HEALTH_CHECK_SECONDS,
    LEAST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
)

_LOST = (redis.ConnectionError, redis.TimeoutError, TimeoutError)


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
    address = redis_url(url)
    full = (redis.exceptions.OutOfMemoryError,) if waits_for_room else ()
    # A Unix socket knows no keep-alive.
    keepalive = {} if address.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        address,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        **keepalive,
        retry=Retry(
            ExponentialBackoff(LONGEST_BACKOFF_SECONDS, LEAST_BACKOFF_SECONDS),
            retries,
            supported_errors=(*_LOST, *full),
        ),
        health_check_interval=HEALTH_CHECK_SECONDS,
    )


@contextmanager
def broker_errors(url: str) -> Iterator[None]:
    """Turn redis-py's errors in the block into a BrokerError that names the server, without its password."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerRefusedError(
            f"Redis at {redacted(url)} refuses the user or password ({error}); mend the broker URL"
        ) from None
    except redis.exceptions.OutOfMemoryError:
        raise BrokerFullError(
            f"Redis at {redacted(url)} is full; give it more memory (maxmemory), or wait until others have gone"
        ) from None
    except redis.ConnectionError as error:
        raise BrokerError(
            f"Redis at {redacted(url)} cannot be reached ({error}); is it running, and is the broker URL right?"
        ) from None
    except redis.RedisError as error:
        raise BrokerError(f"Redis at {redacted(url)} does not do its part: {error}") from None


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
