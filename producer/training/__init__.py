"""This module feeds training loops: the outputs of a step as batches, epoch after epoch, in the form of each framework.

Importing it imports neither TensorFlow nor Keras.
"""

from producer.training.batch_specs import ArraySpec
from producer.training.loader import Loader
from producer.training.py_dataset import py_dataset
from producer.training.tf_dataset import tf_dataset, tf_outputs

__all__ = ["ArraySpec", "Loader", "py_dataset", "tf_dataset", "tf_outputs"]
