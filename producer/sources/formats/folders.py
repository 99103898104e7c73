"""A folder or a pattern --> rows that are the paths of files, or their bytes."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from producer.rows.kept import PATH
from producer.sources.arrays import ArraySource, array_source, stamp_of
from producer.sources.files import find_data, is_pattern, span_of
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import listed
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_paths import ObjectPath, first_of
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
    matches = list(find_data(path, ""))
    label, folder = escaped(Path(path).name), escaped(str(path)).rstrip("/")
    if subfolders := [] if is_pattern(os.fspath(path)) else _subfolders(path):
        logger.warning(
            "%s: its subfolders are left out: %s; for their files too give the pattern %s/**/*",
            label,
            listed(subfolders),
            folder,
        )
    paths = np.array([_path(file) for file in matches], dtype=object)
    source = replace(array_source(paths, label, str(path)), others={PATH: paths})
    if not contents:
        return source
    spans = [_span(file, row) for row, file in enumerate(matches)]
    row_bytes = sum(span.size for span in spans) / len(spans)
    borders = range(len(spans) + 1)
    return SplitSource(label, row_bytes, SplitRef("bytes", spans), borders, table=source.table)


def _span(file: Path | ObjectPath, row: int) -> FileSpan:
    """One file, as it is now; one that cannot be looked at is what no file is, and fails when it is opened."""
    if isinstance(file, ObjectPath):
        return msgspec.structs.replace(span_of(file), first=row, stop=1)
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
