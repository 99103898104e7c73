"""Ports that nobody else of a run takes between the moment they are chosen and the one they are listened at."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

# Below those that the kernel gives to connections, so that one that a server leaves for a while stays free.
_PORTS = range(20_000, 32_000)
_SHARES = 12


def free_port() -> int:
    """A port of this machine that is free, that stays so until it is listened at, and that is given once."""
    for port in _share:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"no port of {_PORTS} is free that was not given already")


def _of_this_process() -> Iterator[int]:
    """Those that no other process of the run is given, in no order: other runs draw from them as well."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    ports = list(_PORTS[share::_SHARES])
    random.SystemRandom().shuffle(ports)
    yield from ports


_share = _of_this_process()
