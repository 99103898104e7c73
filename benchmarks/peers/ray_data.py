"""Ray Data's side: Parquet files --map_batches--> Parquet files, on as many processors as are asked for.

Set as its documentation advises: blocks of files' own size, batches of NumPy arrays without copies, a function instead
of an actor, as the model needs nothing loaded; its bars are off.
"""

from __future__ import annotations

import json
import sys

import ray


def total(rows):  # type: ignore[no-untyped-def]
    """The model of `split_reads`."""
    columns = list(rows.values())
    whole = columns[0].copy()
    for column in columns[1:]:
        whole += column
    return {"output": whole.astype("float32")}


def main() -> None:
    """Carry out one order after the other."""
    ray.init(num_cpus=int(sys.argv[1]), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for line in sys.stdin:
        order = json.loads(line)
        if order:
            rows = ray.data.read_parquet(order["data"])
            rows.map_batches(total, batch_format="numpy", zero_copy_batch=True).write_parquet(order["output"])
        print(json.dumps({"done": True}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
