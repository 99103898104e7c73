"""`multiprocessing.Pool`: processes that have loaded the model, and batches for tasks.

Its documentation: "spawn" where threads are about, as TensorFlow has some; what each process needs, in `initializer`;
`imap` for much to do. Rows and outputs do not pass through pipes: each task maps the files.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.pool import Pool
from typing import Any

import work

SETTINGS = {
    "start method": "spawn; the model is loaded by `initializer`, with one thread in each process",
    "tasks": "a batch each, by apply_async; a batch whose task raises is lost, the others go on",
    "data": "input and output are mapped files; only offsets and errors pass through pipes",
    "fit": "imap, a task for each batch, through tf.data's from_generator and prefetch",
}

_call: Any = None


# user code: begin
def start(order: work.Order) -> None:
    """Load the model into a process."""
    global _call
    _call = work.load_model(order)


def run(order: work.Order, first: int, stop: int) -> None:
    """One batch."""
    work.open_output(order)[first:stop] = _call(work.read_rows(order)[first:stop])


def predict(order: work.Order) -> dict[str, Any]:
    """All batches."""
    pool = pool_for(order)
    rows, lost = len(work.read_rows(order)), 0
    work.create_output(order, rows)
    batches = work.spans(rows, order["batch_rows"])
    results = [pool.apply_async(run, (order, *batch)) for batch in batches]
    for (first, stop), result in zip(batches, results, strict=True):
        try:
            result.get()
        except ValueError:
            lost += stop - first
    return {"lost": lost}


def pool_for(order: work.Order) -> Pool:
    """The processes, with the model."""
    return work.ready(order, lambda: multiprocessing.get_context("spawn").Pool(work.processes(), start, (order,)))


# user code: end


def answer(row: work.Rows) -> work.Rows:
    """One request."""
    return _call(row)


def feed(order: work.Order) -> None:
    """Batches through `prepare` into `fit`."""
    rows = work.read_rows(order)
    pool = work.ready(order, lambda: multiprocessing.get_context("spawn").Pool(work.processes()))
    spans = work.spans(len(rows), order["batch_rows"])
    work.feed(order, lambda: pool.imap(work.prepare, (rows[first:stop] for first, stop in spans)))


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] == "parquet":
        pool = work.ready(order, lambda: multiprocessing.get_context("spawn").Pool(work.processes()))
        return pool.starmap(work.convert_file, work.files_of(order), chunksize=1) and None
    if order["work"] == "requests":
        pool = pool_for(order)
        return work.ask_by_threads(order, lambda row: pool.apply(answer, (row,)))
    return (feed if order["work"] == "fit" else predict)(order)


if __name__ == "__main__":
    work.serve(carry_out)
