"""Batches as a `tf.data.Dataset`: what `fit` makes of them, how they are told, and what is left when `fit` ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from producer import Client, Loader, tf_dataset, tf_outputs
from tests.feeding import ROWS, WIDTH, check_nothing_left, feeding, job_threads, numbered_rows, pairs_of, small_model
from tests.models import keras_may_warn
from tests.systems import System
from worker_config.errors import UnknownLengthError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed, but will be ignored"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
]

DATA = numbered_rows()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with feeding(tmp_path_factory.mktemp("s")) as system:
        yield system


def numbers_of(dataset: Any) -> list[list[int]]:
    return [label.numpy().tolist() for _, label in dataset]


@keras_may_warn()
def test_fit_gives_the_weights_that_the_same_batches_from_memory_give(client: Client) -> None:
    import tensorflow as tf

    wanted = {"batch_rows": 8, "shuffle": True, "seed": 7}
    dataset = tf_dataset(client, "pairs", DATA, **wanted)
    spec = (tf.TensorSpec((None, WIDTH - 1), tf.float32), tf.TensorSpec((None,), tf.int64))
    assert dataset.element_spec == spec
    assert dataset.cardinality() == 8
    fed, other = small_model(), small_model()
    history = fed.fit(dataset, epochs=4, verbose=0)
    assert len(history.history["loss"]) == 4

    loader = Loader(client, "pairs", DATA, **wanted)
    for epoch in range(4):
        batches = list(loader)
        assert loader.epoch == epoch + 1
        rows = np.concatenate([label for _, label in batches])
        memory = [pairs_of(DATA[rows[at : at + 8]]) for at in range(0, ROWS, 8)]
        from_memory = tf.data.Dataset.from_generator(lambda memory=memory: iter(memory), output_signature=spec)
        # Of unknown length, Keras would count a step more at its end, and Adam looks at that.
        other.fit(from_memory.apply(tf.data.experimental.assert_cardinality(8)), verbose=0)
    for weights, expected in zip(fed.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)


EPOCHS = """
import numpy as np
import psutil
from producer import Client, tf_dataset
from tests.models import keras_may_warn

with keras_may_warn(), Client() as client:
    import keras

    model = keras.Sequential([keras.Input((16384,)), keras.layers.Dense(1)])
    model.compile("sgd", keras.losses.MeanSquaredError())
    rows = np.zeros((200, WIDTH), np.float32)
    dataset = tf_dataset(client, "heavy", rows, batch_rows=16, shuffle=True, ordered=False).map(lambda x: (x, x[:, :1]))
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: print(psutil.Process().memory_full_info().uss))
    model.fit(dataset, epochs=20, callbacks=[told], verbose=0)
