"""Runs a model's batches: by its executor, and by its own graph the rows that the executor is not for.

arrays --executor, where it may--> outputs --online check, where nothing is proven of it--> outputs
       --own graph, for other rows, or where the executor gives up--> outputs
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tasks.executors.guarded import InputRange, run_guarded
from tasks.executors.online_check import OnlineCheck
from tasks.models.batches import BatchSize, is_out_of_memory, run_batches, run_bearable
from tasks.models.error_text import typed_line
from tasks.models.program import Call
from tasks.protocol.signature import Arrays
from worker_config.errors import TensorFlowNeededError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRunner:
    """A model's call, in batches.

    Attributes:
        model: its name, for errors.
        call: from arrays by the names of the inputs to arrays by those of the outputs.
        batch: rows of one call.
        own_graph: where another executor is used: loads the model's own graph, for rows that the other does not run.
        limits: the rows that the executor may be given.
        check: where that executor is not proven to do as the own graph does.
        executor: its name.
    """

    model: str
    call: Call
    batch: BatchSize
    own_graph: Callable[[], Call] | None = None
    limits: InputRange = field(default_factory=InputRange)
    check: OnlineCheck | None = None
    executor: str = ""

    def run(self, arrays: Arrays, *, small_batches: bool = False) -> Arrays:
        """The outputs for all rows; of few rows sooner where `small_batches` may be taken.

        Raises:
            ModelError: rows out differ from rows in.
            TensorFlowNeededError: some need the model's own graph, and TensorFlow is not installed.
        Exception: what the model raises.
        """
        check, executor = self.check, partial(self._in_batches, self.call, small=small_batches)
        if self.own_graph is None:
            return executor(arrays)
        own_graph = partial(self._few_by_own_graph if small_batches else self._by_own_graph, self.own_graph)
        if check is not None and check.by_own_graph:
            return own_graph(arrays)
        began = 0.0 if check is None else check.clock()
        try:
            outputs = run_guarded(executor, own_graph, arrays, self.limits)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, TensorFlowNeededError):
                raise
            # What it says of bad rows is clearer; and what an executor does not run, it may.
            try:
                outputs = own_graph(arrays)
            except TensorFlowNeededError as needed:
                raise TensorFlowNeededError(f"{needed}; {self.executor} gave up: {typed_line(error)}") from error
            logger.warning("model %s: %s gave up (%s); its own graph did not", self.model, self.executor, error)
            return outputs
        if check is not None:
            check.hold(arrays, outputs, partial(self._few_by_own_graph, self.own_graph), check.clock() - began)
        return outputs

    def _in_batches(self, call: Call, arrays: Arrays, *, small: bool = False) -> Arrays:
        return run_bearable(call, arrays, self.batch, self.model, small=small)

    def _by_own_graph(self, load: Callable[[], Call], arrays: Arrays) -> Arrays:
        return self._in_batches(load(), arrays)

    def _few_by_own_graph(self, load: Callable[[], Call], arrays: Arrays) -> Arrays:
        """Without padding where there need be none."""
        rows = self.batch.of(arrays)
        if not self.batch.fixed:
            rows = min(rows, len(next(iter(arrays.values()))))
        return run_batches(load(), arrays, rows, self.model)
