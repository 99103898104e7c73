"""A model that is ready to run in a child.

rows --preprocess--> rows --batches, by an executor or the own graph--> outputs --postprocess--> outputs

`model.predict` is not used: it costs 50 to 95 ms a call; a concrete function costs 0.5 to 2 ms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tasks.executors.guarded import InputRange, run_guarded
from tasks.executors.online_check import OnlineCheck
from tasks.models.batches import BatchSize, is_out_of_memory, run_batches, run_bearable
from tasks.models.program import Call
from tasks.models.ragged import run_ragged
from tasks.models.state import State
from tasks.models.user_functions import ONLY, Array, Step, finished, prepared, run_function, stacked
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import Arrays, Rows, blank_rows, fit
from tasks.protocol.trees import columns_of, is_ragged, leaves_of
from worker_config.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, and what it says of itself.

    Attributes:
        call: from arrays by the names of the inputs to arrays by those of the outputs; not called where the model is
            a function, or where there is none.
        function: the function that is the model, if it is one; it takes rows as they are.
        chain: models that run one after the other, in place of this one.
        own_graph: where another executor is used: loads the model's own graph, for rows that the other does not run.
        limits: the rows that the executor may be given.
        state: what it keeps between calls; None where that is nothing.
        check: where that executor is not proven to do as the own graph does.
        remember_difference: tells other children, and workers to come, that it does not.
    """

    info: ModelInfo
    call: Call
    batch: BatchSize
    preprocess: Step | None = None
    postprocess: Step | None = None
    function: Step | None = None
    own_graph: Callable[[], Call] | None = None
    limits: InputRange = field(default_factory=InputRange)
    state: State | None = None
    chain: tuple[LoadedModel, ...] = ()
    check: OnlineCheck | None = None
    remember_difference: Callable[[str], None] | None = None

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
            ModelError: the preprocess function failed.
        """
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
        """The outputs as the job wants them.

        Raises:
            ModelError: the postprocess function failed.
        """
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

    def predict(self, rows: Any) -> Any:
        """The outputs for all rows: one array for a model with one output, else a dict by output name.

        Where there is no model, the rows themselves, as a tree of arrays.

        Raises:
            InputError: the rows do not fit the model's inputs.
            ModelError: rows out differ from rows in, or a function failed.
        """
        name = self.info.name
        if self.is_step:
            return stacked(rows, self._preprocess)
        if self.function and not any(map(len, columns_of(rows).values())):
            return np.empty(0)  # no function is given no rows, and what it would make of them nobody knows
        group = self.check.group if self.check is not None else None
        outputs = run_ragged(self._run, rows, name, group) if is_ragged(rows) else self._run(rows)
        if self.function:
            return outputs.get(ONLY, outputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _run(self, rows: Rows) -> Arrays:
        outputs = self._outputs(rows)
        batch_rows = self.info.batch_rows if self.function else self.batch.rows
        self.batch.counts.add(len(next(iter(outputs.values()), ())), batch_rows)
        return outputs

    def _outputs(self, rows: Rows) -> Arrays:
        if self.function:
            return run_function(self.function, rows, self.info)
        arrays = fit(rows, self.info.inputs, self.info.name, ordered=self.info.ordered)
        if self.own_graph is None:
            return self._run_batches(self.call, arrays)
        if self.check is not None and self.check.by_own_graph:
            return self._run_own_graph(arrays)
        began = 0.0 if self.check is None else self.check.clock()
        try:
            outputs = run_guarded(partial(self._run_batches, self.call), self._run_own_graph, arrays, self.limits)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # What it says of bad rows is clearer; and what an executor does not run, it may.
            outputs = self._run_own_graph(arrays)
            logger.warning(
                "model %s: %s gave up (%s); its own graph did not", self.info.name, self.info.executor, error
            )
            return outputs
        if self.check is not None:
            self.check.hold(arrays, outputs, self._by_own_graph, self.check.clock() - began)
        return outputs

    def _by_own_graph(self, arrays: Arrays) -> Arrays:
        """A few rows, without padding where there need be none."""
        assert self.own_graph is not None  # noqa: S101 - there is a check of another executor alone
        rows = self.batch.rows if self.batch.fixed else min(self.batch.rows, len(next(iter(arrays.values()))))
        return run_batches(self.own_graph(), arrays, rows, self.info.name)

    def _run_batches(self, call: Call, arrays: Arrays) -> Arrays:
        return run_bearable(call, arrays, self.batch, self.info.name)

    def _run_own_graph(self, arrays: Arrays) -> Arrays:
        assert self.own_graph is not None  # noqa: S101 - callers have asked
        return self._run_batches(self.own_graph(), arrays)
