"""Names a model by what its files hold: SHA-256 over one file, or over a folder's paths and files.

Of a tree of versions only the served one counts. Functions are a part of a model, or all of it: their names count, and
the files in which they stand. So does what else the manifest says that changes predictions.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec

from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry, is_function
from worker_config.version_folders import served_path

_DEFAULTS = ModelEntry()


def entry_digest(entry: ModelEntry) -> str:
    """The hexadecimal SHA-256 of a model with the functions around it.

    Raises:
        OSError: a file cannot be read.
    """
    digest = _digest(entry)
    settings = _settings(entry)
    if not (entry.preprocess or entry.postprocess or settings):
        return digest
    total = hashlib.sha256(digest.encode())
    for step in (entry.preprocess, entry.postprocess):
        total.update(_source(step))
    for key, value in settings.items():
        total.update(b"\0%s\0%s" % (key.encode(), msgspec.json.encode(value)))
    if entry.precision:
        total.update(calibration_digest(Path(entry.calibration)))
    return total.hexdigest()


def _digest(entry: ModelEntry) -> str:
    if entry.has_file:
        return model_digest(served_path(entry))
    if entry.members:
        return hashlib.sha256("".join(map(entry_digest, entry.members.values())).encode()).hexdigest()
    return _function_digest(entry.path)


def digest_or_error(name: str, entry: ModelEntry) -> str:
    """The same, with the error that a user sees.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    try:
        return entry_digest(entry)
    except OSError as error:
        where = entry.path or f"its chain, {', '.join(entry.chain)}"
        raise ModelLoadError(f"model {name} cannot be loaded from {where}: {error.strerror}") from None


def function_digests(entries: Iterable[ModelEntry]) -> dict[str, str]:
    """The SHA-256 of the file of each function that models name, by the function's name."""
    sources = function_sources(entries)
    return {name: file_digest(path).hex() for name, path in sources.items()}


def function_sources(entries: Iterable[ModelEntry]) -> dict[str, Path]:
    """The file of each function that models name, by the function's name, where there is one."""
    all_entries = [one for entry in entries for one in (entry, *entry.members.values())]
    named = (name for entry in all_entries for name in (entry.path, entry.preprocess, entry.postprocess))
    names = {name for name in named if is_function(name)}
    sources = {name: _source_of(name.partition(":")[0]) for name in names}
    return {name: path for name, path in sources.items() if path}


def _settings(entry: ModelEntry) -> dict[str, object]:
    """What else changes predictions, as far as the manifest says it."""
    keys = ["signature", "inputs", "outputs", "columns", "independent_rows"]
    if entry.precision:
        keys += ["precision", "tolerance", "agreement"]
    return {key: value for key in keys if (value := getattr(entry, key)) != getattr(_DEFAULTS, key)}


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def calibration_digest(path: Path) -> bytes:
    """The SHA-256 of a calibration file.

    Raises:
        OSError: it cannot be read; its `strerror` names it.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise OSError(error.errno, f"its calibration file {path}: {error.strerror}") from None


def _function_digest(function: str) -> str:
    return hashlib.sha256(_source(function) if function else b"").hexdigest()


def _source(function: str) -> bytes:
    source = _source_of(function.partition(":")[0])
    return f"\0{function}\0".encode() + (source.read_bytes() if source else b"")


def _source_of(module: str) -> Path | None:
    """A module's file, found without importing anything, as a worker that is started here would find it."""
    places: list[str] | None = [*sys.path, str(Path.cwd())]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def model_digest(path: Path) -> str:
    """The hexadecimal SHA-256 of a model's file, of its folder, or of a `.meta` file with its checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    if path.suffix == ".meta" and path.is_file():
        folder, checkpoint = path.parent, re.compile(re.escape(path.stem) + r"\.(meta|index|data-\d+-of-\d+)")
        files = [p for p in folder.iterdir() if checkpoint.fullmatch(p.name)]
    elif path.is_dir():
        folder, files = path, [p for p in path.rglob("*") if p.is_file()]
    else:
        return file_digest(path).hex()
    total = hashlib.sha256()
    for file_path in sorted(files):
        total.update(file_path.relative_to(folder).as_posix().encode())
        total.update(b"\0")
        total.update(file_digest(file_path))
    return total.hexdigest()
