"""A chunk through a model in batches of one shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.batches import run_batches
from tasks.protocol.signature import Arrays
from worker_config.errors import ModelError


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
