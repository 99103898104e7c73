"""This module spells a Redis URL as Celery and as redis-py want it, and hides its password.

A socket is `unix:///path?db=0` for redis-py and `redis+socket:///path?virtual_host=0` for Celery;
people may write either.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from worker_config.errors import ConfigError

_SCHEMES = ("redis", "rediss", "unix", "redis+socket")


def check_broker_url(url: str, where: str) -> str:
    """Return `url`, or raise ConfigError if it is not a Redis URL; `where` names the setting in the text."""
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_valid = urlsplit(""), False
    if parts.scheme not in _SCHEMES or not port_is_valid:
        raise ConfigError(
            f"{where}: {redacted(url)!r} is not a Redis URL; "
            "write redis://HOST:PORT/DB, rediss://... or unix:///path/to/redis.sock"
        )
    return url


def celery_url(url: str) -> str:
    """The spelling that Celery understands."""
    if url.startswith("unix://"):
        return url.replace("unix://", "redis+socket://", 1).replace("db=", "virtual_host=", 1)
    return url


def redis_url(url: str) -> str:
    """The spelling that redis-py understands."""
    if url.startswith("redis+socket://"):
        return url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)
    return url


def redacted(url: str | None) -> str | None:
    """`url` with its password, if any, as `***`; works on malformed URLs too."""
    if url is None:
        return None
    url = re.sub(r"(?<=[?&])password=[^&]*", "password=***", url)
    # The last @ ends the credentials: a password may itself hold an unescaped one.
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
