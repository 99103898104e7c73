"""The rival of `requests`: what people write themselves, a Celery task that holds the model, and Redis for results.

`PLAIN_URL=... PLAIN_MODEL=digits.keras celery -A benchmarks.plain_task worker` runs it, with Celery's own settings but
for msgpack, which carries an array's bytes as they are, where JSON would make numbers of them.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from celery import Celery
from celery.signals import worker_process_init

TASK = "plain.predict"
MODELS: dict[str, Any] = {}

app = Celery("plain", broker=os.environ.get("PLAIN_URL"), backend=os.environ.get("PLAIN_URL"))
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack", "json"],
    task_default_queue="plain",
    broker_transport_options={"global_keyprefix": "plain:"},
    result_backend_transport_options={"global_keyprefix": "plain:"},
    worker_proc_alive_timeout=300.0,
    worker_send_task_events=False,
)


@worker_process_init.connect(weak=False)
def load(**_: object) -> None:
    """Load the model into this child, as a graph of any number of rows."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(os.environ["PLAIN_MODEL"], compile=False)
    signature = tf.TensorSpec((None, *model.input_shape[1:]), model.input_dtype)
    call = tf.function(lambda rows: model(rows, training=False), input_signature=[signature]).get_concrete_function()
    call(tf.zeros((1, *model.input_shape[1:]), model.input_dtype))
    MODELS["call"] = call


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def predict(data: bytes, shape: list[int]) -> tuple[bytes, tuple[int, ...]]:
    """What the model makes of the rows, float32 both."""
    import tensorflow as tf

    outputs: np.ndarray = MODELS["call"](tf.constant(np.frombuffer(data, np.float32).reshape(shape))).numpy()
    return outputs.tobytes(), outputs.shape


def ask(rows: np.ndarray) -> np.ndarray:
    """Send the rows and wait for the outputs."""
    data, shape = predict.apply_async([rows.tobytes(), rows.shape]).get(timeout=60)
    return np.frombuffer(data, np.float32).reshape(shape)
