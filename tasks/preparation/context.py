"""What preparation needs to know of the worker, or of who else has models prepared."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from tasks.models.devices import gpus
from tasks.snapshots import cache
from tasks.snapshots.installed import tensorflow_version
from worker_config.settings import Settings


@dataclass(frozen=True)
class PreparationContext:
    """What `prepare` needs to know of the worker.

    Attributes:
        cache: the folder of snapshots.
        limit_bytes: how large it may become.
        threads: inside one operation of a child.
        children: how many will hold the models.
        gpus: how many this machine has.
        say: tell the person who started the worker.
        tell: what is done now, as "making a snapshot of digits", for whoever looks or waits.
        held: descriptors that keep snapshots from being pruned; `keep` are keys of others that are to stay.
        is_for_others: whether other machines are to run the models, which may have no TensorFlow: what executors need
            that do without is kept, also where the own graph is faster here.
    """

    cache: Path
    limit_bytes: int
    threads: int
    children: int
    gpus: int
    say: Callable[[str], None]
    tell: Callable[[str], None] = lambda doing: None
    held: list[int] = field(default_factory=list)
    keep: Collection[str] = ()
    is_for_others: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        threads: int,
        children: int,
        say: Callable[[str], None],
        tell: Callable[[str], None] = lambda doing: None,
    ) -> PreparationContext:
        """What these settings say of it."""
        visible = len(gpus()) if tensorflow_version() else 0  # which no other library uses
        return cls(cache.cache_folder(settings), settings.cache_mib * 2**20, threads, children, visible, say, tell)
