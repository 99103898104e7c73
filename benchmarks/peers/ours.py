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
    " or, of classes, agreement; rows for calibration",
    "executors": "chosen by the worker at its first start, which the first column of starts has in it; else kept",
    "failures": "on_error = fill",
}


# user code: begin
MANIFEST = """
[models.model]
path = {path}
batch_rows = {batch_rows}
"""


def predict(client: Client, order: work.Order) -> dict[str, Any]:
    """All rows."""
    output = order["output"] + ".npy"
    summary = client.predict_to(output, "model", order["data"], on_error="fill" if order["work"] == "faulty" else None)
    return {"lost": summary.ledger["failed"], "named": named(summary.failures_path)}


def named(failures: str | None) -> list[int]:
    """The numbers of the rows that have failed, of the file beside the output."""
    records = [json.loads(line) for line in Path(failures).read_text().splitlines()] if failures else []
    return [row for record in records for row in range(record["start"], record["stop"])]


def system(models: Path) -> Client:
    """Redis and a worker."""
    return local(models=models, workers=work.processes(), quiet=True)


# user code: end


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
    if order["work"] == "fit":
        return '[models.model]\npreprocess = "benchmarks.peers.systems.work:prepare"\n'
    functions = {"parquet": "benchmarks.split_reads_model:total", "faulty": "benchmarks.peers.ours:faulty"}
    path = functions.get(order["work"], order["model"])
    text = MANIFEST.format(path=json.dumps(path), batch_rows=order["batch_rows"])
    if order["work"] not in functions:
        text += f"calibration = {json.dumps(str(Path(order['data']).with_name('calibration.npy')))}\n"
    if order["work"] == "weights":
        text += 'prefer = "memory"\n'
    if variant == "bfloat16":
        text += 'precision = ["bfloat16"]\n' + "".join(f"{key} = {value}\n" for key, value in order["bfloat16"].items())
    return text


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
            return stack.enter_context(system(models))

        work.serve(lambda order: carry_out(work.ready(order, lambda: start(order)), order))


if __name__ == "__main__":
    main()
