"""Ray Data: Parquet files --`map_batches`--> Parquet files, on as many processors as are asked for.

Its documentation: a class for a model that takes long to load, of which a pool of actors is made, or a function, whose
tasks run in processes that stay; tasks that follow each other are fused into one; batches without copies; blocks of
files' own size; order only where it is wanted; `to_tf` for Keras.

Its newer reader of Parquet (`use_datasource_v2`, the default) makes one block of files that are small, whatever
`override_num_blocks` says, so one process did all the work; and a read is not fused with `map_batches` that has a
`batch_size`. With the older reader, a block for each file, and whole blocks as batches, rows of 4 KiB took a quarter of
the time, and two thirds of the processor seconds.

Tried: an actor pool (`ActorPoolStrategy(size=processors)`). It is made anew, and loads the model, for each data set,
and its rows go through the object store twice, as read, actors and write are three kinds of tasks; where actors
reserve all processors, nothing reads for them and it did not begin. For 1,000 rows it took 17 processor seconds,
functions 12 for the first data set and 3.5 for the next, on a busy machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import ray
import tables
import work
from ray.data import DataContext

SETTINGS = {
    "cluster": "`ray.init(num_cpus=processors)`, without dashboard and progress bars; `RAY_worker_niceness=0`, not 15",
    "tasks": "`map_batches` of a function: read, model and write are one task, in a process that keeps the model",
    "batches": "`batch_format='pyarrow'`, `batch_size=None`: a view of what was read, which the function cuts for the "
    "model; with a size, reading is a task of its own",
    "parquet": "`use_datasource_v2=False`, `override_num_blocks`: a block for each file, not one for all; written "
    "without compression and dictionaries",
    "order": "`preserve_order` for `fit()` alone, which is fed by `to_tf`; elsewhere rows have their numbers",
    "faults": "`max_errored_blocks=-1`, `max_retries=2`: blocks that fail, or whose process dies three times, are "
    "dropped; the user counts what is missing",
}


# user code: begin
def infer(table: pa.Table, order: work.Order) -> pa.Table:
    """One block, in a process of Ray's, which keeps the model."""
    call, rows = work.ready(order, lambda: work.load_model(order)), tables.rows_of(table, order)
    outputs = [call(rows[start:stop]) for start, stop in work.spans(len(rows), order["batch_rows"])]
    return tables.outputs_of(table, np.concatenate(outputs))


def read(folder: str) -> ray.data.Dataset:
    """All files of a folder, each a block."""
    return ray.data.read_parquet(folder, override_num_blocks=len(list(Path(folder).iterdir())))


def predict(order: work.Order) -> dict[str, int]:
    """All rows; and how many of them are missing in what was written, which Ray itself does not count."""
    # Without it, a task whose process dies runs again for ever; with it, read and write are tasks of their own.
    retries = {"max_retries": 2} if order["work"] == "faulty" else {}
    outputs = read(order["parquet"]).map_batches(
        infer, fn_args=(order,), batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **retries
    )
    written = order["output"] + ".parquet"
    # It writes none where all blocks have failed.
    Path(written).mkdir()
    outputs.write_parquet(written, compression="none", use_dictionary=False)
    return {"lost": ds.dataset(order["parquet"]).count_rows() - ds.dataset(written).count_rows()}


# user code: end


def total(columns: dict[str, work.Rows]) -> dict[str, work.Rows]:
    """The model of "parquet"."""
    return {"output": work.total(columns)}


def convert(order: work.Order) -> None:
    """Parquet to Parquet."""
    sums = read(order["data"]).map_batches(total, batch_size=None, batch_format="numpy", zero_copy_batch=True)
    sums.write_parquet(order["output"] + ".parquet", compression="none", use_dictionary=False)


def prepare(batch: dict[str, work.Rows]) -> dict[str, work.Rows]:
    """The preprocessing of "fit"."""
    examples, labels = work.prepare(batch["data"])
    return {"examples": examples, "labels": labels}


def fit(order: work.Order) -> None:
    """Rows, in order, through `prepare` into a training loop."""
    work.tensorflow()
    rows, size = work.read_rows(order), order["batch_rows"]
    blocks = ray.data.from_numpy([rows[start:stop] for start, stop in work.spans(len(rows), size)])
    batches = blocks.map_batches(prepare, batch_size=None).to_tf("examples", "labels", batch_size=size)
    work.fit(order, batches)


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    context = DataContext.get_current()
    context.use_datasource_v2 = False
    context.execution_options.preserve_order = order["work"] == "fit"
    context.max_errored_blocks = -1 if order["work"] == "faulty" else 0
    if order["work"] == "requests":
        raise work.CannotError(
            "a data set is read from its start to its end; Ray Serve, for one row at a time, is not written here"
        )
    return {"parquet": convert, "fit": fit}.get(order["work"], predict)(order)


def main() -> None:
    """Carry out one order after the other."""
    # Its processes would give way to all others on the machine: niceness 15.
    work.answers()
    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(num_cpus=work.processes(), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    work.serve(carry_out)
    ray.shutdown()


if __name__ == "__main__":
    main()
