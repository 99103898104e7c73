"""This module feeds training loops: the outputs of a step as batches, epoch after epoch, in the form of each framework.

Importing it imports neither TensorFlow nor Keras.
"""

from producer.loading.keras_side import py_dataset
from producer.loading.loader import Loader
from producer.loading.specs import ArraySpec
from producer.loading.tensorflow_side import tf_dataset, tf_outputs

__all__ = ["ArraySpec", "Loader", "py_dataset", "tf_dataset", "tf_outputs"]
