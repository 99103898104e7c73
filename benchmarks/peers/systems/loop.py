"""The bare loop: one process that reads, computes and writes, batch after batch.

Its `fit` is fed by `tf.data`, whose `map` runs Python as a `py_function`, as parallel as the interpreter lets it be.
"""

from __future__ import annotations

from typing import Any

import work

SETTINGS = {
    "processes": "one; TensorFlow has as many threads in it as there are processors",
    "requests": "as many threads for operations as there are processors, one for each of these",
    "fit": "tf.data: map(py_function, num_parallel_calls=AUTOTUNE), batch, prefetch(AUTOTUNE)",
}


# user code: begin
def predict(order: work.Order) -> None:
    """All rows, in batches."""
    call = work.ready(order, lambda: work.load_model(order, threads=work.processes()))
    rows = work.read_rows(order)
    outputs = work.create_output(order, len(rows))
    for start, stop in work.spans(len(rows), order["batch_rows"]):
        outputs[start:stop] = call(rows[start:stop])


# user code: end


def feed(order: work.Order) -> None:
    """Rows through `prepare` into `fit`."""
    _, tf = work.tensorflow()
    rows = work.read_rows(order)
    columns = rows.shape[1]

    def one(row: Any) -> Any:
        example, label = tf.py_function(prepare_one, [row], [tf.float32, tf.float32])
        return tf.ensure_shape(example, (columns,)), tf.ensure_shape(label, ())

    def prepare_one(row: Any) -> Any:
        examples, labels = work.prepare(row.numpy()[None])
        return examples[0], labels[0]

    mapped = tf.data.Dataset.from_tensor_slices(rows).map(one, num_parallel_calls=tf.data.AUTOTUNE)
    work.fit(order, mapped.batch(order["batch_rows"]).prefetch(tf.data.AUTOTUNE))


def carry_out(order: work.Order) -> Any:
    """Whatever the order asks for."""
    if order["work"] == "parquet":
        for path, output in work.files_of(order):
            work.convert_file(path, output)
        return None
    if order["work"] == "requests":
        call = work.ready(order, lambda: work.load_model(order, calls=work.processes()))
        return work.ask_by_threads(order, call)
    return (feed if order["work"] == "fit" else predict)(order)


if __name__ == "__main__":
    work.serve(carry_out)
