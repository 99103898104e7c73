"""A program of its own that keeps a private Redis and a worker alive as long as its parent lives.

    parent --stdin stays open--> supervisor --starts, watches--> redis-server, worker
    parent gone, however it died: stdin ends --> both are killed, their folder is removed

It runs as a plain file, `python -I supervisor.py`, with the standard library alone, so that it is up at once.
Its first argument is JSON: `folder` and `spool`, `redis` and `worker` as command lines, and `farewell_seconds`, which
the worker may take to end by itself. It prints one line of JSON for each event: {"up": "redis"},
{"up": "worker", "pid": 17}, {"ended": "worker", "code": 5}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run until the parent, Redis or the worker ends."""
    orders = json.loads(sys.argv[1])
    folder = Path(orders["folder"])
    parent = os.getppid()
    # Ctrl-C is for the parent, which lets go of us when it has told its user what was done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        children["redis"] = _start(orders["redis"], folder / "redis.log", os.environ)
        while not _answers(folder / "redis.sock"):
            if _anyone_ended(children) or _parent_is_gone(parent, 0.01):
                return 1
        _report(up="redis")
        children["worker"] = _start(orders["worker"], folder / "worker.log", {**os.environ, **orders["worker_environ"]})
        _report(up="worker", pid=children["worker"].pid)
        while not _parent_is_gone(parent, POLL_SECONDS):
            if _anyone_ended(children):
                # The parent reads the logs first, then lets go.
                while not _parent_is_gone(parent, POLL_SECONDS):
                    pass
        return 0
    finally:
        if "worker" in children and orders["farewell_seconds"]:
            children["worker"].terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                children["worker"].wait(orders["farewell_seconds"])
        for child in reversed(children.values()):
            _kill(child)
        for leftover in (folder, orders["spool"]):
            shutil.rmtree(leftover, ignore_errors=True)


def _start(command: list[str], log: Path, environ: dict[str, str] | os._Environ[str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # safe: this process has one thread
        )


def _die_with_parent() -> None:
    """For the case that this supervisor itself is killed; Linux alone knows it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(address: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _parent_is_gone(parent: int, wait_seconds: float) -> bool:
    """A fork of the parent may hold its end of stdin open, so its process id counts too."""
    readable, _, _ = select.select([sys.stdin], [], [], wait_seconds)
    return bool(readable and not os.read(sys.stdin.fileno(), 4096)) or os.getppid() != parent


def _anyone_ended(children: dict[str, subprocess.Popen[bytes]]) -> bool:
    ended = {name: child.returncode for name, child in children.items() if child.poll() is not None}
    for name, code in ended.items():
        _report(ended=name, code=code)
    return bool(ended)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """With its whole session: nothing in a private system is worth a farewell."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _report(**event: str | int) -> None:
    # Without a parent there is nobody to report to, which the next look will show.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
