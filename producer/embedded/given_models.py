"""Models that a caller has at hand, by name --> a manifest in a private folder, with a file or module of each.

{"digits": model}                                         the model alone
{"digits": {"model": model, "preprocess": clean, ...}}    and keys of the manifest beside it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from producer.embedded.function_modules import import_name, module_folders
from producer.embedded.save_model import save_model
from worker_config.errors import ConfigError, UsageError
from worker_config.foreign_errors import import_optional, one_line
from worker_config.manifest import NAME, is_function, read_manifest
from worker_config.model_paths import MANIFEST
from worker_config.object_urls import is_url

_FUNCTIONS = ("preprocess", "postprocess")


def write_models(models: Mapping[str, object], folder: Path) -> tuple[Path, list[str]]:
    """Write the manifest of models as of `local` into a folder of its own, and all that it names and is no file yet.

    Gives the manifest, and the folders in which modules of its functions stand, where a worker would not look.

    Raises:
        UsageError, ConfigError: something is no model, does not travel, or no key or value of a manifest.
        ModelLoadError: a model's library cannot save it.
    """
    if not models:
        raise UsageError("models is empty; name at least one, as {'digits': model}")
    modules: set[str] = set()
    tables = {}
    for number, (name, given) in enumerate(models.items()):
        where = f"models[{name!r}]"
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise UsageError(f"{where}: a name has letters, digits, '_', '-' and '.', and starts with one of the first")
        table: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"model": given}
        if "model" in table:
            if "path" in table:
                raise UsageError(f"{where} has a model and a path; give one of them")
            table |= _model(table.pop("model"), folder, f"model{number}", where, modules)
        elif isinstance(table.get("path"), str | Path):
            table["path"] = _absolute(table["path"])
        for key in _FUNCTIONS:
            if callable(table.get(key)):
                table[key], used = import_name(table[key], folder, f"{where}.{key}")
                modules |= used
        if "calibration" in table:
            table["calibration"] = _calibration(table["calibration"], folder / f"calibration{number}", where)
        if isinstance(table.get("files"), list | tuple):
            table["files"] = [_absolute(path) for path in table["files"]]
        tables[name] = table
    manifest = folder / MANIFEST
    manifest.write_text("\n".join(_toml(name, table) for name, table in tables.items()), encoding="utf-8")
    try:
        read_manifest(manifest)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"the manifest {manifest}", "local()")) from None
    return manifest, module_folders(modules)


def _model(model: Any, folder: Path, stem: str, where: str, modules: set[str]) -> dict[str, Any]:
    """The keys of the manifest that stand for a model."""
    if isinstance(model, str | Path):
        return {"path": _absolute(model)}
    if isinstance(model, FunctionType):
        name, used = import_name(model, folder, where)
        modules |= used
        return {"path": name}
    return save_model(model, folder / stem, where)


def _absolute(path: str | Path) -> str:
    """A path by itself: one that is relative counts from here, not from the manifest."""
    text = str(path)
    is_as_it_is = not text or is_url(text) or (is_function(text) and not Path(text).exists())
    return text if is_as_it_is else str(Path(text).absolute())


def _calibration(rows: Any, path: Path, where: str) -> str:
    """A path, or arrays that are written."""
    if isinstance(rows, str | Path):
        return _absolute(rows)
    try:
        if isinstance(rows, Mapping):
            np.savez(file := path.with_suffix(".npz"), allow_pickle=False, **rows)
        else:
            np.save(file := path.with_suffix(".npy"), rows, allow_pickle=False)
    except ValueError:
        raise UsageError(f"{where}.calibration is no array of numbers; give one, or a dict of such by input") from None
    return str(file)


def _toml(name: str, table: Mapping[str, Any]) -> str:
    tomli_w = import_optional("tomli_w", "runtime", "local() with models at hand")
    try:
        text: str = tomli_w.dumps({"models": {name: table}})
    except (TypeError, ValueError) as error:
        raise UsageError(f"models[{name!r}]: {one_line(error)}") from None
    return text
