"""Manifest --> names, digests, files that are there: checked before a worker starts, and without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from tasks.models.model_version import digest_or_error, python_digests
from tasks.snapshots.built_set import read_built_set
from worker_config.errors import CeleriacError, ModelLoadError, UnknownModelError
from worker_config.foreign_errors import did_you_mean
from worker_config.manifest import ModelEntry, model_names, read_manifest
from worker_config.model_paths import is_model, name_of
from worker_config.object_urls import is_url
from worker_config.version_folders import served_path


def named_or_file(model: str, manifest: Path) -> tuple[str, Path]:
    """A model's name and the manifest that has it; a model's own file or folder, where none names it, is its own."""
    path = Path(model)
    if not is_model(path) or (manifest.exists() and model in model_names(manifest)):
        return model, manifest
    return name_of(path), path


def check_names(names: list[str], manifest: Path) -> None:
    """Raise UnknownModelError or ModelLoadError unless the manifest has these models, and their files are there."""
    read_built_set(manifest.resolve().parent)
    known = model_names(manifest)
    for name in names:
        if name not in known:
            meant = did_you_mean(name, known)
            raise UnknownModelError(f"no model {name!r} in {manifest}{meant}; there are: {', '.join(sorted(known))}")
    check_files(read_manifest(manifest, names), manifest)


def broken_entries(manifest: Path) -> dict[str, CeleriacError]:
    """What is wrong with each entry, by name, of those with which something is, or with their files.

    Raises:
        ConfigError: the manifest as a whole cannot be read.
        ModelLoadError: it is that of a built set, which is damaged.
    """
    read_built_set(manifest.resolve().parent)
    found: dict[str, CeleriacError] = {}
    for name in model_names(manifest):
        try:
            check_files(read_manifest(manifest, [name]), manifest)
        except CeleriacError as error:
            found[name] = error
    return found


def model_digests(names: list[str], manifest: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The SHA-256 of each model, and of each function or file of theirs, as a worker that starts now will find them."""
    entries = read_manifest(manifest, names)
    return {name: digest_or_error(name, entries[name]) for name in names}, python_digests(entries.values())


def not_independent(names: list[str], manifest: Path) -> list[str]:
    """Those of the models of which the manifest says that their rows are not independent."""
    entries = read_manifest(manifest, names)
    return [
        name
        for name in names
        if not all(entry.independent_rows for entry in (entries[name], *entries[name].members.values()))
    ]


def check_files(entries: dict[str, ModelEntry], manifest: Path) -> None:
    """Raise ModelLoadError unless the models' files are there."""
    members = [item for entry in entries.values() for item in entry.members.items()]
    for name, entry in [*entries.items(), *members]:
        if not entry.has_file or is_url(entry.path):  # a worker fetches it
            continue
        if not Path(entry.path).exists():
            remedy = f"; mend the path in {manifest}, which counts from that file's own folder"
            raise ModelLoadError(
                f"model {name} cannot be loaded from {entry.path}: no such file or folder"
                f"{'' if is_model(manifest) else remedy}"
            )
        try:
            served_path(entry)
        except OSError as error:
            raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None
