"""Beam: Parquet files --`RunInference`--> Parquet files, on the local runner with as many processes as processors.

Its documentation: `multi_processing` with `direct_num_workers` for Python code that holds the interpreter; a model
handler loads the model once in each process, with `large_model` once for all of them; `with_no_batching` where input
comes in batches already; `with_exception_handling` sets apart what fails, `use_subprocess` also what kills a process.

The runner is FnApiRunner: Prism, which newer versions try first, is a program that is downloaded at run time, and by
default runs Python in threads of the caller's process. Processes live as long as a pipeline, and load the model for
each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tables
import work
from apache_beam.io.parquetio import ReadFromParquetBatched, WriteToParquetBatched
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

SETTINGS = {
    "runner": "FnApiRunner, `direct_running_mode=multi_processing`, `direct_num_workers` as there are processors",
    "model": "a `ModelHandler`, loaded once in each process; the 655 MB with `large_model`, one copy that serves "
    "all, with a thread for each processor",
    "batches": "row groups of files (`ReadFromParquetBatched`), cut for the model, `with_no_batching()`",
    "parquet": "`WriteToParquetBatched`, without compression",
    "faults": "`with_exception_handling(use_subprocess=True)`: batches that fail come out apart, and are counted",
}
_LOST = "lost_rows"


# user code: begin
class Handler(ModelHandler[pa.Table, pa.Table, Any]):
    """Loads the model once in each process, or once for all of them; runs it on a batch."""

    def __init__(self, order: work.Order) -> None:
        super().__init__(large_model=order["work"] == "weights")
        self._order = order
        # One process has the large one.
        self._threads = work.processes() if order["work"] == "weights" else 1

    def load_model(self) -> Any:
        """What `run_inference` is given."""
        return work.load_model(self._order, self._threads)

    def run_inference(self, batch: pa.Table, model: Any, inference_args: Any = None) -> Iterable[pa.Table]:
        """The outputs of a batch, as one element."""
        return [tables.outputs_of(batch, model(tables.rows_of(batch, self._order)))]

    def get_num_bytes(self, batch: pa.Table) -> int:
        """For Beam's metrics."""
        return int(batch.nbytes)


def batches(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """A row group in batches."""
    return (table.slice(start, rows) for start in range(0, len(table), rows))


def count_lost(failed: tuple[pa.Table, Any]) -> None:
    """Count the rows of a batch that failed."""
    Metrics.counter("peers", _LOST).inc(len(failed[0]))


def predict(order: work.Order) -> dict[str, int]:
    """All rows; and how many are in batches that failed, where the work says that some may."""
    steps = pipeline()
    read = steps | ReadFromParquetBatched(f"{order['parquet']}/*.parquet") | beam.FlatMap(batches, order["batch_rows"])
    infer = RunInference(Handler(order).with_no_batching())
    if order["work"] == "faulty":
        outputs, failed = read | infer.with_exception_handling(use_subprocess=True)
        failed.failed_inferences | beam.Map(count_lost)
    else:
        outputs = read | infer
    schema = pa.schema([("id", pa.int64()), ("output", pa.binary(4 * prod(order["output_shape"])))])
    outputs | WriteToParquetBatched(f"{order['output']}.parquet/part", schema, file_name_suffix=".parquet")
    result = steps.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_name(_LOST))["counters"]
    return {"lost": sum(counter.result for counter in counters)}


# user code: end


def total(table: pa.Table) -> pa.Table:
    """The model of "parquet"."""
    return pa.table({"output": work.total({name: table[name].to_numpy() for name in table.column_names})})


def convert(order: work.Order) -> None:
    """Parquet to Parquet."""
    schema = pa.schema([("output", pa.float32())])
    with pipeline() as steps:
        sums = steps | ReadFromParquetBatched(f"{order['data']}/*.parquet") | beam.Map(total)
        sums | WriteToParquetBatched(f"{order['output']}.parquet/part", schema, file_name_suffix=".parquet")


def pipeline() -> beam.Pipeline:
    """One whose steps run in as many processes as there are processors."""
    options = PipelineOptions(direct_num_workers=work.processes(), direct_running_mode="multi_processing")
    return beam.Pipeline(FnApiRunner(), options)


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] in ("requests", "fit"):
        raise work.CannotError("a pipeline runs from its sources to its sinks")
    return (convert if order["work"] == "parquet" else predict)(order)


if __name__ == "__main__":
    work.serve(carry_out)
