"""Manifests for tests: models by name, each a path or all keys of its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def write_manifest(folder: Path, models: Mapping[str, object], name: str = "models.toml", **top: object) -> Path:
    """Write a manifest into a folder; `top` are its keys outside all tables.

    What JSON says of a string, number, list or truth value TOML says too; a dict becomes an inline table.
    """
    tables = [_lines(top)]
    for model, keys in models.items():
        tables.append(f"[models.{model}]\n" + _lines(keys if isinstance(keys, Mapping) else {"path": keys}))
    path = folder / name
    path.write_text("\n".join(tables))
    return path


def _lines(keys: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, default=str)


def by_stem(*paths: Path) -> dict[str, Path]:
    """Models that are named as their files are."""
    return {path.stem: path for path in paths}
