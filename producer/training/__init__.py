"""Feeding training loops: the outputs of a step as batches, epoch after epoch, in the form of each framework.

Importing it imports neither TensorFlow nor Keras.
"""

from typing import Any

from producer.client import Client
from producer.training.batch_specs import ArraySpec
from producer.training.loader import Loader
from producer.training.tf_dataset import tf_outputs

__all__ = ["ArraySpec", "Loader", "py_dataset", "tf_dataset", "tf_outputs"]


def tf_dataset(client: Client, step: str, source: object, **options: Any) -> Any:
    """A training loop's batches as a `tf.data.Dataset`, made by workers; `model.fit` takes it as it is.

    Each iteration over it, so each epoch of `fit`, is one of `Loader`. Its element_spec leaves the batch's axis open;
    its cardinality is known where `len` of the loader is. Text is tf.string. What goes wrong is the text of an error of
    TensorFlow's, and a line in the log. An iterator that is deleted cancels its job; after an exception in `fit` that
    may wait for Python's garbage collection, or for `Loader.close`.

    Args:
        client, step, source, options: as for `Loader`.

    Raises:
        CeleriacError: as `Loader`, and as its `element_spec`; ConfigError where TensorFlow is not installed.
    """
    return Loader(client, step, source, **options).tf_dataset()


def py_dataset(
    client: Client, step: str, source: object, *, workers: int = 1, max_queue_size: int = 10, **options: Any
) -> Any:
    """A training loop's batches as a `keras.utils.PyDataset`, made by workers; for every backend of Keras.

    An epoch ends when all batches were given and `on_epoch_end` was called; the next one is another of the
    `Loader`. `close` ends what is under way.

    Args:
        client, step, source, options: as for `Loader`; `epochs` is left out.
        workers, max_queue_size: threads that ask for batches, and batches that wait, as in Keras.

    Raises:
        CeleriacError: as `Loader`; UsageError where nobody knows how many batches there are, ConfigError where Keras is
            not installed.
    """
    return Loader(client, step, source, **options).py_dataset(workers=workers, max_queue_size=max_queue_size)
