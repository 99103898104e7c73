"""A tf.data.Dataset as a data set; a stand-in has its methods, and one test asks TensorFlow itself."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from producer.job.chunk_feeds import BatchFeed
from producer.sources import from_tf_dataset
from tests.waiting import wait_until
from worker_config.errors import InputError, UsageError


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


def test_a_part_of_each_element_is_taken_and_said() -> None:
    pairs = [(np.array([1, 2]), 0), (np.array([3, 4]), 1)]
    source = from_tf_dataset(Dataset((TensorSpec(2), TensorSpec()), pairs), features=0)

    assert source.label == "tf.data.Dataset (part 0 of each element)"
    (batch,) = source.batches()
    np.testing.assert_array_equal(batch, [[1, 2], [3, 4]])
    nested = Dataset(({"a": TensorSpec(2)}, TensorSpec()), [({"a": np.array([1, 2])}, 0)])
    assert list(next(from_tf_dataset(nested, features=0).batches())) == ["a"]
    with pytest.raises(InputError, match=r"input '0': elements are dict, .*; its elements are tuples of 2; .*=0"):
        from_tf_dataset(nested)
    for features, parts in ((2, r"\[0, 1\]"), ("x", r"\[0, 1\]")):
        with pytest.raises(UsageError, match=f"features is {features!r}, its elements have the parts {parts}"):
            from_tf_dataset(nested, features=features)


@pytest.mark.parametrize(
    ("spec", "element", "asked"),
    [
        ((TensorSpec(None, 2), TensorSpec(None)), (np.zeros((3, 2)), np.zeros(3)), r"are \(x, y\), give .*features=0"),
        (TensorSpec(3, 2), np.zeros((3, 2)), "if these are batches of 3, say batched=True"),
    ],
)
def test_rows_that_no_model_takes_are_told_what_they_may_be(spec: Any, element: Any, asked: str) -> None:
    def refuse(rows: Any) -> None:
        raise InputError("model m: the data set does not fit")

    feed = BatchFeed(from_tf_dataset(Dataset(spec, [element])), check=refuse, blank={})
    wait_until(lambda: feed.next_chunk(1) is None and feed._error, "it is refused")
    with pytest.raises(InputError, match=rf"does not fit; .*{asked}"):
        feed.exhausted()


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
import logging, types
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
told = []
logging.getLogger("producer").addHandler(types.SimpleNamespace(handle=lambda r: told.append(r.getMessage()), level=0))
for size, sizes, words in ((5, [5, 5], []), (4, [4, 4], ["its last 2 rows are left out by drop_remainder=True"])):
    fixed = data.map(lambda row: row["image"]).batch(size, drop_remainder=True)
    parallel = data.batch(size, drop_remainder=True, num_parallel_calls=2)
    for given in (fixed, fixed.prefetch(2).map(lambda x: x), parallel):
        told.clear()
        source = open_source(given)
        assert [len(batch["image"] if isinstance(batch, dict) else batch) for batch in source.batches()] == sizes
        assert [one.split("; ")[0].split(": ")[1] for one in told] == words, told
    assert open_source(fixed, batched=False).rows == len(sizes)
open_source(data.filter(lambda row: True).batch(4, drop_remainder=True))
assert "up to 3 rows at its end may be left out" in told[-1], told
assert next(open_source(fixed.unbatch().map(lambda x: tf.zeros(4))).batches()).shape == (8, 4)
assert open_source(data.repeat()).rows is None
pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(10))).batch(4, drop_remainder=True)
assert open_source(pairs).hint.endswith("give producer.sources.from_tf_dataset(data, features=0), which takes x")
told.clear()
taken = open_source(pairs, features=0)
np.testing.assert_array_equal(np.concatenate(list(taken.batches())), images[:8])
assert (taken.hint, len(told)) == ("", 1) and "its last 2 rows are left out by drop_remainder=True" in told[0], told
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
