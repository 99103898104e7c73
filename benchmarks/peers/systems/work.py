"""What all systems share: orders and answers as lines of JSON, the rows, the model as its own graph.

stdin --an order a line--> `serve` --`carry_out` of a system--> output files, and an answer a line --> stdout

An order is `{}` (is the system ready, with nothing loaded?) or has

    work        "mobilenet", "mlp", "transformer", "weights", "identity": `model` over the rows
                "parquet": `total` over the columns of Parquet files; nothing to load
                "faulty": `load_model` gives a function that waits, and may raise or kill its process
                "requests": one row at a time, by 16 threads (`ask_by_threads`)
                "fit": rows through `prepare`, which is slow Python, into `fit`
    model       path of a .keras file, or null
    data        path of an .npy file of rows; of "parquet" a folder of Parquet files with eight columns of float64
    parquet     folder with the same rows as Parquet: `id` (int64, the row's number) and `row` (its bytes), in files of
                one row group each; null with "parquet", "requests" and "fit"
    lists       the same with a list of values, flat, in the place of bytes
    output      path without a suffix, at which nothing exists: `OUTPUT.npy`, or a folder `OUTPUT.parquet` of Parquet
                files with the columns `id` and `output` (bytes, or a list, flat); of "parquet" `output`, a number
    batch_rows  rows of a call of the model
    row_shape, output_shape, dtype      of one row, and of its values: what users know of their model
    fault       of "faulty": null, "raises" (a row of NaN), "kills" (a row that begins with DEADLY), "worker_killed"
    calls       of "faulty": a folder in which each process leaves a byte for each call
    callers, requests           of "requests"

Answers: `{"done": true, "lost": rows that the system says it has lost}`, and `"named": [their numbers]` where it tells
them, `"latencies": [seconds]` of requests; `{"error": "TypeName: text"}`; `{"cannot": "why"}` (raise CannotError).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Order = Mapping[str, Any]
Rows = np.ndarray
# The first value of a row that kills.
DEADLY = -12345.0
FAULTY_ROW_SECONDS = 0.002
LOOPS = "CELERIAC_BENCH_LOOPS"
_MASK = 0x7FFFFFFF


class CannotError(Exception):
    """This system has no way to do the work; the text says why."""


def processes() -> int:
    """As many processors as the system may use; known to the program itself, not to its children."""
    return int(sys.argv[1])


def serve(carry_out: Callable[[Order], Mapping[str, Any] | None]) -> None:
    """Carry out one order after the other; what else is printed goes to stderr."""
    answers()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"done": True, "lost": 0, **((carry_out(order) if order else None) or {})}
        except CannotError as error:
            answer = {"cannot": str(error)}
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            answer = {"error": f"{type(error).__name__}: {first[:300]}"}
        print(json.dumps(answer), file=answers(), flush=True)


@cache
def answers() -> TextIO:
    """Where answers go, while all else that is printed goes to stderr; to be called before processes are started."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def load_model(order: Order, threads: int = 1, calls: int = 1) -> Callable[[Rows], Rows]:
    """The model of an order: rows in, outputs out, both arrays; any number of rows. Call it where it will run.

    TensorFlow has so many threads for one of its operations, and for operations, which may be those of several calls.
    """
    if order["work"] == "parquet":
        return total
    if order["work"] == "faulty":
        return lambda rows: faulty(order, rows)
    keras, tf = tensorflow(threads, calls)
    model = keras.models.load_model(order["model"], compile=False)
    signature = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
    call = tf.function(lambda rows: model(rows, training=False), input_signature=[signature]).get_concrete_function()
    call(tf.zeros((1, *signature.shape[1:]), signature.dtype))
    return lambda rows: call(tf.constant(rows)).numpy()


def tensorflow(threads: int = 1, calls: int = 1) -> tuple[Any, Any]:
    """Keras and TensorFlow, with as many threads as of `load_model`; it can be told only once in a process."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(calls)
    return keras, tf


def ready(order: Order, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in this process for later orders with the same model."""
    key = order["work"], order["model"], order.get("fault")
    if key not in _ready:
        _ready[key] = make()
    return _ready[key]


_ready: dict[Any, Any] = {}


def read_rows(order: Order) -> Rows:
    """All rows, mapped: a slice of them reads what it has."""
    return np.load(order["data"], mmap_mode="r")


def write_rows(order: Order, outputs: Rows) -> None:
    """Write outputs in the rows' order."""
    np.save(order["output"] + ".npy", outputs)


def create_output(order: Order, rows: int) -> Rows:
    """A mapped file for the outputs (float32) of all rows; other processes write into it, too, by `open_output`."""
    shape = (rows, *order["output_shape"])
    return np.lib.format.open_memmap(order["output"] + ".npy", "w+", np.float32, shape)


