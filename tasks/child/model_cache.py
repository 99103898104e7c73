"""Holds a child's models: those that it began with, and those that chunks have asked for since.

    chunk's ModelRef --held?--> LoadedModel
                     --known to the worker? (begun with, or a file of its run folder)--> load
                     --memory limit?--> drop the least recently used, or ask for a fresh child

TensorFlow does not always give memory back. A child that stays too large after dropping models hands its chunk back and
is replaced: a process that ends gives back everything.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from tasks.child.load_model import load_model
from tasks.child.loaded_model import LoadedModel
from tasks.models.batches import BatchCounts
from tasks.models.memory import give_back, own_bytes
from tasks.preparation.serving_spec import ServingSpec, describe
from tasks.protocol.messages import ModelRef
from tasks.protocol.records import ModelInfo
from tasks.transport.run_folder import model_path
from worker_config.decodable import decodable
from worker_config.errors import ModelError
from worker_config.foreign_errors import UNDECODABLE

# A version that was replaced may still be wanted by a job that runs.
IDLE_SECONDS = 60.0


class FreshChildError(Exception):
    """This child has no room for a chunk's model, no TensorFlow for it, or files that have changed; a new one sees."""


class ModelCache:
    """The models of one child.

    Args:
        served: those of the worker when the child was forked.
        folder: where the worker puts word of versions that came later; None where there is no such folder.
        limit_bytes: memory that the child may have of its own; 0 is without limit.

    Attributes:
        folder: as given.
        recycle: whether the child should be replaced after this chunk.
    """

    def __init__(self, served: Iterable[ServingSpec], folder: Path | None = None, limit_bytes: int = 0) -> None:
        self._served = {ModelRef(one.name, one.digest): one for one in served}
        self._current = list(self._served)
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._loaded: OrderedDict[ModelRef, LoadedModel] = OrderedDict()
        self._used: dict[ModelRef, float] = {}
        self._stay: set[ModelRef] = set()
        self._dropped = False
        is_there = "tensorflow" in sys.modules or any(one.needs_tensorflow for one in self._served.values())
        self._has_tensorflow = is_there
        self.recycle = False

    def preload(self) -> None:
        """Load what is to be loaded at the start; raises ModelLoadError where a model cannot be loaded."""
        for ref, served in self._served.items():
            # What nobody can describe beforehand must be loaded to be known.
            if served.entry.preload or describe(served) is None:
                self._load(ref, served)
                self._stay.add(ref)

    def infos(self) -> list[ModelInfo]:
        """What the child serves, loaded or not."""
        loaded = {ref: model.info for ref, model in self._loaded.items()}
        found = [loaded.get(ref) or describe(self._served[ref]) for ref in self._current]
        return [info for info in found if info is not None]

    def get(self, ref: ModelRef, wanted: Collection[ModelRef], child: str) -> LoadedModel:
        """The model, loaded if need be; `wanted` are all those of the chunk, which stay.

        Raises:
            ModelError: this worker does not serve it, or it cannot be loaded.
            FreshChildError: there is no room for it, or no TensorFlow in a child of functions; `recycle` is set.
        """
        model = self._loaded.get(ref)
        if model is None:
            served = self._served.get(ref) or self._read(ref, child)
            if not self._has_tensorflow and served.needs_tensorflow:
                # It came by a reload; the main process has imported TensorFlow for children to come.
                self.recycle = True
                raise FreshChildError
            self._make_room(served, wanted)
            model = self._load(ref, served)
        self._loaded.move_to_end(ref)
        self._used[ref] = time.monotonic()
        return model

    def take_batch_counts(self) -> BatchCounts:
        """Of the batches that all models have run since the last time."""
        total = BatchCounts()
        for model in self._loaded.values():
            for link in model.links:
                total.update(link.runner.batch.counts)
                link.runner.batch.counts.clear()
        return total

    def check_files(self, models: Iterable[LoadedModel]) -> None:
        """After these models have run: what they map may have other bytes by now, and so may their outputs.

        Raises:
            FreshChildError: somebody has written to a file of theirs; a fresh child reads it whole before it serves.
        """
        if any(link.files.have_changed() for model in models for link in model.links):
            self.recycle = True
            raise FreshChildError

    def check_size(self) -> None:
        """After a chunk: set `recycle` if the child has become too large, and a fresh one would be smaller."""
        if self._limit_bytes and self._leavers() and own_bytes() > self._limit_bytes:
            self.recycle = True

    def _load(self, ref: ModelRef, served: ServingSpec) -> LoadedModel:
        model = self._loaded[ref] = load_model(served)
        self._used[ref] = time.monotonic()
        return model

    def _read(self, ref: ModelRef, child: str) -> ServingSpec:
        if self.folder is not None:
            with suppress(OSError, *UNDECODABLE):
                served = msgspec.json.decode(model_path(self.folder, ref).read_bytes(), type=decodable(ServingSpec))
                self._served[ref] = served
                return served
        others = ", ".join(sorted(str(known) for known in self._served if known.name == ref.name))
        holds = f"holds {others}, the job wants {ref}" if others else f"does not hold model {ref.name}"
        raise ModelError(f"worker {child} {holds}")

    def _make_room(self, served: ServingSpec, wanted: Collection[ModelRef]) -> None:
        now = time.monotonic()
        idle = [ref for ref in self._leavers() if ref.name == served.name and now - self._used[ref] > IDLE_SECONDS]
        for ref in idle:
            self._drop(ref)
        if not self._limit_bytes:
            return
        needed = served.trial.own_bytes if served.trial else 0
        while own_bytes() + needed > self._limit_bytes:
            leavers = [ref for ref in self._leavers() if ref not in wanted]
            if not leavers:
                if self._dropped:
                    self.recycle = True
                    raise FreshChildError
                return  # it is what it is: a fresh child would be no smaller
            self._drop(leavers[0])

    def _leavers(self) -> list[ModelRef]:
        """Models that a fresh child would not hold, the least recently used first."""
        return [ref for ref in self._loaded if ref not in self._stay]

    def _drop(self, ref: ModelRef) -> None:
        self._dropped = True
        del self._loaded[ref], self._used[ref]
        give_back()
