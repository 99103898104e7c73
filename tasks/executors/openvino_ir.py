"""The model in OpenVINO, for processors alone; in float32, bfloat16, or weights and activations of 8 bits.

    frozen graph --OpenVINO's frontend for TensorFlow--> NAME.xml, NAME.bin --reshape to a fixed batch, compile--> call
                                     typical rows --NNCF, 8 bits--^

TensorFlow freezes, in the process that builds; children read the files by OpenVINO alone. The precision is always set:
left alone, OpenVINO computes in bfloat16 wherever the processor has it. A model of free batch was measured to be slower
by 3 to 78 %, and to keep memory for each new number of rows; so there is one of fixed batch for `batch_rows`, and one
for each smaller batch that somebody calls for. Other numbers of rows fill the next larger one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tasks.executors.frozen import Ends, ends_of, freeze
from tasks.models.batches import halves, in_batches
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.tensorflow_import import without
from tasks.snapshots.record import BUILT, Snapshot
from worker_config.decodable import decodable
from worker_config.files import sync_file, write_whole

# Of which NNCF takes the ranges of activations: as many as its makers advise, and more for small batches.
CALIBRATION_ROWS = 512
# Of batches that there may be; `small_batches` of tasks/preparation/benchmark.py tries these.
SIZES = (1, 8, 64, 512)


@dataclass(frozen=True)
class Compiled:
    """A way to run models, as the functions of an `Executor`.

    Attributes:
        name: of the executor, and of its files.
        precision: "f32" or "bf16", as OpenVINO names types; of what has not 8 bits.
        is_quantised: whether weights and activations have 8 bits, these by the ranges that typical rows come to.
    """

    name: str
    precision: str = "f32"
    is_quantised: bool = False

    def build(self, folder: Path, snapshot: Snapshot, batch_rows: int, rows: FlatArrays) -> None:
        """Convert; raises Exception where an operation of the graph is none of OpenVINO's."""
        ends_file, model_file = (folder / self._file(end) for end in ("json", "xml"))
        if ends_file.exists():
            return
        openvino = _imported()
        function = freeze(folder, snapshot, None)
        model_file.parent.mkdir(exist_ok=True)
        graph_file = folder / self._file("pb")
        try:
            graph_file.write_bytes(function.graph.as_graph_def().SerializeToString())
            model = _core().read_model(graph_file)
            ends = ends_of(function)
            if self.is_quantised:
                model = _quantised(model, ends, rows, batch_rows)
            openvino.save_model(model, model_file, compress_to_fp16=False)
        finally:
            graph_file.unlink(missing_ok=True)
        # It is mapped, and pages that are not on the disk yet count as each process's own.
        sync_file(model_file.with_suffix(".bin"))
        write_whole(ends_file, msgspec.json.encode(ends))

    def load(self, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
        """A call of models of fixed batch, compiled as they are called for; that of `batch_rows` at once.

        Raises:
            ValueError: the processor does not compute in this precision, or an input or output is lost.
        """
        ends = msgspec.json.decode((folder / self._file("json")).read_bytes(), type=decodable(Ends))
        sizes = sorted({size for size in SIZES if size < batch_rows} | {batch_rows, *halves(batch_rows)})
        shapes = [spec.shape[1:] for spec in snapshot.inputs]

        @cache
        def of_size(rows: int) -> FlatCall:
            return self._compile(folder / self._file("xml"), ends, [(rows, *shape) for shape in shapes], threads)

        def call(arrays: Sequence[np.ndarray[Any, Any]]) -> FlatArrays:
            rows = len(arrays[0])
            size = next((size for size in sizes if size >= rows), batch_rows)
            return of_size(size)(arrays) if rows == size else in_batches(of_size(size), list(arrays), size)

        of_size(batch_rows)
        return call

    def _file(self, end: str) -> str:
        return f"{BUILT}/{self.name}.{end}"

    def _compile(self, path: Path, ends: Ends, shapes: Sequence[Sequence[int | None]], threads: int) -> FlatCall:
        openvino = _imported()
        properties, hint = openvino.properties, openvino.properties.hint
        core = _core()
        model = core.read_model(path)
        numbers = _inputs_of(model, ends)
        model.reshape(
            {port: openvino.PartialShape(list(shapes[n])) for port, n in zip(model.inputs, numbers, strict=True)}
        )
        precision = getattr(openvino.Type, self.precision)
        is_exact = self.precision == "f32"
        config: dict[Any, Any] = {
            hint.inference_precision: precision,
            hint.execution_mode: hint.ExecutionMode.ACCURACY if is_exact else hint.ExecutionMode.PERFORMANCE,
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            hint.dynamic_quantization_group_size: 0,
            hint.enable_cpu_pinning: False,  # all children would sit on the same cores
            properties.num_streams: 1,
            properties.inference_num_threads: threads,
        }
        if self.is_quantised:  # its fused kernel for products of 8 bits gives zeros for up to 8 rows, without a word
            config["SNIPPETS_MODE"] = "DISABLE"
        compiled = core.compile_model(model, "CPU", config)
        if compiled.get_property(hint.inference_precision) != precision:
            raise ValueError(f"this processor does not compute in {self.precision}")
        given = [dict.fromkeys(port.names, number) for number, port in enumerate(compiled.outputs)]
        places = {name: number for one in given for name, number in one.items()}
        results = [_one(places, [name], "an output") for name in ends.outputs]
        return partial(_run, compiled.create_infer_request(), numbers, results)


@cache
def _imported() -> Any:
    """OpenVINO, without what notes in the home folder, and tells its makers, that it is used."""
    with without("openvino_telemetry"):
        import openvino
        import openvino.properties.hint
    return openvino


def _core() -> Any:
    return _core_of(os.getpid())


@cache
def _core_of(pid: int) -> Any:
    """One for all models of a process, and for its life: each that is used gives the thread, where the processor has
    AMX, another stack for signals, and they can end in an order that leaves it one which is freed.
    """
    return _imported().Core()


def _quantised(model: Any, ends: Ends, rows: FlatArrays, batch_rows: int) -> Any:
    """The model with 8 bits; NNCF, too, would note that it is used.

    Raises:
        ValueError: nothing of it is ever computed in 8 bits.
    """
    with without("openvino_telemetry"):
        import nncf
    batches = max(1, min(CALIBRATION_ROWS, len(rows[0])) // batch_rows)
    places = np.linspace(0, len(rows[0]) - 1, batches * batch_rows).astype(np.int64).reshape(batches, batch_rows)
    read = [rows[number] for number in _inputs_of(model, ends)]
    data = nncf.Dataset(places, lambda some: [array[some] for array in read])
    # Else it takes the mean of what batches reach, and cuts off what is larger.
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    parameters = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges)
    quantised = nncf.quantize(model, data, subset_size=batches, advanced_parameters=parameters)
    if all(node.get_type_name() != "FakeQuantize" for node in quantised.get_ops()):
        raise ValueError("nothing in the model is computed in 8 bits")
    return quantised


def _inputs_of(model: Any, ends: Ends) -> list[int]:
    """The numbers of the snapshot's inputs that the converted model takes, in its order."""
    taken = {name: number for number, name in enumerate(ends.inputs)}
    return [_one(taken, port.names, "an input") for port in model.inputs]


def _run(
    request: Any, numbers: Sequence[int], results: Sequence[int], arrays: Sequence[np.ndarray[Any, Any]]
) -> FlatArrays:
    given = [np.ascontiguousarray(arrays[number]) for number in numbers]
    outputs = request.infer(given, share_inputs=True, share_outputs=True)
    return [np.array(outputs[place]) for place in results]  # a copy each, as the next call writes over them


def _one(known: dict[str, int], names: Any, what: str) -> int:
    found = {known[name] for name in names if name in known}
    if len(found) != 1:
        raise ValueError(f"the converted model has {what}, {', '.join(sorted(names))}, that is none of the model's")
    return found.pop()
