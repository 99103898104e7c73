"""This module gives room back for `celeriac models --prune`: this machine's snapshots that nobody needs any more.

manifest --> keys of its models' snapshots --stay; so does what a worker uses--> sweep of the cache --> lines
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from producer.cli.manifest import check_files, check_tensorflow
from tasks.models.model_version import digest_or_error
from tasks.snapshots.cache import Swept, cache_folder, cache_key, sweep
from worker_config.errors import ConfigError, ModelLoadError
from worker_config.manifest import ModelEntry, read_manifest
from worker_config.settings import Settings


def prune(manifest: Path) -> tuple[Path, list[Swept]]:
    """Remove all snapshots that neither the manifest nor a worker needs; return the cache's folder and what is gone.

    Raises:
        ConfigError, ModelLoadError: which ones the manifest needs cannot be told, or one cannot be removed.
    """
    entries = read_manifest(manifest)
    check_files(entries, manifest)
    check_tensorflow()  # another one needs other snapshots
    keys = {_key(name, entry) for name, entry in entries.items() if entry.has_file}
    cache = cache_folder(Settings.from_env())
    try:
        return cache, sweep(cache, keys)
    except OSError as error:
        raise ConfigError(
            f"the cache {cache} cannot be pruned: {error.filename}: {error.strerror}; name another with CELERIAC_CACHE"
        ) from None


def _key(name: str, entry: ModelEntry) -> str:
    digest = digest_or_error(name, entry)
    try:
        return cache_key(digest, entry, version("tensorflow"))
    except OSError as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None


def prune_lines(cache: Path, swept: list[Swept]) -> str:
    """One line for each, and a total."""
    lines = [f"{_mib(one.bytes)}  {one.source or 'leftover'}  ({one.key[:8]})" for one in swept]
    return "\n".join([*lines, f"{_mib(sum(one.bytes for one in swept))}  in all, removed from {cache}"])


def prune_values(cache: Path, swept: list[Swept]) -> dict[str, Any]:
    """The same, as plain values."""
    removed = [{"key": one.key, "source": one.source, "bytes": one.bytes} for one in swept]
    return {"cache": str(cache), "removed": removed, "bytes": sum(one.bytes for one in swept)}


def _mib(size: int) -> str:
    return f"{size / 2**20:9.1f} MiB"
