"""Takes new versions of models into a worker that runs: `control reload_models`, or SIGHUP.

    manifest and files --prepare, in a forked process--> ServingSpec --main process--> word for children, slots, queue

No child is stopped, and no chunk: a child loads the version that a chunk asks for when it comes, from its snapshot, in
a fraction of a second. New jobs get the new versions, as soon as the worker's slots tell of them; jobs that run go on
with those that they began with.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from celery.apps import worker as celery_worker

from tasks.models.model_version import digest_or_error, python_digests
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation.context import PreparationContext
from tasks.preparation.model_set import ModelSet
from tasks.preparation.prepare import prepare_all
from tasks.preparation.serving_spec import ServingSpec, describe
from tasks.snapshots import cache
from tasks.snapshots.built_set import read_built_set
from tasks.snapshots.fetch_models import fetch_models, use_fetched
from tasks.snapshots.forked_call import Forked, ForkedError
from worker_config.errors import ConfigError, ModelLoadError
from worker_config.manifest import ModelEntry, read_manifest
from worker_config.settings import Settings

LOOK_SECONDS = 0.1


@dataclass
class ReloadRequest:
    """Whether a reload was asked for; a signal's handler may do no more than note it."""

    is_made: bool = False

    def make(self, *_: object) -> None:
        """Ask for it."""
        self.is_made = True


def heed_hangup() -> ReloadRequest:
    """Have SIGHUP ask for a reload from now on: by default it ends a process, and Celery's handler starts it again."""
    request = ReloadRequest()
    celery_worker.install_worker_restart_handler = lambda *_: None
    signal.signal(signal.SIGHUP, request.make)
    return request


@dataclass
class Reloader:
    """Reloads of one worker, one at a time; `look` is called often, by the main process's timer.

    Attributes:
        models: of the worker.
        context: of the worker.
        read: the entries of the manifest as it stands when called.
        say: tell the person who started the worker.
        request: that of this worker.
    """

    models: ModelSet
    context: PreparationContext
    read: Callable[[], dict[str, ModelEntry]]
    say: Callable[[str], None]
    request: ReloadRequest

    def __post_init__(self) -> None:
        self._python = python_digests(one.entry for one in self.models.current.served.values())
        self._forked: Forked | None = None

    def look(self) -> bool:
        """Begin what is wanted, end what is done; whether other models are served from now on."""
        try:
            return self._look()
        except (ForkedError, OSError) as error:  # to fork needs memory, and a file system with room
            self.say(f"models are not reloaded: {error}")
            return False

    def _look(self) -> bool:
        if self._forked is None:
            if self.request.is_made:
                self.request.is_made = False
                work = partial(_prepare_all, self.read, self.context, self._python)
                self._forked = Forked(work, dict[str, ServingSpec], Path(os.devnull))
            return False
        if not self._forked.is_done():
            return False
        forked, self._forked = self._forked, None
        return self._switch(forked.result())

    def _switch(self, served: dict[str, ServingSpec]) -> bool:
        changed = what_changed(self.models.current.served, served)
        if not changed:
            self.say("models reloaded: nothing has changed")
            return False
        if any(one.needs_tensorflow for one in served.values()):
            import_tensorflow()  # before the next fork, where the models so far did without
        try:
            held = [cache.use(Path(one.folder)) for one in served.values() if one.folder]
        except FileNotFoundError:  # pruned by another worker since, as nobody used it: it is made again
            self.request.make()
            return False
        held += use_fetched({name: one.entry for name, one in served.items()}, self.context.cache)
        self.models.replace(served, held)
        self._python.update(python_digests(one.entry for one in served.values()))
        self.say(f"models reloaded: {changed}")
        return True


def read_entries(settings: Settings, say: Callable[[str], None]) -> dict[str, ModelEntry]:
    """The models of the manifest that this worker holds, as it stands now, those behind URLs as copies.

    Raises:
        ConfigError, UnknownModelError: the manifest, or a name, does not do.
        ModelLoadError: it is that of a built set, which is damaged; or a model cannot be fetched.
    """
    read_built_set(settings.models_path.resolve().parent)
    return fetch_models(read_manifest(settings.models_path, settings.model_set), cache.cache_folder(settings), say)


def _prepare_all(
    read: Callable[[], dict[str, ModelEntry]], context: PreparationContext, imported: Mapping[str, str]
) -> dict[str, ServingSpec]:
    entries = read()
    context.held.extend(use_fetched(entries, context.cache))  # of this process, as long as it prepares them
    now = python_digests(entries.values())
    if changed := sorted(name for name, digest in now.items() if imported.get(name, digest) != digest):
        raise ConfigError(
            f"{changed[0]} has changed, which running children have imported or read; start the worker again"
        )
    served = prepare_all(entries, {name: digest_or_error(name, entry) for name, entry in entries.items()}, context)
    for name, one in served.items():
        if describe(one) is None:
            raise ModelLoadError(
                f"model {name} has no snapshot, which a reload needs ({one.note}); start the worker again"
            )
    return served


def what_changed(before: Mapping[str, ServingSpec], after: Mapping[str, ServingSpec]) -> str:
    """For the log: models that came, went, or have another version."""
    words = []
    for name in sorted(before.keys() | after.keys()):
        old, new = (models[name].digest[:8] if name in models else "none" for models in (before, after))
        if old != new:
            words.append(f"{name} {old} -> {new}")
    return ", ".join(words)
