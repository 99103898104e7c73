"""This module reads `models.toml`, the list of the models that a worker holds, into checked values.

[models.digits]
path = "models/digits.keras"    # relative to the manifest's folder
batch_rows = 64                 # rows that the model sees in one call
signature = "serving_default"   # SavedModel only
preprocess = "steps:decode"     # a function: rows of a chunk -> rows of the model
postprocess = "steps:label"     # a function: outputs of the model -> outputs
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from worker_config.errors import ConfigError

DEFAULT_BATCH_ROWS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# Reserved for what is to come: carrying on without heeding them would give other predictions than were asked for.
_NOT_YET = ("inputs", "outputs")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[models.NAME]` table.

    Attributes:
        path: the model's file or folder; absolute after `read_manifest`.
        batch_rows: rows in one call of the model; the tail of a chunk is padded up to it.
        signature: which signature of a SavedModel to call.
        preprocess, postprocess: functions that run before and after the model, as `package.module:function`.
        preload: load when the worker starts; the only way so far.
        prefer: which executor to prefer; "speed" is the only one so far.
    """

    path: str
    batch_rows: int = DEFAULT_BATCH_ROWS
    signature: str = "serving_default"
    preprocess: str = ""
    postprocess: str = ""
    preload: bool = True
    prefer: str = "speed"


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    models: dict[str, dict[str, object]]


def read_manifest(path: Path) -> dict[str, ModelEntry]:
    """The models by name, their paths made absolute.

    Raises:
        ConfigError: no such file, not TOML, a wrong key, type or value; the text names file and key.
    """
    try:
        manifest = msgspec.toml.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        raise ConfigError(
            f"the manifest {path} cannot be read ({error.strerror}); name one with --models or CELERIAC_MODELS"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the manifest {path} is not TOML: {error}") from None
    _refuse_what_is_not_built_yet(manifest, path)
    try:
        tables = msgspec.convert(manifest, _Manifest).models
    except msgspec.ValidationError as error:
        raise ConfigError(f"the manifest {path}: {error}") from None
    if not tables:
        raise ConfigError(f"the manifest {path} names no model; add a [models.NAME] table with a path")
    folder = path.resolve().parent
    return {name: _checked(name, _entry(name, table, path), folder, path) for name, table in tables.items()}


def _entry(name: str, table: dict[str, object], manifest: Path) -> ModelEntry:
    """One at a time, because msgspec does not say which of them is wrong."""
    try:
        return msgspec.convert(table, ModelEntry)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the manifest {manifest}: models.{name}: {error}") from None


def _refuse_what_is_not_built_yet(manifest: dict[str, object], path: Path) -> None:
    tables = manifest.get("models")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        for key in _NOT_YET:
            if isinstance(table, dict) and key in table:
                raise ConfigError(f"the manifest {path}: models.{name}.{key} is not supported by this version")


def _checked(name: str, entry: ModelEntry, folder: Path, manifest: Path) -> ModelEntry:
    where = f"the manifest {manifest}: models.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has letters, digits, '_', '-' and '.', and starts with one of the first")
    if entry.batch_rows < 1:
        raise ConfigError(f"{where}.batch_rows is {entry.batch_rows}; the least is 1")
    for key, function in (("preprocess", entry.preprocess), ("postprocess", entry.postprocess)):
        if function and not _FUNCTION.fullmatch(function):
            raise ConfigError(f"{where}.{key} is {function!r}; name a function as 'package.module:function'")
    if not entry.preload:
        raise ConfigError(f"{where}.preload = false is not supported by this version; leave it out")
    if entry.prefer != "speed":
        raise ConfigError(f"{where}.prefer = {entry.prefer!r} is not supported by this version; leave it out")
    return msgspec.structs.replace(entry, path=str((folder / entry.path).absolute()))
