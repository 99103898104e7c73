"""A worker's mark in its spool, by which producers see that theirs is the same one.

The main process, which is to be forked again, never asks a store itself: where the spool is a URL, a fork does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from tasks.snapshots.forked_call import ForkedError, run_forked
from tasks.transport import spool
from worker_config.errors import ConfigError
from worker_config.object_urls import is_url, object_url


def make_mark(place: spool.Place) -> str:
    """Leave it; gives its name.

    Raises:
        ConfigError: the store takes none.
    """
    if isinstance(place, Path):
        return spool.make_mark(place)
    try:
        mark: str = run_forked(partial(spool.make_mark, place), str, Path(os.devnull))
    except ForkedError as error:
        why = str(error).partition(": ")[2] or str(error)  # without the name of a class
        raise ConfigError(f"CELERIAC_SPOOL cannot be used: {why}") from None
    return mark


def remove_mark(place: str, mark: str) -> None:
    """Take it away when the worker ends."""
    if not is_url(place):
        spool.remove_mark(Path(place), mark)
        return
    with suppress(ForkedError):
        run_forked(partial(spool.remove_mark, object_url(place), mark), None, Path(os.devnull))
