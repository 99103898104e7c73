"""`concurrent.futures.ProcessPoolExecutor`: as `pool.py`, but that a process that dies is noticed."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import work

SETTINGS = {
    "start method": "mp_context=spawn; the model is loaded by `initializer`, with one thread in each process",
    "tasks": "a batch each, by submit; a batch whose task raises is lost, the others go on",
    "data": "input and output are mapped files; only offsets and errors pass through pipes",
    "fit": "submit, a task for each batch, eight ahead, through tf.data's from_generator and prefetch",
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
    executor = executor_for(order)
    rows, lost = len(work.read_rows(order)), 0
    work.create_output(order, rows)
    batches = work.spans(rows, order["batch_rows"])
    futures = [executor.submit(run, order, *batch) for batch in batches]
    for (first, stop), future in zip(batches, futures, strict=True):
        try:
            future.result()
        except ValueError:
            lost += stop - first
    return {"lost": lost}


def executor_for(order: work.Order) -> ProcessPoolExecutor:
    """The processes, with the model."""
    spawn = multiprocessing.get_context("spawn")
    return work.ready(order, lambda: ProcessPoolExecutor(work.processes(), spawn, start, (order,)))


# user code: end


def answer(row: work.Rows) -> work.Rows:
    """One request."""
    return _call(row)


def plain_executor(order: work.Order) -> ProcessPoolExecutor:
    """Processes without a model."""
    return work.ready(order, lambda: ProcessPoolExecutor(work.processes(), multiprocessing.get_context("spawn")))


def feed(order: work.Order) -> None:
    """Batches through `prepare` into `fit`."""
    rows, executor = work.read_rows(order), plain_executor(order)
    begin = lambda first, stop: executor.submit(work.prepare, rows[first:stop])  # noqa: E731
    work.feed(order, lambda: (one.result() for one in work.ahead(order, begin)))


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] == "parquet":
        return list(plain_executor(order).map(work.convert_file, *zip(*work.files_of(order), strict=True))) and None
    if order["work"] == "requests":
        executor = executor_for(order)
        return work.ask_by_threads(order, lambda row: executor.submit(answer, row).result())
    return (feed if order["work"] == "fit" else predict)(order)


if __name__ == "__main__":
    work.serve(carry_out)
