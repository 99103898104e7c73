"""A tf.data.Dataset as a data set; a stand-in has its methods, and one test asks TensorFlow itself."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from producer.sources import from_tf_dataset
from worker_config.errors import InputError


class Shape(tuple[Any, ...]):
    rank = property(len)


class UnknownShape:
    rank = None


class TensorSpec:
    def __init__(self, *shape: int | None) -> None:
        self.shape: Any = Shape(shape)


class RaggedTensorSpec(TensorSpec):
    pass


class Dataset:
    def __init__(self, element_spec: Any, elements: list[Any], cardinality: int = -2) -> None:
        self.element_spec = element_spec
        self._elements = elements
        self._cardinality = cardinality

    def as_numpy_iterator(self) -> Iterator[Any]:
        return iter(self._elements)

    def cardinality(self) -> Any:
        return np.int64(self._cardinality)


def test_elements_are_rows_where_the_first_dimension_is_known() -> None:
    source = from_tf_dataset(Dataset(TensorSpec(2), [np.array([1, 2]), np.array([3, 4])], cardinality=2))

    assert (source.rows, source.label) == (2, "tf.data.Dataset")
    for _ in range(2):  # and again
        (batch,) = source.batches()
        np.testing.assert_array_equal(batch, [[1, 2], [3, 4]])


def test_scalars_are_rows() -> None:
    (batch,) = from_tf_dataset(Dataset(TensorSpec(), [b"a\0", b"b"])).batches()

    assert list(batch) == [b"a\0", b"b"]


def test_elements_are_batches_where_the_first_dimension_is_open() -> None:
    spec = {"a": TensorSpec(None, 2), "b": TensorSpec(None)}
    elements = [{"a": np.zeros((size, 2)), "b": np.zeros(size)} for size in (3, 1)]

    source = from_tf_dataset(Dataset(spec, elements, cardinality=2))

    assert source.rows is None
    assert [len(batch["a"]) for batch in source.batches()] == [3, 1]  # type: ignore[call-overload]


@pytest.mark.parametrize(("batched", "batches"), [(True, 2), (False, 1)])
def test_the_caller_knows_better(batched: bool, batches: int) -> None:
    dataset = Dataset(TensorSpec(4, 2) if batched else TensorSpec(None, 2), [np.zeros((4, 2))] * 2)

    assert len(list(from_tf_dataset(dataset, batched=batched).batches())) == batches


@pytest.mark.parametrize("cardinality", [-1, -2])
def test_an_unknown_cardinality_is_no_number_of_rows(cardinality: int) -> None:
    assert from_tf_dataset(Dataset(TensorSpec(2), [], cardinality)).rows is None


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        (RaggedTensorSpec(None, 2), "elements are RaggedTensor, not plain tensors"),
        ((TensorSpec(2), RaggedTensorSpec(2)), "input '1': elements are RaggedTensor"),
        ({"a": {"b": TensorSpec(2)}}, "input 'a': elements are dict, not plain tensors"),
    ],
)
def test_elements_that_are_no_plain_tensors_are_refused(spec: Any, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        from_tf_dataset(Dataset(spec, []))


def test_elements_of_unknown_rank_need_a_word_of_the_caller() -> None:
    spec = TensorSpec()
    spec.shape = UnknownShape()

    with pytest.raises(InputError, match="say batched=True"):
        from_tf_dataset(Dataset(spec, []))


WITH_TENSORFLOW = """
import numpy as np, tensorflow as tf
from producer.sources import open_source
from worker_config.errors import InputError

images, names = np.arange(20, dtype=np.float32).reshape(10, 2), np.array([b"%d" % i for i in range(10)], object)
data = tf.data.Dataset.from_tensor_slices({"image": images, "name": names})
for given, rows, sizes in ((data, 10, [10]), (data.batch(4), None, [4, 4, 2]), (data.repeat().take(10), 10, [10])):
    source = open_source(given)
    batches = list(source.batches())
    assert source.rows == rows, source.rows
    assert [len(batch["image"]) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches]), images)
    np.testing.assert_array_equal(np.concatenate([batch["name"] for batch in batches]), names)
fixed = data.map(lambda row: row["image"]).batch(5, drop_remainder=True)
assert [len(batch) for batch in open_source(fixed, batched=True).batches()] == [5, 5]
assert open_source(data.repeat()).rows is None
lengths = tf.data.Dataset.range(3).map(tf.range)
sparse = tf.data.Dataset.from_tensors(tf.sparse.from_dense([0, 1]))
for odd, kind in ((lengths.ragged_batch(2), "Ragged"), (sparse, "Sparse")):
    try:
        list(open_source(odd).batches())
    except InputError as error:
        assert kind in str(error), error
    else:
        raise AssertionError(odd)
failing = open_source(tf.data.Dataset.range(3).map(lambda x: tf.debugging.check_numerics(1 / (2 - x), 'odd')))
try:
    list(failing.batches())
except InputError as error:
    assert "row 2 did not come: InvalidArgumentError" in str(error), error
"""


def test_what_tensorflow_gives_is_read() -> None:
    done = subprocess.run([sys.executable, "-c", WITH_TENSORFLOW], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
