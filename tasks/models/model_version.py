"""Names a model by what its files hold: SHA-256 over one file, or over a folder's paths and files.

Of a tree of versions only the served one counts. Functions are a part of a model, or all of it: their names count, and
the code of the files in which they stand, as do modules that a model needs and files that functions read. So does what
else the manifest says that changes predictions.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tokenize
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec

from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry, is_function
from worker_config.model_paths import ending
from worker_config.version_folders import checkpoint_files, served_path

_DEFAULTS = ModelEntry()


def entry_digest(entry: ModelEntry) -> str:
    """The hexadecimal SHA-256 of a model with the functions around it; raises OSError where a file cannot be read."""
    digest = _digest(entry)
    settings = _settings(entry)
    if not (entry.preprocess or entry.postprocess or entry.imports or entry.files or settings):
        return digest
    total = hashlib.sha256(digest.encode())
    for name in (entry.preprocess, entry.postprocess, *entry.imports):
        total.update(_source(name, entry.folder))
    for path in entry.files:
        total.update(b"\0file\0" + _named_file_digest(Path(path)).encode())
    for key, value in settings.items():
        total.update(b"\0%s\0%s" % (key.encode(), msgspec.json.encode(value)))
    if entry.precision:
        total.update(calibration_digest(Path(entry.calibration)))
    return total.hexdigest()


def snapshot_digest(entry: ModelEntry, digest: str) -> str:
    """The same of what a snapshot holds of a model: not the functions around it, nor files that these alone read."""
    if not (entry.preprocess or entry.postprocess or entry.files):
        return digest
    files = entry.files if entry.imports else []
    return entry_digest(msgspec.structs.replace(entry, preprocess="", postprocess="", files=files))


def _digest(entry: ModelEntry) -> str:
    if entry.has_file:
        return model_digest(served_path(entry))
    if entry.members:
        return hashlib.sha256("".join(map(entry_digest, entry.members.values())).encode()).hexdigest()
    return hashlib.sha256(_source(entry.path, entry.folder) if entry.path else b"").hexdigest()


def digest_or_error(name: str, entry: ModelEntry) -> str:
    """The same, with the error that a user sees; raises ModelLoadError where a file cannot be read."""
    try:
        return entry_digest(entry)
    except OSError as error:
        where = entry.path or f"its chain, {', '.join(entry.chain)}"
        raise ModelLoadError(f"model {name} cannot be loaded from {where}: {error.strerror}") from None


def python_digests(entries: Iterable[ModelEntry]) -> dict[str, str]:
    """The SHA-256 of what children have once they have imported it, of each function, module and file by its name."""
    entries = _with_members(entries)
    found = {name: hashlib.sha256(source_text(path)).hexdigest() for name, path in python_sources(entries).items()}
    return found | {path: _named_file_digest(Path(path)) for entry in entries for path in entry.files}


def python_sources(entries: Iterable[ModelEntry]) -> dict[str, Path]:
    """The file of each function and module that models name, by its name, where there is one."""
    found: dict[str, Path] = {}
    for entry in _with_members(entries):
        functions = [name for name in (entry.path, entry.preprocess, entry.postprocess) if is_function(name)]
        for name in (*functions, *entry.imports):
            if source := _source_of(name.partition(":")[0], entry.folder):
                found[name] = source
    return found


def _with_members(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    return [one for entry in entries for one in (entry, *entry.members.values())]


def _settings(entry: ModelEntry) -> dict[str, object]:
    """What else changes predictions, as far as the manifest says it."""
    keys = ["signature", "inputs", "outputs", "constants", "columns", "independent_rows", "tolerance"]
    if entry.precision:
        keys += ["precision", "agreement"]
    return {key: value for key in keys if (value := getattr(entry, key)) != getattr(_DEFAULTS, key)}


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def calibration_digest(path: Path) -> bytes:
    """The SHA-256 of a calibration file; raises OSError, whose `strerror` names it, where it cannot be read."""
    try:
        return file_digest(path)
    except OSError as error:
        raise OSError(error.errno, f"its calibration file {path}: {error.strerror}") from None


def _named_file_digest(path: Path) -> str:
    try:
        return model_digest(path)
    except OSError as error:
        raise OSError(error.errno, f"its file {path}: {error.strerror}") from None


def _source(name: str, folder: str) -> bytes:
    """Of a function or a module."""
    source = _source_of(name.partition(":")[0], folder)
    return f"\0{name}\0".encode() + (source_text(source) if source else b"")


def _source_of(module: str, folder: str) -> Path | None:
    """A module's file, found without importing anything, as a worker that is started here would find it."""
    places: list[str] | None = [*sys.path, str(Path.cwd()), *filter(None, [folder])]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def source_text(path: Path) -> bytes:
    """What counts of a Python file: no comments and empty lines; all of one that is no Python, or not in order.

    By text, and not by syntax tree, whose form changes from one version of Python to the next: workers of several would
    not hold the same models.
    """
    data = path.read_bytes()
    if path.suffix != ".py":
        return data
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        lines = io.StringIO(data.decode(encoding), newline=None).readlines()
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return data
    if any(token.type == tokenize.ERRORTOKEN for token in tokens):
        return data
    for token in tokens:
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    # Inside of a text there are no such tokens.
    ends = {token.start[0] - 1 for token in tokens if token.type == tokenize.NL}
    kept = [line for number, line in enumerate(lines) if number not in ends or line.strip()]
    return "".join(kept).rstrip().encode()


def model_digest(path: Path) -> str:
    """The hexadecimal SHA-256 of a model's file, of its folder, or of a `.meta` file with its checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    if ending(path) == ".meta" and path.is_file():
        folder, files = path.parent, checkpoint_files(path)
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
