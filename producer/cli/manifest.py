"""Manifest --> names, digests, files that are there: checked before a worker starts, and without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from producer.client import Client
from tasks.models.model_version import digest_or_error
from worker_config.errors import ModelLoadError, UnknownModelError
from worker_config.manifest import ModelEntry, read_manifest
from worker_config.version_folders import served_path


def check_names(names: list[str], manifest: Path) -> None:
    """Raise UnknownModelError or ModelLoadError unless the manifest has these models, and its files are there."""
    known = read_manifest(manifest)
    for name in names:
        if name not in known:
            raise UnknownModelError(f"no model {name!r} in {manifest}; there are: {', '.join(sorted(known))}")
    check_files(known, manifest)


def model_digests(names: list[str], manifest: Path) -> dict[str, str]:
    """The SHA-256 of each model's files, by name, as a worker that starts now will find them."""
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
    """Raise ModelLoadError unless the models' files are there."""
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
