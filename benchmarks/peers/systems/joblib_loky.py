"""joblib on loky: `Parallel` over batches, whose processes stay between calls and keep the model.

Its documentation: `inner_max_num_threads`, so that processes do not take each other's cores; loky uses the same
processes again; arrays from files as `numpy.memmap`.
"""

from __future__ import annotations

from typing import Any

import work
from joblib import Parallel, delayed, parallel_config

SETTINGS = {
    "backend": "loky, inner_max_num_threads=1; its processes stay, and each keeps the model",
    "tasks": "a batch each, batch_size and pre_dispatch as they come; one that raises is lost, the others go on",
    "data": "input and output are mapped files; only offsets pass through pipes",
    "fit": "Parallel(return_as='generator'), a task for each batch, through tf.data's from_generator and prefetch",
}


# user code: begin
def run(order: work.Order, first: int, stop: int) -> int:
    """One batch; how many of its rows are lost."""
    call = work.ready(order, lambda: work.load_model(order))
    try:
        work.open_output(order)[first:stop] = call(work.read_rows(order)[first:stop])
    except ValueError:
        return stop - first
    return 0


def predict(order: work.Order) -> dict[str, Any]:
    """All batches."""
    rows = len(work.read_rows(order))
    work.create_output(order, rows)
    batches = work.spans(rows, order["batch_rows"])
    with parallel_config("loky", n_jobs=work.processes(), inner_max_num_threads=1):
        return {"lost": sum(Parallel()(delayed(run)(order, *batch) for batch in batches))}


# user code: end


def feed(order: work.Order) -> None:
    """Batches through `prepare` into `fit`."""
    rows = work.read_rows(order)
    parallel = Parallel(work.processes(), return_as="generator")
    spans = work.spans(len(rows), order["batch_rows"])
    work.feed(order, lambda: parallel(delayed(work.prepare)(rows[first:stop]) for first, stop in spans))


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] == "parquet":
        files = work.files_of(order)
        return Parallel(work.processes())(delayed(work.convert_file)(*file) for file in files) and None
    if order["work"] == "requests":
        raise work.CannotError("`Parallel` is called by one thread, for many tasks")
    return (feed if order["work"] == "fit" else predict)(order)


if __name__ == "__main__":
    work.serve(carry_out)
