"""Objects behind URLs as the files of a data set: found by URL, prefix or pattern, and opened like files.

s3://bucket/x.parquet, s3://bucket/folder/, s3://bucket/*/x-*.csv --find_objects--> ObjectPath, ObjectPath, ...
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice

from tasks.storage.object_list import ObjectList, ObjectPath
from tasks.storage.objects import list_objects, stat
from tasks.storage.told import told
from worker_config.errors import InputError, UsageError
from worker_config.object_urls import ObjectUrl, object_url, redacted_url

# Of a folder, to see what it is; as many as one request gives.
_FIRST = 1_000


def find_objects(text: str, suffix: str = "") -> Sequence[ObjectPath]:
    """The object of a URL, or those of a folder or pattern, sorted; with a suffix those whose names hold it.

    Raises:
        InputError: there are none, or the store cannot be asked (ObjectError).
    """
    try:
        url = object_url(text)
    except UsageError as error:
        raise InputError(str(error)) from None
    if not glob.has_magic(url.key):
        if not url.is_folder:
            return [ObjectPath(url, stat(url))]
        pattern = [*url.key.split("/"), "*"] if url.key else ["*"]
    else:
        pattern = url.key.split("/")
    fixed = next(place for place, segment in enumerate(pattern) if glob.has_magic(segment))
    prefix = ObjectUrl(url.scheme, url.bucket, "/".join(pattern[:fixed]), is_folder=True)
    matches, others = ObjectList(prefix), ObjectList(prefix)
    for url_found, stamp in told(list_objects(prefix), f"{prefix}: objects listed"):
        if _matches(url_found.key.split("/"), pattern):
            if suffix in url_found.name.lower():
                matches.append(url_found, stamp)
            elif not matches:  # else nobody asks for them
                others.append(url_found, stamp)
    if not matches and not others:
        raise InputError(f"{redacted_url(text)}: no objects there; check the URL")
    if not matches and url.is_folder:
        raise InputError(f"{url}: has no {suffix} objects in it; for those in subfolders write {url}**/*{suffix}")
    return (matches or others).in_order()


def first_of(folder: ObjectUrl) -> tuple[list[str], list[str]]:
    """The names of the folders and of the objects in a folder, as far as its first thousand objects tell.

    Raises:
        ObjectError: it cannot be listed.
        UsageError: nothing can, as of web servers.
    """
    keys = [url.key.removeprefix(folder.key).lstrip("/") for url, _ in islice(list_objects(folder), _FIRST)]
    folders = dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key)
    return list(folders), [key for key in keys if "/" not in key]


def is_many(text: str) -> bool:
    """Whether a URL is that of a folder, or a pattern."""
    return text.endswith("/") or glob.has_magic(text)


def _matches(segments: Sequence[str], pattern: Sequence[str]) -> bool:
    """As `glob` has it: `**` is any number of folders, and what begins with a dot is asked for by a dot."""
    if not pattern:
        return not segments
    if pattern[0] == "**":
        return _matches(segments, pattern[1:]) or (
            bool(segments) and segments[0][:1] != "." and _matches(segments[1:], pattern)
        )
    if not segments or (segments[0][:1] == "." and pattern[0][:1] != "."):
        return False
    return fnmatchcase(segments[0], pattern[0]) and _matches(segments[1:], pattern[1:])
