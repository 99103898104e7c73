"""Celeriac's side: `local(...)`, the embedded system, with the executors that a variant has.

    python -m benchmarks.peers.ours PROCESSES chosen|graph|bfloat16

chosen: as it comes, float32   graph: the model's own graph, as all others have it   bfloat16: where the manifest allows
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing of the benchmark but what the others' programs have: it would count as our start.
from benchmarks.peers.systems import work
from producer import local

if TYPE_CHECKING:
    from producer import Client

SETTINGS = {
    "system": "local(...): a private Redis and a worker with a child for each processor, one thread each",
    "manifest": "path and batch_rows; for 655 MB of weights prefer = memory; for bfloat16 precision, and tolerance"
    " or, of classes, agreement",
    "executors": "chosen by the worker at its first start, which the first column of starts has in it; else kept",
    "failures": "on_error = fill",
}


# user code: begin
def predict(client: Client, order: work.Order) -> dict[str, Any]:
    """All rows."""
    output = order["output"] + ".npy"
    summary = client.predict_to(output, "model", order["data"], on_error="fill" if order["work"] == "faulty" else None)
    return {"lost": summary.ledger["failed"], "named": named(summary.failures_path)}


# user code: end


def named(failures: str | None) -> list[int]:
    """The numbers of the rows that have failed, of the file beside the output."""
    records = [json.loads(line) for line in Path(failures).read_text().splitlines()] if failures else []
    return [row for record in records for row in range(record["start"], record["stop"])]


def faulty(rows: work.Rows) -> work.Rows:
    """The model of "faulty"."""
    return work.faulty(json.loads(os.environ["PEERS_ORDER"]), rows)


def carry_out(client: Client, order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] == "requests":
        return work.ask_by_threads(order, lambda row: client.predict("model", row))
    if order["work"] == "parquet":
        client.predict_to(order["output"] + ".parquet/", "model", order["data"])
    elif order["work"] == "fit":
        from producer.training import tf_dataset

        work.tensorflow()
        work.fit(order, tf_dataset(client, "model", work.read_rows(order), batch_rows=order["batch_rows"]))
    else:
        return predict(client, order)
    return None


def manifest(order: work.Order, variant: str) -> str:
    """The table of the order's model."""
    table = {"path": order["model"], "batch_rows": order["batch_rows"]}
    if order["work"] == "parquet":
        table["path"] = "benchmarks.split_reads_model:total"
    elif order["work"] == "faulty":
        table["path"] = "benchmarks.peers.ours:faulty"
    elif order["work"] == "fit":
        return '[models.model]\npreprocess = "benchmarks.peers.systems.work:prepare"\n'
    else:
        table["calibration"] = str(Path(order["data"]).with_name("calibration.npy"))
    if order["work"] == "weights":
        table["prefer"] = "memory"
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    if variant == "bfloat16":
        lines += ['precision = ["bfloat16"]', *(f"{key} = {value}" for key, value in order["bfloat16"].items())]
    return "\n".join(["[models.model]", *lines, ""])


def main() -> None:
    """Start the embedded system with the first order, and carry out one after the other."""
    variant = sys.argv[2]
    with ExitStack() as stack:

        def start(order: work.Order) -> Client:
            os.environ["PEERS_ORDER"] = json.dumps(order)
            os.environ["CELERIAC_CACHE"] += f"-{variant}"
            models = Path(order["data"]).with_name(f"models-{variant}.toml")
            models.write_text(manifest(order, variant))
            if variant == "graph":
                from benchmarks.stage import rival_system

                return stack.enter_context(rival_system(models, "benchmarks.peers.own_graph"))
            return stack.enter_context(local(models=models, workers=work.processes(), quiet=True))

        work.serve(lambda order: carry_out(work.ready(order, lambda: start(order)), order))


if __name__ == "__main__":
    main()
