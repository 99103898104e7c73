"""Schemas of many files --all alike?--> the columns to take of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.datasets.arrow import check_type, is_taken, type_of
from tasks.datasets.columns import missing_column
from worker_config.errors import InputError


def common_columns(schemas: Sequence[tuple[str, Any]], named: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The names of the columns to read, and those of types that no model takes, each with its type.

    Args:
        schemas: of each file its name and its columns, in Arrow's types.
        named: what somebody has asked for; all that some model takes, where it is None.

    Raises:
        InputError: a file has no such column, or one of another type than the files before; or no model takes it.
    """
    others: dict[str, str] = {}
    chosen = named
    if chosen is None:
        first = schemas[0][1]
        others = {field.name: str(field.type) for field in first if not is_taken(field.type)}
        chosen = [name for name in first.names if name not in others] or first.names
    types: dict[str, Any] = {}
    before: Any = None
    for where, schema in schemas:
        if schema is not before:  # as it is of many files that are alike
            types, before = _types(where, schema, chosen, types, named=named is not None), schema
    return list(types), others


def _types(where: str, schema: Any, chosen: Sequence[str], before: dict[str, Any], *, named: bool) -> dict[str, Any]:
    if not chosen:
        raise InputError(f"{where}: no columns to read; its columns are {', '.join(map(repr, schema.names)) or 'none'}")
    types = {name: type_of(schema, name) for name in chosen}
    for name, kind in types.items():
        if kind is None:
            raise missing_column(where, name, schema.names)
        check_type(kind, f"{where}: column {name!r}", named=named)
        if kind != before.get(name, kind):
            raise InputError(f"{where}: column {name!r} is {kind}, in the files before {before[name]}; write all alike")
    return types
