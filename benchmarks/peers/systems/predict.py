"""Keras by itself: `model.predict` on all rows; its `fit` is fed by a `PyDataset` with processes."""

from __future__ import annotations

import keras
import work

SETTINGS = {
    "processes": "one; TensorFlow has as many threads in it as there are processors",
    "batch_size": "that of all others, in the place of Keras's 32",
    "fit": "keras.utils.PyDataset(workers=N, use_multiprocessing=True, max_queue_size=10)",
}


def load(order: work.Order) -> keras.Model:
    """The model itself."""
    work.tensorflow(work.processes())
    return keras.models.load_model(order["model"], compile=False)


# user code: begin
def predict(order: work.Order) -> None:
    """All rows at once."""
    model = work.ready(order, lambda: load(order))
    work.write_rows(order, model.predict(work.read_rows(order), batch_size=order["batch_rows"], verbose=0))


# user code: end


class Batches(keras.utils.PyDataset):
    """Batches that Keras's processes prepare."""

    def __init__(self, order: work.Order) -> None:
        super().__init__(workers=work.processes(), use_multiprocessing=True, max_queue_size=10)
        self._rows, self._size = work.read_rows(order), order["batch_rows"]

    def __len__(self) -> int:
        return len(self._rows) // self._size

    def __getitem__(self, index: int) -> tuple[work.Rows, work.Rows]:
        return work.prepare(self._rows[index * self._size : (index + 1) * self._size])


def carry_out(order: work.Order) -> None:
    """Whatever the order asks for."""
    if order["work"] in ("parquet", "faulty"):
        raise work.CannotError("it runs Keras models on arrays alone")
    if order["work"] == "requests":
        raise work.CannotError("`predict` is not for many threads")
    if order["work"] == "fit":
        work.tensorflow()
        work.fit(order, Batches(order))
    else:
        predict(order)


if __name__ == "__main__":
    work.serve(carry_out)
