"""This module looks into a manifest before a worker is started, which takes seconds, and without TensorFlow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec

from producer.client import Client
from tasks.models.model_version import digest_or_error
from tasks.models.version_folders import served_path
from tasks.protocol import keys
from tasks.snapshots.record import Described
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_slots
from worker_config.celery_app import queue_of
from worker_config.errors import ConfigError, ExitCode, ModelLoadError, NoWorkerError, UnknownModelError
from worker_config.manifest import ModelEntry, read_manifest, select
from worker_config.settings import Settings
from worker_config.shadow import check_no_shadow


def check_names(names: list[str], manifest: Path) -> None:
    """Make sure that the manifest has models of these names, and that all its files are there.

    Raises:
        ConfigError, UnknownModelError, ModelLoadError: the manifest, a name or a file does not do.
    """
    known = read_manifest(manifest)
    for name in names:
        if name not in known:
            raise UnknownModelError(f"no model {name!r} in {manifest}; there are: {', '.join(sorted(known))}")
    check_files(known, manifest)


def model_digests(names: list[str], manifest: Path) -> dict[str, str]:
    """The SHA-256 of each model's files, by name, as a worker that starts now will find them.

    Raises:
        ConfigError, ModelLoadError: the manifest or a file cannot be read.
    """
    entries = read_manifest(manifest)
    return {name: digest_or_error(name, entries[name]) for name in names}


def not_independent(names: list[str], client: Client | None, manifest: Path) -> list[str]:
    """Those of the models of which the manifest, or a worker's, says that their rows are not independent."""
    if client:
        return [info.name for info in client.describe(names) if not info.independent_rows]
    entries = read_manifest(manifest)
    return [
        name
        for name in names
        if not all(entry.independent_rows for entry in (entries[name], *entries[name].members.values()))
    ]


def check_files(entries: dict[str, ModelEntry], manifest: Path) -> None:
    """Make sure that the models' files are there.

    Raises:
        ModelLoadError: one is not.
    """
    for name, entry in entries.items():
        if not entry.has_file:
            continue
        if not Path(entry.path).exists():
            raise ModelLoadError(
                f"model {name} cannot be loaded from {entry.path}: no such file or folder; "
                f"mend the path in {manifest}, which counts from that file's own folder"
            )
        try:
            served_path(entry)
        except OSError as error:
            raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None


def check_tensorflow() -> None:
    """Make sure that TensorFlow is there, without importing it.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError(
            "TensorFlow is not installed, which looks into models: pip install 'celeriac[worker]'; "
            "or ask the workers, with --broker"
        )


def queue_lists(manifest: Path, broker_url: str | None) -> list[str]:
    """The Redis lists in which chunks wait for the workers that are up, or for one that starts with this manifest.

    Raises:
        ConfigError, ModelLoadError, UnknownModelError: the manifest or a file cannot be read.
        BrokerError: Redis cannot be reached.
        NoWorkerError: none is up.
    """
    if broker_url:
        with broker_errors(broker_url), connect(broker_url) as client:
            queues = {slot.queue for slot in read_slots(client)}
        if not queues:
            raise NoWorkerError("no worker is up, whose queue it would be")
    else:
        entries = select(read_manifest(manifest), Settings.from_env().model_set)
        queues = {queue_of({name: digest_or_error(name, entry) for name, entry in entries.items()})}
    return sorted(map(keys.queue, queues))


def describe(manifest: Path) -> dict[str, Described]:
    """Load the models in a process of its own, and return what they say of themselves, by name.

    Raises:
        ConfigError, ModelLoadError: TensorFlow is not installed, or a model cannot be loaded.
    """
    check_files(read_manifest(manifest), manifest)
    check_tensorflow()
    check_no_shadow(Path.cwd())  # where `-m` looks first
    command = [sys.executable, "-m", "tasks.describe", str(manifest)]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    if described.returncode:
        words = [line for line in described.stderr.splitlines() if line.startswith("celeriac: ")]
        error = ModelLoadError if described.returncode == ExitCode.MODEL else ConfigError
        raise error(words[-1].removeprefix("celeriac: ") if words else described.stderr.strip()[-500:])
    models = msgspec.json.decode(described.stdout, type=list[Described])
    return {model.info.name: model for model in models}