"""


def test_memory_of_the_trainer_does_not_grow_with_the_epochs(system: System) -> None:
    used = system.numbers_of(EPOCHS.replace("WIDTH", str(WIDTH)))
    assert len(used) == 20
    assert used[-1] < 1.05 * max(used[:6])


def test_the_length_is_told_where_it_is_known(client: Client) -> None:
    import tensorflow as tf

    def cardinality(**wanted: Any) -> int:
        return int(tf_dataset(client, "pairs", wanted.pop("data", DATA), batch_rows=8, **wanted).cardinality())

    assert cardinality(epochs=3) == 24
    assert cardinality(shard=(0, 7)) == 1
    assert cardinality(epochs=None) == tf.data.INFINITE_CARDINALITY
    assert cardinality(data=iter(DATA)) == tf.data.UNKNOWN_CARDINALITY
    with pytest.raises(UnknownLengthError):
        len(Loader(client, "pairs", iter(DATA), batch_rows=8))
    twice = numbers_of(tf_dataset(client, "pairs", DATA, batch_rows=8, epochs=2))
    assert [row for batch in twice for row in batch] == list(range(ROWS)) * 2
    endless = tf_dataset(client, "pairs", DATA, batch_rows=8, epochs=None)
    assert len(numbers_of(endless.take(20))) == 20


@keras_may_warn()
def test_an_endless_data_set_is_taken_by_steps_and_one_of_unknown_length_to_its_end(
    client: Client, system: System
) -> None:
    model = small_model()
    model.fit(tf_dataset(client, "pairs", DATA, batch_rows=8, epochs=None), steps_per_epoch=8, epochs=3, verbose=0)
    assert model.optimizer.iterations == 3 * 8
    loader = Loader(client, "pairs", iter(DATA), batch_rows=8)
    model.fit(loader.tf_dataset(), verbose=0)
    assert loader.ledger.written == ROWS
    loader.ledger.check()
    check_nothing_left(system)


def test_text_and_small_floats_are_kept(client: Client) -> None:
    import tensorflow as tf

    dataset = tf_dataset(client, "texts", np.array(["a", "bc", "déf"], object), batch_rows=2)
    assert dataset.element_spec == {
        "name": tf.TensorSpec((None,), tf.string),
        "size": tf.TensorSpec((None,), tf.bfloat16),
    }
    batches = list(dataset)
    assert [name.decode() for batch in batches for name in batch["name"].numpy()] == ["A", "BC", "DÉF"]
    assert [float(size) for batch in batches for size in batch["size"].numpy()] == [1, 2, 3]


@keras_may_warn()
def test_what_goes_wrong_is_in_the_error_of_fit(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow as tf

    bad = DATA.copy()
    bad[50, 0] = -1
    dataset = tf_dataset(client, "pairs", bad, batch_rows=8, on_error="raise", chunk_rows=1)
    told = "RowsFailedError: step pairs, epoch 0: row 50 of the data set failed at infer"
    with pytest.raises(tf.errors.OpError, match=told):
        small_model().fit(dataset, verbose=0)
    assert any(told.partition(": ")[2] in record.getMessage() for record in caplog.records)
    given = tf.TensorSpec((None, 4), tf.float16), tf.TensorSpec((None,), tf.int64)
    wrong = tf_dataset(client, "pairs", DATA, batch_rows=8, element_spec=given)
    with pytest.raises(tf.errors.OpError, match=r"rows of float32 \(4,\), earlier ones, or element_spec, had float16"):
        list(wrong)


@pytest.mark.parametrize("end", ["iterator", "fit", "interrupt", "steps"])
@keras_may_warn()
def test_an_end_in_the_middle_leaves_nothing(client: Client, system: System, end: str) -> None:
    import keras

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1 and end == "fit":
                raise ZeroDivisionError
            if batch == 1 and end == "interrupt":
                timer = threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                timer.join()

    dataset = tf_dataset(client, "paced", DATA, batch_rows=2, chunk_rows=1, epochs=None)
    if end == "iterator":
        batches = iter(dataset)
        next(batches)
        assert job_threads()
        del batches
    elif end == "steps":
        small_model().fit(dataset, steps_per_epoch=3, epochs=2, verbose=0)
    else:
        with pytest.raises(ZeroDivisionError if end == "fit" else KeyboardInterrupt):
            small_model().fit(dataset, steps_per_epoch=25, verbose=0, callbacks=[Stop()])
    check_nothing_left(system)


def test_outputs_of_a_job_are_a_data_set(client: Client) -> None:
    import tensorflow as tf

    job = client.submit("pairs", DATA, chunk_rows=7)
    dataset = tf_outputs(job, batch_rows=8)
    assert dataset.cardinality() == 8
    assert numbers_of(dataset) == [list(range(at, min(at + 8, ROWS))) for at in range(0, ROWS, 8)]
    with pytest.raises(tf.errors.OpError, match=f"the outputs of job {job.id} come once, and were taken; call its res"):
        numbers_of(dataset)
    with pytest.raises(UsageError, match="come once, and were taken"):
        tf_outputs(job, batch_rows=8)

    whole = client.submit("pairs", DATA, chunk_rows=7)
    whole.result()
    left = client.attach(client.submit("pairs", DATA, chunk_rows=7, detach=True))
    for many in (tf_outputs(whole, batch_rows=20), tf_outputs(left, batch_rows=20)):
        assert many.cardinality() == 3
        for _ in range(2):
            assert [row for batch in numbers_of(many) for row in batch] == list(range(ROWS))

    bad = DATA.copy()
    bad[5, 0] = -1
    skipped = tf_outputs(client.submit("pairs", bad, chunk_rows=7, on_error="skip"), batch_rows=8)
    assert [len(numbers) for numbers in numbers_of(skipped)] == [8] * 7 + [3]
