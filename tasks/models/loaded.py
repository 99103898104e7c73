"""This module is a model that is ready to run in a child: functions around it, batches, warm-up.

`model.predict` is not used: it costs 50 to 95 ms a call; a concrete function costs 0.5 to 2 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from tasks.batches import run_batches
from tasks.causes import telling_line
from tasks.messages import ModelInfo, TensorSpec
from tasks.models.formats import open_model
from tasks.models.program import FlatCall, Program, concrete, flat_call
from tasks.ragged import is_ragged, run_ragged
from tasks.signature import Arrays, Rows, blank_rows, fit
from tasks.steps import Step, finished, import_step, prepared
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry

Call = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, and what it says of itself."""

    info: ModelInfo
    call: Call
    preprocess: Step | None = None
    postprocess: Step | None = None

    def prepare(self, rows: Any, count: int) -> Any:
        """The rows as the model takes them; `count` of them, none of which are left to no function.

        Raises:
            ModelError: the preprocess function failed.
        """
        if self.preprocess is None:
            return rows
        if not count:
            return blank_rows(self.info.inputs)
        return prepared(self.preprocess, rows, count, f"model {self.info.name}: preprocess {self.info.preprocess}")

    def finish(self, outputs: Any, count: int) -> Any:
        """The outputs as the job wants them.

        Raises:
            ModelError: the postprocess function failed.
        """
        if self.postprocess is None:
            return outputs
        what = f"model {self.info.name}: postprocess {self.info.postprocess}"
        return finished(self.postprocess, outputs, count, what)

    def predict(self, rows: Any) -> np.ndarray[Any, Any] | Arrays:
        """The outputs for all rows: one array for a model with one output, else a dict by output name.

        Raises:
            InputError: the rows do not fit the model's inputs.
            ModelError: rows out differ from rows in.
        """
        name = self.info.name
        outputs = run_ragged(self._run, rows, name) if is_ragged(rows) else self._run(rows)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _run(self, rows: Rows) -> Arrays:
        arrays = fit(rows, self.info.inputs, self.info.name)
        return run_batches(self.call, arrays, self.info.batch_rows, self.info.name)


def load_model(name: str, entry: ModelEntry, digest: str) -> LoadedModel:
    """Load one model and run it once on blank rows, so that the first chunk does not pay for it.

    Raises:
        ModelLoadError: it cannot be loaded; the text names model, path and cause.
    """
    import tensorflow  # noqa: F401 - so that its own time and memory are not taken for the model's

    started, memory_before = time.monotonic(), psutil.Process().memory_info().rss
    try:
        program = open_model(entry)
        inputs, outputs = program.inputs, program.outputs
        call = by_name(plain_call(program), inputs, outputs)
        fixed = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None}
        batch_rows = fixed.pop() if fixed else entry.batch_rows
        batch_seconds = _warm_up(call, inputs, batch_rows or 1, name)
        preprocess = import_step(entry.preprocess) if entry.preprocess else None
        postprocess = import_step(entry.postprocess) if entry.postprocess else None
    except Exception as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {_cause(error)}") from error
    info = ModelInfo(
        name=name,
        digest=digest,
        batch_rows=batch_rows or 1,
        inputs=inputs,
        outputs=outputs,
        load_seconds=time.monotonic() - started,
        memory_bytes=max(0, psutil.Process().memory_info().rss - memory_before),
        # The functions around the model may take any time.
        batch_seconds=0.0 if preprocess or postprocess else batch_seconds,
        preprocess=entry.preprocess,
        postprocess=entry.postprocess,
    )
    return LoadedModel(info, call, preprocess, postprocess)


def _cause(error: Exception) -> str:
    """Keras and TensorFlow explain over many lines; the first that says something will do."""
    telling = telling_line(error)
    return f"{type(error).__name__}: {telling}" if telling else type(error).__name__


def plain_call(program: Program) -> FlatCall:
    """Run a program as it is, with nothing shared."""
    if program.call is not None:
        return program.call
    call = flat_call(concrete(program), len(program.outputs))
    call.keep = program  # type: ignore[attr-defined] # its variables live as long as it does
    return call


def by_name(call: FlatCall, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Call:
    """The same call, with arrays by the names that people know."""

    def named(arrays: Arrays) -> Arrays:
        results = call([arrays[spec.name] for spec in inputs])
        return {spec.name: result for spec, result in zip(outputs, results, strict=True)}

    return named


def _warm_up(call: Call, inputs: list[TensorSpec], batch_rows: int, name: str) -> float:
    """Run the model on blank rows; the second time tells what a batch takes."""
    if any(size is None for spec in inputs for size in spec.shape[1:]):
        return 0.0  # no blank row of a free shape is sure to be valid
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        run_batches(call, blank_rows(inputs), batch_rows, name)
        seconds = time.monotonic() - started
    return seconds