def open_output(order: Order) -> Rows:
    """That file, to write into."""
    return np.load(order["output"] + ".npy", mmap_mode="r+")


def spans(rows: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of every `size` rows."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def total(columns: Mapping[str, Rows]) -> Rows:
    """The model of "parquet": the sum of a row's columns."""
    arrays = list(columns.values())
    whole = arrays[0].copy()
    for array in arrays[1:]:
        whole += array
    return whole.astype(np.float32)


def convert_file(path: str, output: str) -> None:
    """One file of "parquet" through `total`, by pyarrow; without dictionaries, which take long for numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("output", pa.float32())])
    with pq.ParquetFile(path) as opened, pq.ParquetWriter(output, schema, use_dictionary=False) as writer:
        for group in range(opened.metadata.num_row_groups):
            table = opened.read_row_group(group, use_threads=False)
            sums = total({name: table[name].to_numpy() for name in table.column_names})
            writer.write_table(pa.table([sums], schema=schema))


def files_of(order: Order) -> list[tuple[str, str]]:
    """The files of "parquet", and what each is to become, in a folder that is there."""
    folder = Path(order["output"] + ".parquet")
    folder.mkdir()
    return [(str(path), str(folder / path.name)) for path in sorted(Path(order["data"]).iterdir())]


def faulty(order: Order, rows: Rows) -> Rows:
    """The model of "faulty", the sum of a row's values; a row takes two milliseconds, and may not be harmless."""
    with (Path(order["calls"]) / str(os.getpid())).open("ab") as calls:
        calls.write(b".")
    time.sleep(FAULTY_ROW_SECONDS * len(rows))
    if order["fault"] == "kills" and (rows[:, 0] == DEADLY).any():
        os.kill(os.getpid(), signal.SIGKILL)
    if order["fault"] == "raises" and np.isnan(rows).any():
        raise ValueError("a row is not a number")
    return rows.sum(axis=1, keepdims=True, dtype=np.float32)


def ask_by_threads(order: Order, ask: Callable[[Rows], Rows]) -> dict[str, Any]:
    """Have as many threads as there are callers ask for one row after the other, and write all outputs."""
    rows = np.load(order["data"])[: order["requests"]]
    outputs = np.empty((len(rows), *order["output_shape"]), np.float32)
    seconds, failed = [0.0] * len(rows), []

    def work(first: int) -> None:
        try:
            for at in range(first, len(rows), order["callers"]):
                began = time.perf_counter()
                outputs[at : at + 1] = ask(rows[at : at + 1])
                seconds[at] = time.perf_counter() - began
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(order["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    write_rows(order, outputs)
    return {"latencies": seconds}


def prepare(rows: Rows) -> tuple[Rows, Rows]:
    """Preprocessing for "fit" that holds the interpreter, some ten milliseconds a row: examples and their labels."""
    prepared = np.stack([prepare_row(row) for row in rows])
    return prepared, prepared.mean(axis=1)


def prepare_row(row: Rows) -> Rows:
    """The row, with numbers mixed in that only a loop in Python can tell; how long it is stands in the environment."""
    mixed = int(row[0] * _MASK)
    for _ in range(int(os.environ[LOOPS])):
        mixed = (mixed * 1_103_515_245 + 12_345) & _MASK
    return row + np.float32(mixed / _MASK)


def ahead(order: Order, begin: Callable[[int, int], Any], most: int = 8) -> Iterator[Any]:
    """What `begin` has begun for each batch, in order, so many ahead."""
    begun: deque[Any] = deque()
    for first, stop in spans(len(read_rows(order)), order["batch_rows"]):
        begun.append(begin(first, stop))
        if len(begun) == most:
            yield begun.popleft()
    yield from begun


def feed(order: Order, batches: Callable[[], Iterator[tuple[Rows, Rows]]]) -> None:
    """Batches of examples and labels, which other processes have prepared, through `tf.data` into `fit`."""
    _, tf = tensorflow()
    spec = tf.TensorSpec((None, *order["row_shape"]), tf.float32), tf.TensorSpec((None,), tf.float32)
    fit(order, tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(tf.data.AUTOTUNE))


def fit(order: Order, batches: Iterable[Any]) -> None:
    """Train the model for one epoch on batches (or a tf.data.Dataset) of (examples, labels), and write its weights.

    Call `tensorflow` before, to have as many threads as you want.
    """
    import keras

    model = keras.models.load_model(order["model"], compile=False)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
    model.fit(batches, epochs=1, shuffle=False, verbose=0)
    write_rows(order, np.concatenate([weight.ravel() for weight in model.get_weights()]))
