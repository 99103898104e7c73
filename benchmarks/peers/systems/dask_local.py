"""Dask: a cluster of this machine's processes, which keep the model; `Client.map` over batches.

Its documentation: processes of one thread each where the code holds the interpreter or has threads of its own; models
are not sent with tasks but made where these run, once for each process; large data is read by the tasks.
"""

from __future__ import annotations

from typing import Any

import dask
import dask.dataframe as dd
import pyarrow as pa
import work
from distributed import Client, as_completed

SETTINGS = {
    "cluster": "LocalCluster(processes=True, threads_per_worker=1), without a dashboard; its processes keep the model",
    "tasks": "a batch each, Client.map, pure=False; one that raises is lost, the others go on",
    "data": "input and output are mapped files; only offsets and errors pass through the cluster",
    "parquet": "dask.dataframe: read_parquet, map_partitions, to_parquet without compression and dictionaries",
    "fit": "Client.submit, a task for each batch, eight ahead, through tf.data's from_generator and prefetch",
}


# user code: begin
def run(batch: tuple[int, int], order: work.Order) -> None:
    """One batch."""
    call = work.ready(order, lambda: work.load_model(order))
    first, stop = batch
    work.open_output(order)[first:stop] = call(work.read_rows(order)[first:stop])


def predict(client: Client, order: work.Order) -> dict[str, Any]:
    """All batches."""
    rows, lost = len(work.read_rows(order)), 0
    work.create_output(order, rows)
    batches = work.spans(rows, order["batch_rows"])
    futures = dict(zip(client.map(run, batches, order=order, pure=False), batches, strict=True))
    for future in as_completed(futures):
        if future.status != "finished":
            lost += futures[future][1] - futures[future][0]
    return {"lost": lost}


# user code: end


def answer(row: work.Rows, order: work.Order) -> work.Rows:
    """One request."""
    return work.ready(order, lambda: work.load_model(order))(row)


def total(frame: Any) -> Any:
    """The model of "parquet", of a partition."""
    return work.total({name: frame[name].to_numpy() for name in frame.columns})


def convert(order: work.Order) -> None:
    """Parquet to Parquet."""
    frame = dd.read_parquet(order["data"])
    sums = frame.map_partitions(lambda part: part[[]].assign(output=total(part)), meta={"output": "float32"})
    schema = pa.schema([("output", pa.float32())])
    sums.to_parquet(
        order["output"] + ".parquet", write_index=False, schema=schema, compression=None, use_dictionary=False
    )


def prepare(first: int, stop: int, order: work.Order) -> tuple[work.Rows, work.Rows]:
    """One batch of "fit"."""
    return work.prepare(work.read_rows(order)[first:stop])


def feed(client: Client, order: work.Order) -> None:
    """Batches through `prepare` into `fit`."""
    begin = lambda first, stop: client.submit(prepare, first, stop, order, pure=False)  # noqa: E731
    work.feed(order, lambda: (one.result() for one in work.ahead(order, begin)))


def main() -> None:
    """Carry out one order after the other."""
    work.answers()
    dask.config.set({"distributed.logging.distributed": "error"})
    with Client(n_workers=work.processes(), threads_per_worker=1, dashboard_address=None) as client:

        def carry_out(order: work.Order) -> Any:
            if order["work"] == "fit":
                return feed(client, order)
            if order["work"] == "parquet":
                return convert(order)
            if order["work"] == "requests":
                ask = lambda row: client.submit(answer, row, order, pure=False).result()  # noqa: E731
                return work.ask_by_threads(order, ask)
            return predict(client, order)

        work.serve(carry_out)


if __name__ == "__main__":
    main()
