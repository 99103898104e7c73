"""Files of either side: written whole or not at all, brought to the disk, found under a root.

Nothing large is imported here: `tasks.health` is to answer at once.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from worker_config.object_urls import ObjectUrl, is_beneath_any, is_url

# A folder, or the beginning of URLs.
Root: TypeAlias = str | Path | ObjectUrl

_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")


def path_text(path: bytes) -> str:
    """A path as text that can be written anywhere, and turned back: bytes that are no UTF-8 as `\\xff`.

    A backslash that would be taken for the beginning of such is `\\x5c`; every other path is as it is.
    """
    return _LOOKS_ESCAPED.sub(rb"\\x5c", path).decode("utf-8", "backslashreplace")


def escaped(name: str) -> str:
    """The name of a file as text that can be written anywhere, as `path_text` gives it."""
    return path_text(os.fsencode(name))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there with all its bytes, or not at all; the last of several writers wins."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_full(error: OSError) -> bool:
    """Whether a disk has no more room, or whoever writes may have no more of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sync_file(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_under(path: str, roots: Sequence[Root]) -> bool:
    """Whether a path lies under one of the roots, after the links of both are followed; or a URL, as it reads."""
    if is_url(path):
        return is_beneath_any(path, [root for root in roots if not isinstance(root, Path) and is_url(root)])
    return split_root(path, roots) is not None


def split_root(path: str, roots: Sequence[Root]) -> tuple[Path, Path] | None:
    """The root that a path lies under, and the way from there, both without links; None where there is no such root."""
    real = Path(os.path.realpath(path))
    folders = (os.path.realpath(str(root)) for root in roots if not is_url(root))
    for root in map(Path, folders):
        if real.is_relative_to(root):
            return root, real.relative_to(root)
    return None
