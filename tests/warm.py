"""Workers and commands out of processes that have imported what is slow to import: most of their start, otherwise.

test process --command, folder, environment, stdout, stderr--> warm process --fork--> the command's own `main`
                                                               <--pid, exit code--

What runs in the fork is a process of its own, and the program from its first line on; only that modules are imported
already: for a worker Celery's command, and TensorFlow as far as its main process imports it before it forks its
children, and nothing of ours; for other commands all that `celeriac` imports. Tests of imports and of the environment
use fresh processes.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

# A command is `celeriac`, or one of Celery's that is no worker.
Kind = Literal["worker", "command"]
# Processes that are told more than these by their environment need it from the beginning.
NAMES = ("CELERIAC_", "COLUMNS", "COMMAND_UNDER_TEST", "TMPDIR", "NO_COLOR")
_HERE = Path(__file__).resolve()
# For processes whose models use what tests share.
REPOSITORY = _HERE.parents[1]
_warm: dict[Kind, _Warm] = {}


class Forked:
    """A process that is not our child, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, ended: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, as soon as it has ended; the number of the signal that killed it, negative."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            self._ended.settimeout(timeout)
            try:
                said = self._ended.recv(16)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0) from None
            self._ended.close()
            self.returncode = int(said or -signal.SIGKILL)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def suits(environ: Mapping[str, str]) -> bool:
    """Whether what a process is told besides our own environment concerns nothing that has been imported."""
    ours = ("PYTHONPATH", str(REPOSITORY))
    return all(name.startswith(NAMES) or (name, value) == ours for name, value in environ.items())


def start(
    kind: Kind,
    command: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes] | None = None,
) -> Forked:
    """Start a worker, in a session of its own, or a command; stderr goes where stdout does, unless told."""
    if kind not in _warm or not _warm[kind].is_alive():
        _warm[kind] = _Warm(kind)
        atexit.register(_warm[kind].end)
    return _warm[kind].start(command, folder, environ, stdout, stderr or stdout)


class _Warm:
    """A warm process of this test process, which ends with it."""

    def __init__(self, kind: Kind) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE), kind, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start(
        self, command: Sequence[str], folder: Path, environ: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> Forked:
        told = json.dumps({"argv": list(command), "folder": str(folder), "environ": dict(environ)}).encode()
        ended, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._socket, [told], [stdout.fileno(), stderr.fileno(), theirs.fileno()])
        return Forked(int(ended.recv(16)), ended)

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(kind: Kind, requests: socket.socket) -> None:
    """Fork for each request, until nobody can make one any more."""
    main = _import(kind)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is requests:
                data, (out, err, ended), _, _ = _received(requests)
                if not data:
                    return
                if not (pid := os.fork()):
                    with suppress(BaseException):
                        selector.close()
                        requests.close()
                        os.close(ended)
                        _become(kind, json.loads(data), out, err)
                        _run(main)
                    os._exit(1)
                os.close(out)
                os.close(err)
                answers = socket.socket(fileno=ended)
                answers.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, answers))
            else:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                pid, answers = key.data
                with answers, suppress(OSError):  # the test process may have gone
                    answers.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _received(requests: socket.socket) -> tuple[bytes, list[int], int, Any]:
    data, fds, flags, address = socket.recv_fds(requests, 1 << 20, 3)
    return data, fds or [-1, -1, -1], flags, address


def _import(kind: Kind) -> Callable[[], object]:
    """Import what takes time, and return what imports the rest and runs it."""
    sys.path[0] = str(Path(sys.executable).parent)
    import celery.bin.celery  # noqa: F401 - with all of its commands, Flower's too

    if kind == "command":
        import pyarrow.parquet  # noqa: F401

        from producer.cli import main

        return lambda: _celery() if Path(sys.argv[0]).name == "celery" else main()
    # As `tasks.models.tensorflow_import` does; and of Celery what reads no settings.
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # so that Keras defines no estimators
    os.environ.update(KERAS_BACKEND="tensorflow", KERAS_NNX_ENABLED="false", TF_CPP_MIN_LOG_LEVEL="3")
    import tensorflow  # noqa: F401

    del sys.modules["sklearn"]
    import keras  # noqa: F401
    import kombu.transport.redis  # noqa: F401
    import msgpack  # noqa: F401
    import msgspec  # noqa: F401
    import psutil  # noqa: F401

    return _celery


def _celery() -> None:
    from celery.__main__ import main

    main()


def _become(kind: Kind, told: dict[str, Any], out: int, err: int) -> None:
    """Be as the process that `subprocess.Popen` would have started."""
    if kind == "worker":
        os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environ"])
    sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep) if "PYTHONPATH" in os.environ else []
    time.tzset()
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = told["argv"]


def _run(main: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        _end(code)


def _end(code: int) -> NoReturn:
    """What the interpreter does at its end, without what belongs to the warm process."""
    import threading

    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))  # type: ignore[arg-type]
