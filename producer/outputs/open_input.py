"""A data set --> its rows, and what the journal and the ledger of an output say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from producer.rows.kept import KeptColumns
from producer.sinks.journal import JsonValue
from producer.sources import BatchSource, Source, fingerprint, fingerprint_of_rows, open_source
from producer.sources.choose import ColumnNames


def open_input(
    data: object, options: Mapping[str, Any], keep: Sequence[str] = ()
) -> tuple[Source | BatchSource, dict[str, JsonValue]]:
    """Open a data set with these options of `open_source`, and tell it from others: a path by its files, rows by these.

    Of rows the columns of `keep` count, too.

    Raises:
        CeleriacError: as `open_source`.
    """
    if isinstance(data, str | Path):
        seen = fingerprint(data)  # before it is opened, so that a change after this is never missed
        return open_source(data, **options), {**seen, **options}
    source = open_source(data, **options)
    kept = KeptColumns(source, keep) if keep else None
    return source, {**fingerprint_of_rows(source, kept), **options}


def input_options(
    columns: ColumnNames | None = None, array: str | None = None, dtype: str | None = None, contents: bool = False
) -> dict[str, JsonValue]:
    """Those options that were given, as values of JSON."""
    options: dict[str, JsonValue] = {}
    if isinstance(columns, Mapping):
        options["columns"] = {name: list(of) for name, of in columns.items()}
    elif columns:
        options["columns"] = [columns] if isinstance(columns, str) else list(columns)
    options |= {} if array is None else {"array": array}
    options |= {} if dtype is None else {"dtype": dtype}
    return options | ({"contents": True} if contents else {})
