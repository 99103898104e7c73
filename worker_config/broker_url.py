"""A Redis URL as Celery spells it, as redis-py does, and without its password.

A socket is `unix:///path?db=0` for redis-py and `redis+socket:///path?virtual_host=0` for Celery;
people may write either.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from worker_config.errors import ConfigError

# Any other would be redis-py's alone, and a wrong value of it a traceback.
_OPTIONS = ("db", "virtual_host", "username", "password")
_SCHEMES = ("redis", "rediss", "unix", "redis+socket")


def check_broker_url(url: str, where: str) -> str:
    """Return `url`, or raise ConfigError if it is not a Redis URL; `where` names the setting in the text."""
    if not _is_redis_url(url):
        raise ConfigError(
            f"{where}: {redacted(url)!r} is not a Redis URL; "
            "write redis://HOST:PORT/DB, rediss://... or unix:///path/to/redis.sock"
        )
    return url


def _is_redis_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or parts.port == 0:
            return False
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if any(name not in _OPTIONS and not name.startswith("ssl_") for name in options):
            return False
        if parts.scheme in ("redis", "rediss"):
            database = parts.path.strip("/") or options.get("db", "0")
        elif not parts.path.strip("/"):
            return False
        else:
            database = options.get("db", options.get("virtual_host", "0"))
    except ValueError:
        return False
    # redis-py would take database 0 for a word, where Celery takes the word for an error.
    return database.isdecimal()


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
