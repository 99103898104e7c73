"""A folder or a pattern --> rows that are the paths of files, or their bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from producer.rows.kept import PATH
from producer.rows.source import Table
from producer.sources.arrays import ArraySource, array_source, stamp_of
from producer.sources.files import ObjectSpans, find_files, is_pattern, object_span
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import listed
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_list import ObjectList, ObjectPath
from tasks.storage.object_paths import find_objects, first_of
from worker_config.files import escaped
from worker_config.object_urls import is_url, object_url

logger: logging.Logger = logging.getLogger(__name__)


def open_files(path: str | Path, contents: bool = False) -> ArraySource | SplitSource:
    """Open the files of a folder or of a pattern, sorted by path, as rows.

    Args:
        path: a folder, or a pattern as of `glob`, also by URL; `**` goes through subfolders. Hidden files are left out.
        contents: rows are the bytes of the files; if not, their absolute paths as str, for a preprocess function of
            the model that opens them, on machines where they are at the same place. A path that is no UTF-8 is bytes.
            Of objects their URLs.

    Raises:
        InputError: there are no such files.
    """
    matches: Sequence[Path | ObjectPath] = find_objects(str(path)) if is_url(path) else find_files(path)
    label, folder = escaped(Path(path).name), escaped(str(path)).rstrip("/")
    if subfolders := [] if is_pattern(os.fspath(path)) else _subfolders(path):
        logger.warning(
            "%s: its subfolders are left out: %s; for their files too give the pattern %s/**/*",
            label,
            listed(subfolders),
            folder,
        )

    def paths() -> ArraySource:
        rows = np.array([_path(file) for file in matches], dtype=object)
        return replace(array_source(rows, label, str(path)), others={PATH: rows})

    if not contents:
        return paths()
    spans: Sequence[FileSpan]
    if isinstance(matches, ObjectList):
        spans, total_bytes = ObjectSpans(matches), matches.total_bytes
    else:
        spans = [_span(file, row) for row, file in enumerate(matches)]
        total_bytes = sum(span.size for span in spans)
    # Of very many files their paths are made for who keeps them alone.
    table = Table([], lambda names: paths().only(names), {PATH: "object"})
    ref, borders = SplitRef("bytes", cast("list[FileSpan]", spans)), range(len(spans) + 1)
    return SplitSource(label, total_bytes / len(spans), ref, borders, table=table)


def _span(file: Path | ObjectPath, row: int) -> FileSpan:
    """One file, as it is now; one that cannot be looked at is what no file is, and fails when it is opened."""
    if isinstance(file, ObjectPath):
        return object_span(file, row)
    try:
        stamp = stamp_of(file.stat())
    except OSError:
        stamp = (0, 0)
    return FileSpan(os.fspath(file), *stamp, row, 0, 1)


def _subfolders(path: str | Path) -> list[str]:
    if is_url(path):
        return sorted(first_of(object_url(str(path)))[0])
    with one_line_errors(escaped(str(path))):
        visible = (entry for entry in os.scandir(path) if entry.name[0] != ".")
        return sorted(escaped(entry.name) for entry in visible if os.path.isdir(entry.path))  # noqa: PTH112


def _path(file: Path | ObjectPath) -> str | bytes:
    """A path as a row: what the system has for a name need be no text."""
    if isinstance(file, ObjectPath):
        return str(file)
    name = str(file.absolute())
    return name if escaped(name) == name else os.fsencode(name)
