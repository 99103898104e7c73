"""This module loads a model of the manifest and makes one concrete function of it; TensorFlow runs here alone.

    .keras, .h5         keras.models.load_model, safe mode, not compiled
    SavedModel folder   tf.saved_model.load, one signature

`model.predict` is not used: it costs 50 to 95 ms a call; a concrete function costs 0.5 to 2 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tasks.batches import run_batches
from tasks.causes import telling_line
from tasks.messages import ModelInfo, TensorSpec
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
        call, inputs, outputs = _load(Path(entry.path), entry.signature)
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


def _load(path: Path, signature: str) -> tuple[Call, list[TensorSpec], list[TensorSpec]]:
    if not path.exists():
        raise FileNotFoundError("no such file or folder")
    if path.is_dir():
        return _load_saved_model(path, signature)
    if path.suffix in (".keras", ".h5"):
        return _load_keras(path)
    raise ValueError("not a .keras or .h5 file, nor a SavedModel folder")


def _load_saved_model(path: Path, signature: str) -> tuple[Call, list[TensorSpec], list[TensorSpec]]:
    import tensorflow as tf

    if not (path / "saved_model.pb").is_file():
        raise ValueError("the folder holds no saved_model.pb")
    saved = tf.saved_model.load(str(path))
    if signature not in saved.signatures:
        known = ", ".join(sorted(saved.signatures)) or "none"
        raise ValueError(f"no signature {signature!r}; it has: {known}")
    function = saved.signatures[signature]
    inputs = [_spec(name, spec) for name, spec in sorted(function.structured_input_signature[1].items())]
    outputs = [_spec(name, spec) for name, spec in sorted(function.structured_outputs.items())]

    def call(arrays: Arrays, _keep: Any = saved) -> Arrays:
        tensors = function(**{name: tf.convert_to_tensor(array) for name, array in arrays.items()})
        return {spec.name: tensors[spec.name].numpy() for spec in outputs}

    return call, inputs, outputs


def _load_keras(path: Path) -> tuple[Call, list[TensorSpec], list[TensorSpec]]:
    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if not getattr(model, "inputs", None):
        raise ValueError("the model does not tell its inputs; build it before saving, or export a SavedModel")
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    names = sorted(structure) if isinstance(structure, dict) else [tensor.name for tensor in model.inputs]
    inputs = [_spec(name, tensor) for name, tensor in zip(names, model.inputs, strict=True)]
    output_names: list[str] = []

    @tf.function(input_signature=[[_tensor_spec(tf, spec) for spec in inputs]], autograph=False)  # type: ignore[untyped-decorator]
    def function(tensors: Any) -> Any:
        result = model(tf.nest.pack_sequence_as(structure, tensors), training=False)
        output_names[:] = _output_names(model, result)
        return tf.nest.flatten(result)

    concrete = function.get_concrete_function()
    outputs = [_spec(name, tensor) for name, tensor in zip(output_names, concrete.outputs, strict=True)]

    def call(arrays: Arrays) -> Arrays:
        tensors = concrete([tf.convert_to_tensor(arrays[spec.name]) for spec in inputs])
        return {spec.name: tensor.numpy() for spec, tensor in zip(outputs, tensors, strict=True)}

    return call, inputs, outputs


def _output_names(model: Any, result: Any) -> list[str]:
    """Names in the order of `tf.nest.flatten`, which sorts the keys of a dict."""
    if isinstance(result, dict):
        return sorted(result)
    # A Sequential model has no names for its outputs, but its last layer has.
    return list(getattr(model, "output_names", None) or [model.layers[-1].name])


def _tensor_spec(tf: Any, spec: TensorSpec) -> Any:
    return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = getattr(tensor.dtype, "name", tensor.dtype)
    if tensor.shape is None or getattr(tensor.shape, "rank", 1) is None:
        raise ValueError(f"{name!r} has no known shape")
    return TensorSpec(name, str(dtype), tuple(tensor.shape))


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
