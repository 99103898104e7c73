"""A model that is ready to run in a child.

rows --preprocess--> rows --ModelRunner--> outputs --postprocess--> outputs

`model.predict` is not used: it costs 50 to 95 ms a call; a concrete function costs 0.5 to 2 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.child.model_runner import ModelRunner
from tasks.models.batches import run_ragged
from tasks.models.error_text import typed_line
from tasks.models.state import State
from tasks.models.user_functions import ONLY, Array, Step, finished, prepared, run_function, stacked
from tasks.protocol.codec import columns_of, is_ragged, leaves_of
from tasks.protocol.made_inputs import with_made
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import Arrays, Rows, blank_rows, fit
from tasks.snapshots.file_stamps import Stamp, stamps_of
from worker_config.errors import ModelError


@dataclass(frozen=True)
class LoadedFiles:
    """The files of a snapshot that a model was loaded from, some of which are its memory as long as it lives.

    Attributes:
        folder: of the snapshot.
        stamps: of these files, from before they were loaded.
    """

    folder: Path = Path()
    stamps: dict[str, Stamp] = field(default_factory=dict)

    def have_changed(self) -> bool:
        """Whether somebody has written to one, or replaced it; some microseconds for each."""
        return stamps_of(self.folder, self.stamps) != self.stamps


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, and what it says of itself.

    Attributes:
        runner: the model's own call; not used where the model is a function, or where there is none.
        function: the function that is the model, if it is one; it takes rows as they are.
        state: what it keeps between calls; None where that is nothing.
        chain: models that run one after the other, in place of this one.
        files: those that it was loaded from; none where there is no snapshot.
    """

    info: ModelInfo
    runner: ModelRunner
    preprocess: Step | None = None
    postprocess: Step | None = None
    function: Step | None = None
    state: State | None = None
    chain: tuple[LoadedModel, ...] = ()
    files: LoadedFiles = LoadedFiles()

    @property
    def links(self) -> tuple[LoadedModel, ...]:
        """What is run, one after the other: this model, or the members of a chain."""
        return self.chain or (self,)

    def begin_chunk(self, first_row: int) -> None:
        """Put what it keeps between calls into the saved state; seeds are the chunk's own where chance is meant."""
        for link in self.links:
            if link.state is not None:
                link.state.restore(None if link.info.independent_rows else first_row)

    def prepare(self, rows: Any, count: int) -> tuple[Any, Array | None]:
        """The rows as the model takes them, of `count`; and a mask of those not left out, None where that is all.

        Raises:
            InputError: an input cannot be made of the rows' columns.
            ModelError: the preprocess function failed.
        """
        if count:
            own = () if self.preprocess or self.function else [spec.name for spec in self.info.inputs]
            rows = with_made(rows, self.info.columns, f"model {self.info.name}", own)
        if self.preprocess is None:
            return rows, None
        if not count:  # no function is given no rows
            return blank_rows(self.info.inputs) if self.info.inputs else np.empty(0), None
        what = self._preprocess
        made, kept = prepared(self.preprocess, rows, count, what, drops=self.info.drops_rows)
        if not self.is_step and any(len(key) > 1 for key, _ in leaves_of(made)):
            raise ModelError(f"{what} returned a tree; a model takes one array, or a dict or tuple of arrays")
        return made, kept

    def finish(self, outputs: Any, count: int) -> Any:
        """The outputs as the job wants them; raises ModelError where the postprocess function failed."""
        if self.postprocess is None or (not count and not self.info.inputs):  # no function is given no rows
            return outputs
        what = f"model {self.info.name}: postprocess {self.info.postprocess}"
        return finished(self.postprocess, outputs, count, what)

    @property
    def _preprocess(self) -> str:
        """The function, for people."""
        name, function = self.info.name, self.info.preprocess
        return f"step {name}: {function}" if self.is_step else f"model {name}: preprocess {function}"

    @property
    def is_step(self) -> bool:
        """Whether there is no model, and what the preprocess function makes of the rows is the output."""
        return not (self.info.inputs or self.function)

    def predict(self, rows: Any, *, small_batches: bool = False) -> Any:
        """The outputs for all rows: one array for a model with one output, else a dict by output name.

        Where there is no model, the rows themselves, as a tree of arrays. Where `small_batches` may be taken, few rows
        do not pay for a whole batch; their last bits may differ from those in one.

        Raises:
            InputError: the rows do not fit the model's inputs.
            ModelError: rows out differ from rows in, or a function failed.
        """
        name = self.info.name
        if self.is_step:
            return stacked(rows, self._preprocess)
        if not any(map(len, columns_of(rows).values())):
            if self.function:
                return np.empty(0)  # no function is given no rows, and what it would make of them nobody knows
            outputs = self._of_no_rows(rows)
        else:
            group = self.runner.check.group if self.runner.check is not None else None
            run = partial(self._run, small_batches=small_batches)
            outputs = run_ragged(run, rows, name, group) if is_ragged(rows) else run(rows)
        if self.function:
            return outputs.get(ONLY, outputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _of_no_rows(self, rows: Rows) -> Arrays:
        """The outputs' form alone, where it is known; else what the model makes of blank rows, if it takes them."""
        rows = blank_rows(self.info.inputs) if is_ragged(rows) else rows
        arrays = fit(rows, self.info.inputs, self.info.name, ordered=self.info.ordered)
        unknown = [spec for spec in self.info.outputs if not spec.shape or None in spec.shape[1:]]
        if not unknown:
            return blank_rows(self.info.outputs)
        try:
            return self.runner.run(arrays)
        except Exception as error:
            raise ModelError(
                f"model {self.info.name}: there are no rows, and only rows would tell the form of its output "
                f"{unknown[0]}; blank ones it refuses ({typed_line(error)})"
            ) from error

    def _run(self, rows: Rows, *, small_batches: bool) -> Arrays:
        batch = self.runner.batch
        if self.function:
            batch_rows = batch.of(columns_of(rows))
            outputs = run_function(self.function, rows, self.info, batch_rows)
        else:
            arrays = fit(rows, self.info.inputs, self.info.name, ordered=self.info.ordered)
            outputs = self.runner.run(arrays, small_batches=small_batches)
            batch_rows = batch.of(arrays, small=small_batches)  # now, as it may have become smaller
        batch.counts.add(len(next(iter(outputs.values()), ())), batch_rows, padded=not self.function)
        return outputs
