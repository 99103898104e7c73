"""Workers and commands out of processes that have imported what is slow to import: most of their start, otherwise.

test process --command, folder, environment, stdout, stderr--> warm process --fork--> the command's own `main`
                                                               <--pid, exit code--
forked command --its Python is a script--> `warm_python.py` --the same--> warm process --fork--> embedded worker

What runs in the fork is a process of its own, and the program from its first line on; only that modules are imported
already: for a worker Celery's command, and TensorFlow as far as its main process imports it before it forks its
children, and nothing of ours; for other commands all that `celeriac` imports. Tests of imports, of the environment, and
of what a killed embedded system leaves use fresh processes.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

# A command is `celeriac`, or one of Celery's that is no worker.
Kind = Literal["worker", "command"]
# Processes that are told more than these by their environment need it from the beginning.
NAMES = ("CELERIAC_", "COLUMNS", "COMMAND_UNDER_TEST", "TMPDIR", "NO_COLOR")
_HERE = Path(__file__).resolve()
# For processes whose models use what tests share.
REPOSITORY = _HERE.parents[1]
_STAND_IN = _HERE.with_name("warm_python.py")
# What forked commands take for Python: where it is to import TensorFlow, a fork stands in for it.
_PYTHON = """\
#!/bin/sh
case "$1 $2" in
"-m celery" | "-m tasks.describe" | "-m producer.cli.demo_model") exec {python} -IS {stand_in} {address} "$@" ;;
esac
exec {python} "$@"
"""
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
    stderr: IO[bytes] | int | None = None,
) -> Forked:
    """Start a worker, in a session of its own, or a command; stderr goes where stdout does, unless told."""
    error = stdout if stderr is None else stderr
    streams = stdout.fileno(), error if isinstance(error, int) else error.fileno()
    told = {"argv": list(command), "folder": str(folder), "environ": dict(environ)}
    if kind == "command":
        told["python"] = str(_process("worker").python)
    return _process(kind).start(told, streams)


def _process(kind: Kind) -> _Warm:
    if kind not in _warm or not _warm[kind].is_alive():
        _warm[kind] = _Warm(kind)
    return _warm[kind]


def end() -> None:
    """End the warm processes; what has come out of them is told nothing."""
    while _warm:
        _warm.popitem()[1].end()


atexit.register(end)


class _Warm:
    """A warm process of this test process, which ends with it."""

    def __init__(self, kind: Kind) -> None:
        folder = Path(tempfile.mkdtemp(prefix="w-"))  # short: a socket's path has at most 107 bytes
        self._address, self.python = folder / "socket", folder / "python"
        self.python.write_text(_PYTHON.format(python=sys.executable, stand_in=_STAND_IN, address=self._address))
        self.python.chmod(0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(self._address))
            listener.listen(100)
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE), kind, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start(self, told: dict[str, Any], streams: tuple[int, int]) -> Forked:
        ended = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended.connect(str(self._address))
        socket.send_fds(ended, [json.dumps(told).encode()], streams)
        return Forked(int(ended.recv(16)), ended)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.python.parent, ignore_errors=True)


def _serve(kind: Kind, listener: socket.socket) -> None:
    """Fork for each request, until the test process lets go of stdin."""
    main = _import(kind)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, lambda: os._exit(0))
    selector.register(listener, selectors.EVENT_READ, lambda: begin(listener.accept()[0]))

    def begin(caller: socket.socket) -> None:
        data, streams, _, _ = socket.recv_fds(caller, 1 << 20, 2)
        if not data:
            caller.close()
            return
        told = json.loads(data)
        if not (pid := os.fork()):
            with suppress(BaseException):
                selector.close()
                listener.close()
                caller.close()
                _become(kind, told, *streams)
                _run(main)
            os._exit(1)
        for stream in streams:
            os.close(stream)
        caller.send(str(pid).encode())
        end = os.pidfd_open(pid)

        def ended() -> None:
            selector.unregister(end)
            os.close(end)
            with suppress(KeyError):
                selector.unregister(caller)
            with caller, suppress(OSError):  # whoever has asked may have gone
                caller.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())

        def gone() -> None:
            if caller.fileno() < 0:  # at its end
                return
            selector.unregister(caller)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

        selector.register(end, selectors.EVENT_READ, ended)
        if told.get("dies_with_caller"):
            selector.register(caller, selectors.EVENT_READ, gone)

    while True:
        for key, _ in selector.select():
            key.data()


def _import(kind: Kind) -> Callable[[], object]:
    """Import what takes time, and return what imports the rest and runs it."""
    sys.path[0] = str(Path(sys.executable).parent)
    import_module("celery.bin.celery")  # with all of its commands, Flower's too
    if kind == "command":
        import click

        from producer.cli import commands

        for name in commands.COMMANDS:
            commands.cli.get_command(click.Context(commands.cli), name)
        # What they import as they run.
        for name in ("celery.app.amqp", "celery.app.events", "kombu.transport.redis", "pyarrow.parquet", "zarr"):
            import_module(name)
        return lambda: _celery() if Path(sys.argv[0]).name == "celery" else commands.main()
    # As `tasks.models.tensorflow_import` does, and without a thread that would be lost in what is forked from here.
    hidden = ("sklearn", "pandas")
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    os.environ.update(KERAS_BACKEND="tensorflow", KERAS_NNX_ENABLED="false", TF_CPP_MIN_LOG_LEVEL="3")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import_module("tensorflow")
    for name in hidden:
        del sys.modules[name]
    # Of Celery what has no app yet.
    for name in ("apps.worker", "concurrency.prefork", "worker.components", "worker.consumer"):
        import_module(f"celery.{name}")
    for name in ("keras", "kombu.transport.redis", "msgpack", "msgspec", "psutil"):
        import_module(name)

    def main() -> None:
        if sys.argv[1:2] != ["-m"]:
            _celery()
        _, _, module, *sys.argv[1:] = sys.argv
        sys.path[0] = str(Path.cwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return main


def _celery() -> None:
    from celery.__main__ import main

    main()


def _become(kind: Kind, told: dict[str, Any], out: int, err: int) -> None:
    """Be as the process that `subprocess.Popen` would have started."""
    if kind == "worker":
        os.setsid()
    if "python" in told:
        sys.executable = told["python"]
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(stream, number)
        os.close(stream)
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
