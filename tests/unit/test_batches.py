"""A chunk through a model in batches of one shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.batches import BatchCounts, BatchSize, run_batches, run_bearable
from tasks.models.program import batch_rows_of
from tasks.models.user_functions import run_function
from tasks.protocol.records import ModelInfo, TensorSpec
from tasks.protocol.signature import Arrays
from worker_config.errors import ConfigError, ModelError
from worker_config.manifest import ModelEntry


@given(rows=st.integers(0, 40), batch_rows=st.integers(1, 17))
def test_every_batch_has_the_same_shape_and_every_row_its_own_output(rows: int, batch_rows: int) -> None:
    shapes = set()

    def model(batch: Arrays) -> Arrays:
        shapes.add(batch["x"].shape)
        return {"double": batch["x"] * 2, "sum": batch["x"].sum(axis=1)}

    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    outputs = run_batches(model, {"x": x}, batch_rows, "m")
    assert shapes == {(batch_rows, 3)}
    np.testing.assert_array_equal(outputs["double"], x * 2)
    np.testing.assert_array_equal(outputs["sum"], x.sum(axis=1))


def test_zero_rows_of_strings_can_be_padded() -> None:
    outputs = run_batches(lambda batch: {"same": batch["x"]}, {"x": np.empty((0,), object)}, 4, "m")
    assert outputs["same"].shape == (0,)


@pytest.mark.parametrize("lost", [lambda x: x[1:], lambda x: np.float32(1), lambda x: np.repeat(x, 2)])
def test_a_model_that_loses_or_adds_rows_is_an_error_with_its_name(lost) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=r"model m: output 'y' .* batch of 4 rows"):
        run_batches(lambda batch: {"y": np.asarray(lost(batch["x"]))}, {"x": np.ones(4)}, 4, "m")


def test_an_output_of_no_row_is_told_with_its_remedy() -> None:
    with pytest.raises(ModelError, match=r"'y' has 3 rows for a batch of 4 rows; name the others in outputs"):
        run_batches(lambda batch: {"x": batch["x"], "y": np.ones(3)}, {"x": np.ones(4)}, 4, "m")


def seen_by(x: np.ndarray, size: BatchSize) -> list[int]:  # type: ignore[type-arg]
    """The numbers of rows of a model's calls, whose outputs are right."""
    counts = []

    def model(batch: Arrays) -> Arrays:
        counts.append(len(batch["x"]))
        return {"same": batch["x"]}

    np.testing.assert_array_equal(run_bearable(model, {"x": x}, size, "m")["same"], x)
    return counts


@pytest.mark.parametrize(("row_bytes", "calls"), [(1024, [64]), (2048, [32]), (3000, [21]), (70_000, [1, 1, 1])])
def test_a_batch_has_no_more_bytes_than_it_may_and_a_larger_row_goes_alone(row_bytes: int, calls: list[int]) -> None:
    size = BatchSize(64, limit_bytes=2**16, remember=pytest.fail)
    assert seen_by(np.ones((3, row_bytes), np.uint8), size) == calls
    assert size.rows == 64  # for rows of another size


def test_text_counts_by_its_longest_value() -> None:
    texts = np.array([b"a", b"b" * 10_000, b"c"], object)
    assert seen_by(texts, BatchSize(64, limit_bytes=2**16)) == [6]
    assert seen_by(texts[[0, 2]], BatchSize(64, limit_bytes=2**16)) == [64]


def test_rows_that_depend_on_their_batch_have_all_of_it() -> None:
    assert seen_by(np.ones((3, 70_000), np.uint8), BatchSize(4, limit_bytes=2**16, fixed=True)) == [4]


def test_the_rows_of_a_batch_follow_from_what_is_known_of_a_row() -> None:
    large, free = TensorSpec("large", "float32", (None, 4 * 2**20)), TensorSpec("free", "float32", (None, None, 3))
    specs = [large, free, TensorSpec("text", "string", (None,))]
    assert batch_rows_of(specs[1:], ModelEntry("m")) == 64
    assert batch_rows_of(specs, ModelEntry("m")) == 16
    assert batch_rows_of(specs, ModelEntry("m", batch_rows=10)) == 10
    assert batch_rows_of(specs, ModelEntry("m", batch_mib=1)) == 1
    assert batch_rows_of([TensorSpec("x", "float32", (128, 2**20))], ModelEntry("m")) == 128
    with pytest.raises(ConfigError, match=r"batch_rows is 64, .* 16,777,216 bytes .* of 1,024 MiB, and batch_mib"):
        batch_rows_of(specs, ModelEntry("m", independent_rows=False))


def test_a_function_is_given_the_rows_that_there_are() -> None:
    info = ModelInfo("m", "d", 4, [], [], 0.0, 0, function="f:f")
    counts = []

    def function(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        counts.append(len(rows))
        return rows + 1

    outputs = run_function(function, np.arange(10), info, 4)
    np.testing.assert_array_equal(outputs[""], np.arange(1, 11))
    assert counts == [4, 4, 2]
    done = BatchCounts()
    done.add(10, 4, padded=False)
    done.add(10, 4, padded=True)
    assert done == {"batches": 6, "batch_rows": 20, "batch_places": 22}
