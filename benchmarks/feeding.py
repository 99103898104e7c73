"""How fast do workers feed `fit()`, where preprocessing is Python that holds the interpreter?

One epoch of a small Keras model over rows of which each takes ten milliseconds of Python, in batches of 32, in order.
Ours has two children. The rivals: `tf.data` with a `py_function` in `map`, as parallel as the interpreter lets it be;
`multiprocessing.Pool` with two processes, which are up before the clock runs, with tasks of a few rows or of a batch,
whichever is faster; and `keras.utils.PyDataset` with two processes, which Keras starts for each fit. All fit the same
model from the same weights, and must end with the same weights to the bit.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.feeding_step import COLUMNS, calibrate
from benchmarks.harness import Arm, check_equal, compare
from benchmarks.peers.systems.work import prepare, prepare_row
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.stage import CHILDREN, ask, folder
from producer import local, tf_dataset

BATCH_ROWS = 32
ROWS, QUICK_ROWS = 1_600, 320
POOL_CHUNKS = (8, BATCH_ROWS)
AIM_MAP, AIM_OTHERS = 1.8, 1.0
_MANIFEST = '[models.prepare]\npreprocess = "benchmarks.peers.systems.work:prepare"\n'

Rows = npt.NDArray[np.float32]


def question(quick: bool) -> bool:
    """Compare them; return whether the machine was quiet."""
    calibrate()
    rows = np.random.default_rng(6).random((QUICK_ROWS if quick else ROWS, COLUMNS), np.float32)
    with multiprocessing.get_context("spawn").Pool(CHILDREN) as pool, folder() as place:
        (place / "models.toml").write_text(_MANIFEST)
        pool.map(prepare_row, rows[:CHILDREN])  # its processes have imported what they need
        with local(models=place / "models.toml", workers=CHILDREN) as client:
            trainer = _Trainer()
            ways: dict[str, Callable[[], Any]] = {
                "workers": lambda: tf_dataset(client, "prepare", rows, batch_rows=BATCH_ROWS),
                "tf.data map": lambda: _mapped(rows),
                **{f"Pool, {chunk} rows": partial(_pooled, pool, rows, chunk) for chunk in POOL_CHUNKS},
                "PyDataset": lambda: _py_dataset(rows),
            }
            check = partial(check_equal, expected=trainer.fit(_batches(*prepare(rows))))
            ours, *rivals = [Arm(name, partial(_fit, trainer, way), check) for name, way in ways.items()]
            comparison = compare(ours, rivals)
    pool_name = comparison.fastest([f"Pool, {chunk} rows" for chunk in POOL_CHUNKS])
    return report_comparison(
        "feeding fit()",
        comparison,
        len(rows),
        {"children": CHILDREN, "batch rows": BATCH_ROWS},
        [
            at_least("workers / tf.data map", comparison.speed_against("tf.data map"), AIM_MAP),
            at_least(f"workers / {pool_name}", comparison.speed_against(pool_name), AIM_OTHERS),
            at_least("workers / PyDataset", comparison.speed_against("PyDataset"), AIM_OTHERS),
            Finding("rows a second", f"{len(rows) / comparison.median_seconds(ours.name):.0f}"),
        ],
        quick=quick,
    )


class _Trainer:
    """A small model that begins each fit with the same weights; it is compiled and traced once."""

    def __init__(self) -> None:
        import keras

        keras.utils.set_random_seed(6)
        self._model = keras.Sequential([keras.layers.Input((COLUMNS,)), keras.layers.Dense(16), keras.layers.Dense(1)])
        self._model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
        self._weights = self._model.get_weights()

    def fit(self, data: Any) -> Rows:
        """The weights after one epoch, in one array."""
        self._model.set_weights(self._weights)
        self._model.fit(data, epochs=1, shuffle=False, verbose=0)
        return np.concatenate([weight.ravel() for weight in self._model.get_weights()])


def _fit(trainer: _Trainer, way: Callable[[], Any]) -> Rows:
    return trainer.fit(way())


def _batches(examples: Rows, labels: Rows) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((examples, labels)).batch(BATCH_ROWS)


def _mapped(rows: Rows) -> Any:
    import tensorflow as tf

    def one(row: Any) -> Any:
        example, label = tf.py_function(_prepare_one, [row], [tf.float32, tf.float32])
        return tf.ensure_shape(example, (COLUMNS,)), tf.ensure_shape(label, ())

    mapped = tf.data.Dataset.from_tensor_slices(rows).map(one, num_parallel_calls=tf.data.AUTOTUNE)
    return mapped.batch(BATCH_ROWS).prefetch(tf.data.AUTOTUNE)


def _prepare_one(row: Any) -> tuple[Rows, Any]:
    examples, labels = prepare(row.numpy()[None])
    return examples[0], labels[0]


def _pooled(pool: Pool, rows: Rows, chunk: int) -> Any:
    import tensorflow as tf

    def batches() -> Iterator[tuple[Rows, Rows]]:
        tasks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
        waiting: list[tuple[Rows, Rows]] = []
        for done in pool.imap(prepare, tasks):
            waiting.append(done)
            if len(waiting) == BATCH_ROWS // chunk:
                yield tuple(map(np.concatenate, zip(*waiting, strict=True)))  # type: ignore[misc]
                waiting.clear()

    spec = tf.TensorSpec((None, COLUMNS), tf.float32), tf.TensorSpec((None,), tf.float32)
    return tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(tf.data.AUTOTUNE)


def _py_dataset(rows: Rows) -> Any:
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(rows) // BATCH_ROWS

        def __getitem__(self, index: int) -> tuple[Rows, Rows]:
            return prepare(rows[index * BATCH_ROWS : (index + 1) * BATCH_ROWS])

    return Batches(workers=CHILDREN, use_multiprocessing=True, max_queue_size=10)


if __name__ == "__main__":
    ask(question, __doc__)
