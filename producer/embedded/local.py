"""The embedded system: a private Redis on a Unix socket and a worker, for as long as its client lives.

    local() --> supervisor --> redis-server, celery worker --> children ready --> LocalClient

Everything lives in one temporary folder and is gone afterwards, also when this process is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producer.embedded.monitor import Monitor
from producer.embedded.redis_server import find_redis_server
from producer.requests.start_display import StartDisplay
from tasks.transport import run_folder
from worker_config.environment import check_no_shadow, for_worker
from worker_config.errors import UsageError
from worker_config.model_paths import manifest_at
from worker_config.object_urls import SCHEMES
from worker_config.retry_policy import FAREWELL_SECONDS
from worker_config.settings import Settings

if TYPE_CHECKING:
    from producer.embedded.local_client import LocalClient

# A path of a Unix socket has at most 107 bytes.
_LONGEST_FOLDER = 80
# Where payloads are as fast as memory.
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - made private by mkdtemp
# Several windows of payloads and as many outputs.
LEAST_MEMORY_BYTES = 2**30


def local(
    models: str | Path | Mapping[str, Any] | None = None,
    workers: int = 2,
    names: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> LocalClient:
    """A client with a Redis and a worker of its own, which are up when this returns.

    The first start with a model prepares it, which takes seconds to minutes, and says on stderr what is done.

    They are gone after `close`, after a `with` block, when the client is collected, or when the process ends, however
    it does; jobs that run keep the client.

    Args:
        models: the manifest, or its folder, or the file or folder of a single model; `CELERIAC_MODELS`, or
            `models.toml`, if left out. Or models at hand, by name: of Keras, a `tf.Module`, a `tf.function`, a function
            of arrays, a path, the bytes of a `.tflite` file; or a dict of one, as `model`, and keys of the manifest, in
            which functions and arrays stand for themselves. They are what they are now: weights that are trained on,
            and values that functions use, do not change afterwards.
        workers: children of the worker, each with all the models.
        names: the models of the manifest to hold, whatever is wrong with others; `CELERIAC_MODEL_SET`, or all, if left
            out.
        quiet: nothing is said while it starts.

    Raises:
        UsageError: something is no model, or a function does not travel to the workers; the text says why.
        ConfigError: the manifest, or what is installed here, does not do.
        ModelLoadError: a model cannot be saved or loaded.
        WorkerStartError: Redis or the worker did not come up.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; the least is 1")
    check_no_shadow(Path.cwd())
    settings = Settings.from_env()
    server = find_redis_server()
    folder = _private_folder()
    spool = _spool_folder(folder)
    url = f"unix://{folder}/redis.sock"
    anywhere = os.pathsep.join(("/", *(f"{scheme}://" for scheme in SCHEMES)))
    monitors: list[Monitor] = []

    def end() -> None:
        for monitor in monitors:
            monitor.close()
        for leftover in (folder, spool):  # in case the supervisor was killed
            run_folder.remove(leftover)

    try:
        with StartDisplay(quiet=quiet) as display:
            manifest, environ = _manifest(models, settings, folder, display)
            orders = {
                "folder": str(folder),
                "spool": str(spool),
                "redis": _redis_command(server, folder),
                "farewell_seconds": FAREWELL_SECONDS if settings.trace_exporters else 0.0,
                "worker": worker_command(workers, "--without-mingle", "--without-gossip", "-n", "local@%h"),
                "worker_environ": {
                    **environ,
                    "CELERIAC_BROKER_URL": url,
                    "CELERIAC_MODELS": str(manifest.absolute()),
                    **({"CELERIAC_MODEL_SET": ",".join(names)} if names else {}),
                    "CELERIAC_SPOOL": str(spool),
                    # Read by this process alone.
                    "CELERIAC_LOG_FORMAT": "text",
                    # Its only producer is this process, of the same user.
                    "CELERIAC_DATA_ROOTS": anywhere,
                    "CELERIAC_OUTPUT_ROOTS": anywhere,
                    # Killed at the end, it cannot remove temporary files of its own; the folder goes with all in it.
                    "TMPDIR": str(folder),
                },
            }
            monitors.append(monitor := Monitor(_start_supervisor(orders), folder))
            # The worker takes a second to start: what only the client needs is imported meanwhile.
            from producer.embedded.local_client import LocalClient, wait_until_ready

            wait_until_ready(monitor, url, workers, settings.load_timeout_seconds, display)
        return LocalClient(replace(settings, broker_url=url, spool=spool), monitor.check, end)
    except BaseException:
        end()
        raise


def _manifest(
    models: str | Path | Mapping[str, Any] | None, settings: Settings, folder: Path, display: StartDisplay
) -> tuple[Path, dict[str, str]]:
    """The manifest, and what a worker needs in its environment for it; models at hand are saved in the folder."""
    if not isinstance(models, Mapping):
        return manifest_at(Path(models)) if models else settings.models_path, {}
    from producer.embedded.given_models import write_models  # with NumPy

    display.show("saving the models")
    (folder / "models").mkdir()
    manifest, folders = write_models(models, folder / "models")
    for one in folders:
        check_no_shadow(Path(one))
    places = os.pathsep.join(filter(None, (*folders, os.environ.get("PYTHONPATH"))))
    # A model set of the environment is of another manifest.
    return manifest, {"CELERIAC_MODEL_SET": "", **({"PYTHONPATH": places} if places else {})}


def _start_supervisor(orders: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("supervisor.py")), json.dumps(orders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # so that `select` sees every line
        # Its own session: Ctrl-C must reach this process alone, which then tells what was done.
        start_new_session=True,
        env=for_worker(os.environ),
    )


def worker_command(workers: int | None, *options: str) -> list[str]:
    """The command line of a worker; `None` leaves the number of children to Celery."""
    count = [] if workers is None else ["-c", str(workers)]
    return [sys.executable, "-m", "celery", "-A", "tasks", "worker", *count, *options]


def _private_folder() -> Path:
    folder = run_folder.make("celeriac-")
    if len(str(folder)) > _LONGEST_FOLDER:
        run_folder.remove(folder)
        folder = run_folder.make("celeriac-", "/tmp")  # noqa: S108 - private: made by mkdtemp
    return folder


def _spool_folder(folder: Path) -> Path:
    """In memory, where there is enough of it; else on the disk."""
    memory = MEMORY_FOLDER
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= LEAST_MEMORY_BYTES:
        return run_folder.make("celeriac-", memory)
    spool = folder / "spool"
    spool.mkdir()
    return spool


def _redis_command(server: str, folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": f"{folder}/redis.sock",
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
    }
    return [server, *(word for name, value in options.items() for word in (f"--{name}", value))]
