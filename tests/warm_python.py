"""A worker's stand-in: the caller's child, while the worker itself is a fork of a warm process (`tests.warm`).

    command --Popen--> this --argv, folder, environment, stdout, stderr--> warm process --fork--> the worker
    signals --> this --> the worker; its end --> this ends in the same way; this ends, however --> the worker is killed

`python -IS warm_python.py SOCKET ARGUMENTS...`; with few modules of the standard library, so that it is up at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


def main(address: str, arguments: list[str]) -> int:
    """Stand in for Python with these arguments."""
    import json

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as warm:
        warm.connect(address)
        folder = os.getcwd()  # noqa: PTH109 - one module less
        told = {"argv": ["python", *arguments], "folder": folder, "environ": dict(os.environ), "dies_with_caller": True}
        socket.send_fds(warm, [json.dumps(told).encode()], [1, 2])
        pid = int(warm.recv(16))

        def forward(number: int, _: FrameType | None) -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in FORWARDED:
            signal.signal(number, forward)
        code = int(warm.recv(16) or -signal.SIGKILL)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
