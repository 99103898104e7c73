"""Folders named `key=value`, as Hive has them, --> columns of all rows of the files in them.

data/year=2024/city=__HIVE_DEFAULT_PARTITION__/x.parquet --partition_of--> {"year": "2024", "city": None}
of all files --types_of--> int32 where all are such numbers, else text
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from producer.sources.files import find_data, is_pattern
from tasks.datasets.arrow import plain_type
from tasks.datasets.read_errors import one_line_errors
from tasks.storage.object_list import ObjectPath
from tasks.storage.object_paths import first_of, is_many
from worker_config.errors import InputError
from worker_config.files import escaped
from worker_config.foreign_errors import import_optional
from worker_config.object_urls import is_url, object_url

NULL = "__HIVE_DEFAULT_PARTITION__"


def is_partitioned(path: str | Path) -> bool:
    """Whether this is a folder with such folders in it, and with no files of its own but Parquet.

    Raises:
        InputError: a folder behind a URL cannot be listed.
    """
    if is_pattern(os.fspath(path)) or not (is_many(str(path)) if is_url(path) else Path(path).is_dir()):
        return False
    if is_url(path):
        folders, files = first_of(object_url(str(path)))
        return _are_partitions([*((name, True) for name in folders), *((name, False) for name in files)])
    with one_line_errors(escaped(os.fspath(path))), os.scandir(path) as entries:
        return _are_partitions((entry.name, _is_folder(entry)) for entry in entries)


def _are_partitions(entries: Iterable[tuple[str, bool]]) -> bool:
    """Whether these names, each with whether it is a folder's, are of such a folder."""
    found = False
    for name, is_folder in entries:
        if _is_left_out(name):
            continue
        if not is_folder and ".parquet" not in name.lower():
            return False
        found |= is_folder and name.find("=") > 0
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def find_partitioned(path: str | Path) -> Sequence[Path | ObjectPath]:
    """The `.parquet` files in all folders of this one, but for what begins with an underscore or a dot."""
    folder = glob.escape(os.fspath(path).rstrip("/"))
    found = find_data(f"{folder}/**/*.parquet", ".parquet")
    return [file for file in found if not any(_is_left_out(segment) for segment in _segments(file, _base(path)))]


def partition_of(file: Path | ObjectPath, path: str | Path) -> dict[str, str | None]:
    """What the folders of a file say, from the first one that `path`, a folder or a pattern, does not name itself.

    Raises:
        InputError: a value is no text.
    """
    values: dict[str, str | None] = {}
    for segment in _segments(file, _base(path))[:-1]:
        name, is_one, value = segment.partition("=")
        try:
            name, text = (unquote(one, errors="strict") for one in (name, value))
        except UnicodeDecodeError:
            raise InputError(f"{escaped(str(file))}: {escaped(segment)} is no text; rename the folder") from None
        if is_one and name and name not in values:
            values[name] = None if value == NULL else text
    return values


def types_of(partitions: Sequence[Mapping[str, str | None]], schemas: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Arrow's type of each column that the folders of some file name: that which files have, else as they look.

    Of each file there is what its folders say, and its name with the columns in it.

    Raises:
        InputError: a file has a column of that name, but no such folder, or of a type that the values have not.
    """
    arrow = import_optional("pyarrow", "parquet")
    types: dict[str, Any] = {}
    for name in dict.fromkeys(name for partition in partitions for name in partition):
        texts = arrow.array([partition.get(name) for partition in partitions], arrow.string())
        inside: dict[Any, str] = {}  # a file for each type
        for (where, schema), partition in zip(schemas, partitions, strict=True):
            if name not in schema.names:
                continue
            if name not in partition:
                raise InputError(
                    f"{where}: has column {name!r}, which others have in their folders' names; write all alike"
                )
            inside.setdefault(plain_type(schema.field(name).type), where)
        for kind, where in inside.items():
            if not _is_cast(texts, kind):
                raise InputError(
                    f"{where}: column {name!r} is {kind}, which folders named {name}= are not; rename either"
                )
        if len(inside) > 1:
            one, other = list(inside)[:2]
            raise InputError(f"{inside[other]}: column {name!r} is {other}, in {inside[one]} {one}; write all alike")
        if inside:
            [types[name]] = inside
        elif texts.null_count == len(texts):
            types[name] = arrow.null()
        else:
            types[name] = arrow.int32() if _is_cast(texts, arrow.int32()) else arrow.string()
    return types


def _is_cast(texts: Any, kind: Any) -> bool:
    arrow = import_optional("pyarrow", "parquet")
    try:
        texts.cast(arrow.type_for_alias(str(kind)))
    except (ValueError, arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        return False
    return True


def _base(path: str | Path) -> str:
    """The folder, or what stands before the first segment of a pattern that is one."""
    text = object_url(str(path)).key if is_url(path) else os.fspath(path)
    if not is_pattern(text) and not glob.has_magic(text):
        return text
    return "/".join(takewhile(lambda segment: not glob.has_magic(segment), text.split("/")))


def _segments(file: Path | ObjectPath, base: str) -> list[str]:
    """The names below the base."""
    if isinstance(file, ObjectPath):
        return file.url.key.removeprefix(base).strip("/").split("/")
    return list(Path(os.path.relpath(file, base or ".")).parts)


def _is_left_out(name: str) -> bool:
    return name[0] in "._"
