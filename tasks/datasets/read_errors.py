"""What goes wrong while a data set is read becomes one line: where, the cause, and what to do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker_config.errors import CeleriacError, ConfigError, InputError
from worker_config.files import escaped
from worker_config.foreign_errors import one_line


def check_file(path: Path, instead: str) -> os.stat_result:
    """What the system says of a regular file; `instead` says what to name instead of a folder.

    Raises:
        InputError: it is missing, may not be looked at, or is no regular file.
    """
    name = escaped(str(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: is a folder; name {instead} in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: is not a regular file; copy the data to one first")
    return status


@contextmanager
def one_line_errors(where: str) -> Iterator[None]:
    """Anything raised inside comes out as an InputError about `where`; our own errors pass."""
    try:
        yield
    except (InputError, ConfigError):
        raise
    except Exception as error:  # of a damaged file, readers raise almost anything
        raise unreadable(where, error) from error


@contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Whatever code that is not ours raises inside comes out as an InputError that begins so; our own errors pass."""
    try:
        yield
    except CeleriacError:
        raise
    except Exception as error:
        raise InputError(f"{what} {type(error).__name__}: {one_line(error)}") from error


def unreadable(where: str, error: Exception) -> InputError:
    """What to tell the user about an error of a reader."""
    if isinstance(error, PermissionError):
        return InputError(f"{where}: may not be read by this user; change its mode or its owner")
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{where}: cannot be read: {' '.join(error.strerror.split())}; check the path")
    if isinstance(error, MemoryError):
        return InputError(
            f"{where}: does not fit in memory: {one_line(error)}; save it as .npy, which is read in slices"
        )
    if isinstance(error, NotImplementedError):
        return InputError(f"{where}: cannot be read by its library: {one_line(error)}; write it in another form")
    return InputError(f"{where}: is damaged or cut short: {one_line(error)}; copy or write it again")
