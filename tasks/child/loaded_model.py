"""This module is a model that is ready to run in a child: functions around it, batches, warm-up.

`model.predict` is not used: it costs 50 to 95 ms a call; a concrete function costs 0.5 to 2 ms.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tasks.child.online_checks import make_check
from tasks.executors import EXECUTORS
from tasks.executors.guarded import Limits, run_guarded
from tasks.executors.online_check import OnlineCheck
from tasks.models.batches import BatchSize, filled, is_out_of_memory, run_batches, run_bearable
from tasks.models.error_text import telling_line
from tasks.models.formats import open_model
from tasks.models.memory import give_back, own_bytes
from tasks.models.model_version import entry_digest
from tasks.models.program import Call, Program, batch_rows_of, by_name, plain_call
from tasks.models.ragged import columns_of, is_ragged, run_ragged
from tasks.models.state import State, state_of
from tasks.models.tensorflow_import import import_tensorflow, needs_tensorflow
from tasks.models.user_functions import ONLY, Array, Step, finished, import_step, prepared, run_function, stacked
from tasks.preparation.reference import read_reference
from tasks.preparation.served import Served, chained, info_of
from tasks.protocol.records import ModelInfo, TensorSpec
from tasks.protocol.signature import Arrays, Rows, blank_rows, fit
from tasks.protocol.trees import leaves_of
from tasks.snapshots import differing
from tasks.snapshots.batch_size import remember
from worker_config.errors import ModelError, ModelLoadError

logger = logging.getLogger(__name__)

# An error may quote a whole configuration.
_CAUSE_CHARACTERS = 400
# By name, so as not to import TensorFlow: what it, and TFLite's interpreter, raise for rows that they refuse.
_OF_ROWS = frozenset(("InvalidArgumentError", "OutOfRangeError", "RuntimeError"))


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
    limits: Limits = field(default_factory=Limits)
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
        filled.add(len(next(iter(outputs.values()), ())), batch_rows)
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


def load_model(served: Served) -> LoadedModel:
    """Load one model and run it once on blank rows, so that the first chunk does not pay for it.

    Raises:
        ModelLoadError: it cannot be loaded; the text names model, path and cause.
    """
    if needs_tensorflow([served.entry]):
        import_tensorflow()  # so that its own time and memory are not taken for the model's
    if served.members:
        return _load_chain(served)
    name, entry = served.name, served.entry
    started, memory_before = time.monotonic(), own_bytes()
    try:
        program, batch_rows = _open(served), served.batch_rows
        inputs, outputs = program.inputs, program.outputs
        if not served.snapshot:
            batch_rows = batch_rows_of(inputs, entry.batch_rows)
        call: Call = _no_call
        state: State | None = None
        batch_seconds = 0.0
        if entry.has_file:
            _check_rows(inputs)
            flat = plain_call(program)
            call, state = by_name(flat, inputs, outputs), state_of(flat)
            batch_seconds = _warm_up(call, served, inputs, batch_rows)
        give_back()
        preprocess = import_step(entry.preprocess) if entry.preprocess else None
        postprocess = import_step(entry.postprocess) if entry.postprocess else None
    except Exception as error:
        raise ModelLoadError(
            f"model {name} cannot be loaded from {entry.path or entry.preprocess}: {_cause(error)}"
        ) from error
    if not served.folder and entry_digest(entry) != served.digest:
        # Jobs are pinned to the files that the worker began with; a child that comes later may find others.
        raise ModelLoadError(
            f"model {name} cannot be loaded from {entry.path or entry.preprocess}: its files have changed since the "
            "worker started; start it again"
        )
    info = info_of(
        served,
        inputs,
        outputs,
        ordered=program.ordered,
        batch_rows=batch_rows,
        load_seconds=time.monotonic() - started,
        memory_bytes=max(0, own_bytes() - memory_before),
        batch_seconds=batch_seconds,
    )
    # Rows that depend on their batch would not bear another one.
    fixed = not entry.independent_rows or any(spec.shape and spec.shape[0] is not None for spec in inputs)
    note = partial(remember, Path(served.folder), served.executor) if served.folder else None
    size = BatchSize(batch_rows, fixed, note)
    other = served.executor in EXECUTORS and served.executor != "graph"
    own_graph = cache(partial(_own_graph, served)) if other else None
    trial = served.trial
    limits = Limits(trial.limit, trial.tiny) if trial and other else Limits()
    # A row that depends on others, or on calls, cannot be held against what it would be without them.
    check = None if state is not None or info.dependence else make_check(served, inputs, outputs, batch_rows)
    return LoadedModel(
        info,
        call,
        size,
        preprocess,
        postprocess,
        program.function,
        own_graph,
        limits,
        state,
        check=check,
        remember_difference=partial(differing.remember, Path(served.folder), served.executor) if check else None,
    )


def _load_chain(served: Served) -> LoadedModel:
    started = time.monotonic()
    links = tuple(map(load_model, served.members))
    info = chained(served, [link.info for link in links], time.monotonic() - started)
    return LoadedModel(info, _no_call, BatchSize(info.batch_rows), chain=links)


def _own_graph(served: Served) -> Call:
    program = _open(msgspec.structs.replace(served, executor="graph"))
    return by_name(plain_call(program), program.inputs, program.outputs)


def _open(served: Served) -> Program:
    folder, snapshot, entry = Path(served.folder), served.snapshot, served.entry
    if snapshot and snapshot.kind == "mapped":
        call = EXECUTORS[served.executor].load(folder, snapshot, served.batch_rows, served.threads)
        return Program(snapshot.inputs, snapshot.outputs, call=call, ordered=snapshot.ordered)
    if snapshot:  # the file itself may have another version by now
        copy = folder / "source" / snapshot.source
        entry = msgspec.structs.replace(entry, path=str(copy), version=0)
    return open_model(entry)


def _cause(error: Exception) -> str:
    """Keras and TensorFlow explain over many lines; the first that says something will do."""
    if isinstance(error, FileNotFoundError) and error.strerror:
        return error.strerror
    reporter = telling_line(error)[:_CAUSE_CHARACTERS]
    return f"{type(error).__name__}: {reporter}" if reporter else type(error).__name__


def _check_rows(inputs: list[TensorSpec]) -> None:
    if not inputs:
        raise ValueError("it has no inputs")
    for spec in inputs:
        if not spec.shape:
            raise ValueError(f"its input {spec.name!r} is a single value, and not one for each row")


def _no_call(arrays: Arrays) -> Arrays:
    raise AssertionError("a function has no inputs to be called with")


def _warm_up(call: Call, served: Served, inputs: list[TensorSpec], batch_rows: int) -> float:
    """Run the model twice on blank rows, or rows that it is known to take; the second time tells what a batch takes.

    A model may refuse rows that nobody gave it: 0 then, and its first chunk pays for the warm-up.

    Raises:
        Exception: it fails on rows that it took before.
    """
    if any(size is None for spec in inputs for size in spec.shape[1:]):
        return 0.0  # no blank row of a free shape is sure to be valid
    try:
        return _second_run(call, blank_rows(inputs), batch_rows, served.name)
    except Exception as error:
        if type(error).__name__ not in _OF_ROWS:
            raise
        logger.info("model %s does not take blank rows: %s", served.name, telling_line(error))
    known = read_reference(Path(served.folder)).rows if served.snapshot and served.snapshot.kind == "mapped" else []
    rows = {spec.name: array[:batch_rows] for spec, array in zip(inputs, known, strict=False)}
    return _second_run(call, rows, batch_rows, served.name) if rows else 0.0


def _second_run(call: Call, rows: Arrays, batch_rows: int, name: str) -> float:
    run_batches(call, rows, batch_rows, name)
    started = time.monotonic()
    run_batches(call, rows, batch_rows, name)
    return time.monotonic() - started
