"""Batches as a `keras.utils.PyDataset`: each row once in an epoch, in whatever order Keras asks, and however often."""

from __future__ import annotations

import gc
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from producer import Client, Loader, py_dataset
from tests.feeding import (
    ROWS,
    check_nothing_left,
    feeding,
    job_threads,
    numbered_rows,
    pairs_of,
    small_model,
)
from tests.models import keras_may_warn
from tests.systems import System
from tests.waiting import wait_until
from worker_config.errors import RowsFailedError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DATA = numbered_rows()
BATCHES = 15


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with feeding(tmp_path_factory.mktemp("s")) as system:
        yield system


def numbers(batch: Any) -> list[int]:
    assert isinstance(batch, tuple)
    found: list[int] = batch[1].tolist()
    return found


@pytest.mark.parametrize("shuffled", [False, True])
def test_each_row_comes_once_whatever_keras_asks_before_and_twice(client: Client, shuffled: bool) -> None:
    dataset = py_dataset(client, "pairs", DATA, batch_rows=4, shuffle=True, seed=1)
    reference = Loader(client, "pairs", DATA, batch_rows=4, shuffle=True, seed=1)
    assert len(dataset) == dataset.num_batches == BATCHES
    epochs = []
    for epoch in range(2):
        looked_at = [numbers(dataset[index]) for index in range(2)]
        dataset.on_epoch_end()  # as Keras does before the first epoch
        indexes = list(range(BATCHES))
        if shuffled:
            random.Random(epoch).shuffle(indexes)  # noqa: S311
        seen = {index: numbers(dataset[index]) for index in indexes}
        assert [seen[0], seen[1]] == looked_at
        for index in (0, 7, 14):
            assert numbers(dataset[index]) == seen[index], "kept, or made anew"
        dataset.on_epoch_end()
        expected = [numbers(batch) for batch in reference]
        if not shuffled:
            assert [seen[index] for index in range(BATCHES)] == expected
        assert sorted(map(tuple, seen.values())) == sorted(map(tuple, expected))
        epochs.append(expected)
    assert epochs[0] != epochs[1]
    with pytest.raises(IndexError):
        dataset[BATCHES]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
@keras_may_warn()
def test_fit_trains_on_every_row_once_in_each_epoch(
    client: Client, system: System, workers: int, shuffle: bool
) -> None:
    import keras

    dataset = py_dataset(client, "pairs", DATA, batch_rows=4, workers=workers)
    seen: list[list[int]] = []

    class Noting(type(dataset)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            batch = super().__getitem__(index)
            seen.append(numbers(batch))
            return batch

    dataset.__class__ = Noting
    model = small_model()
    model.fit(dataset, epochs=2, shuffle=shuffle, verbose=0)
    rows = [row for batch in seen[2:] for row in batch]  # after the two that show what they look like
    assert sorted(rows) == sorted(2 * list(range(ROWS)))
    assert dataset.loader.ledger.rows == 2 * ROWS, "nothing was made twice"
    check_nothing_left(system)

    if not shuffle:
        other = small_model()
        images, labels = pairs_of(DATA)
        other.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
        for weights, expected in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(weights, expected)
    assert isinstance(dataset, keras.utils.PyDataset)


@keras_may_warn()
def test_steps_go_on_where_the_last_epoch_of_keras_ended(client: Client) -> None:
    dataset = py_dataset(client, "pairs", DATA, batch_rows=4)
    model = small_model()
    model.fit(dataset, steps_per_epoch=5, epochs=3, shuffle=False, verbose=0)
    assert dataset.loader.ledger.rows == ROWS, "three times five steps are one pass"
    model.evaluate(py_dataset(client, "pairs", DATA, batch_rows=4), verbose=0)


@pytest.mark.parametrize("end", ["close", "forgotten"])
@keras_may_warn()
def test_an_end_in_the_middle_leaves_nothing(client: Client, system: System, end: str) -> None:
    import keras

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise ZeroDivisionError

    dataset = py_dataset(client, "paced", DATA, batch_rows=4, chunk_rows=1)
    with pytest.raises(ZeroDivisionError):
        small_model().fit(dataset, verbose=0, callbacks=[Stop()])
    if end == "close":
        dataset.close()
    else:
        del dataset
        gc.collect()
        wait_until(lambda: gc.collect() >= 0 and not job_threads(), "the job has ended")
    check_nothing_left(system)


def test_an_error_ends_the_epoch_and_the_next_one_begins(client: Client) -> None:
    bad = DATA.copy()
    bad[30, 0] = -1
    dataset = py_dataset(client, "pairs", bad, batch_rows=4, on_error="raise", chunk_rows=4)
    for epoch in range(2):
        with pytest.raises(RowsFailedError, match=f"epoch {epoch}: row 30 of the data set failed"):
            list(dataset)
    assert not job_threads()


def test_what_cannot_be_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="nobody knows how many batches of step pairs there will be"):
        py_dataset(client, "pairs", iter(DATA), batch_rows=4)
    with pytest.raises(UsageError, match="leave epochs out"):
        py_dataset(client, "pairs", DATA, batch_rows=4, epochs=2)
    dataset = py_dataset(client, "pairs", DATA, batch_rows=4)
    with pytest.raises(UsageError, match="use_multiprocessing is not for this PyDataset"):
        dataset.use_multiprocessing = True
    with pytest.raises(UsageError, match="cannot go to another process"):
        pickle.dumps(dataset)
